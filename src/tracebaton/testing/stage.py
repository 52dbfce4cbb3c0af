"""
Test an application whole, in one process and on nothing but what is in the base install.

    async with Stage(app) as stage:
        answer = await stage.http.post("/v1/ai/chat", json={"message": "hi"})
        await stage.run_until_idle()
        assert_one_trace(stage.spans)

The stage is real: the API is called over ASGI, the message travels through an SQS on loopback, the
worker receives it, and what both tell is captured instead of sent. What goes wrong on the way is
yours to ask for:

    stage.faults.add(Fault(effect="duplicate", first=1))
"""

import asyncio
import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import httpx
from opentelemetry import propagate, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

from tracebaton.application import Tracebaton
from tracebaton.errors import TracebatonError
from tracebaton.local import Fault, Faults, LocalSqs
from tracebaton.logs import log_fields
from tracebaton.problems import Outcome
from tracebaton.propagation import Propagator
from tracebaton.settings import Settings
from tracebaton.tasks import Task
from tracebaton.telemetry.enrichment import SpanPipeline
from tracebaton.telemetry.pipeline import Telemetry
from tracebaton.telemetry.sampling import HeadSampler

__all__ = ["CapturedEvent", "Fault", "Stage", "assert_one_trace"]

_SERVICE = "tracebaton-test"
_QUEUE, _DLQ, _QUARANTINE = "tasks", "tasks-dlq", "tasks-quarantine"


@dataclass(frozen=True, slots=True)
class CapturedEvent:
    """
    A failure that would be a Sentry event.

    Attributes:
        exception: The original.
        outcome: What the one error mapping says of it.
        tags: Tags beside those of the request store.
        failures: The attempts that failed before.
    """

    exception: BaseException
    outcome: Outcome
    tags: Mapping[str, str]
    failures: Sequence[Mapping[str, Any]]
    event_id: str = field(default_factory=lambda: uuid4().hex)


class _Events(list[CapturedEvent]):
    """The reporter of a stage."""

    def isolated(self) -> AbstractContextManager[None]:
        return nullcontext()

    def report(
        self,
        exc: BaseException,
        outcome: Outcome,
        *,
        mechanism: str,
        tags: Mapping[str, str],
        failures: Sequence[Mapping[str, Any]] = (),
    ) -> str | None:
        known = next((event for event in self if event.exception is exc), None)
        if known is None:
            known = CapturedEvent(exc, outcome, dict(tags), failures)
            self.append(known)
        return known.event_id


class _Spans(SpanProcessor):
    """Keeps ended spans while its stage stands."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []
        self.active = True

    def on_end(self, span: ReadableSpan) -> None:
        if self.active:
            self.spans.append(span)


class _Lines(logging.Handler):
    """Keeps the events of the one log schema."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(log_fields(record, service=_SERVICE))


class Stage:
    """
    An application with a queue, a store and captured telemetry around it.

    Attributes:
        http: An ``httpx.AsyncClient`` of the API.
        sqs: The SQS on loopback; its ``stats()`` say what became of every message.
        spans: Every span that ended, in that order.
        events: Every failure that would be a Sentry event.
        logs: Every log event at info and above, as a mapping.
    """

    http: httpx.AsyncClient
    sqs: LocalSqs

    def __init__(self, app: Tracebaton, *, env: Mapping[str, str] | None = None) -> None:
        """
        Prepare a stage for *app*.

        Args:
            env: Settings beside the stage's own, by variable name.
        """
        self._app = app
        self._env = dict(env or {})
        self._stack = AsyncExitStack()
        self._captured = _Spans()
        self._lines = _Lines()
        self.events: list[CapturedEvent] = _Events()

    @property
    def spans(self) -> list[ReadableSpan]:
        """Return the ended spans."""
        return self._captured.spans

    @property
    def faults(self) -> Faults:
        """Return the faults of the queue: `add()` one to see what the application makes of it."""
        return self.sqs.faults

    @property
    def logs(self) -> list[dict[str, Any]]:
        """Return the log events."""
        return self._lines.lines

    async def __aenter__(self) -> Self:
        """Start the queue and the API."""
        async with AsyncExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            self.sqs = await stack.enter_async_context(LocalSqs())
            settings = self._settings(Path(folder))
            _create_queues(self.sqs, settings)
            stack.enter_context(_Listening(self._captured, self._lines))
            stack.enter_context(self._app.staged(settings, self._telemetry()))
            await stack.enter_async_context(self._app.asgi.router.lifespan_context(self._app.asgi))
            transport = httpx.ASGITransport(self._app.asgi, raise_app_exceptions=False)
            self.http = await stack.enter_async_context(
                httpx.AsyncClient(transport=transport, base_url="http://localhost")
            )
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        stack: TracebackType | None,
    ) -> None:
        """Stop everything."""
        await self._stack.aclose()

    async def run_until_idle(self, *, seconds: float = 10.0) -> None:
        """
        Run the worker until the queue is empty and nothing is in hand.

        Raises:
            TracebatonError: There is still work after *seconds*.
        """
        worker = self._app.worker(wait_seconds=0)  # a parked poll would hold up the stop
        await worker.prepare()
        running = asyncio.create_task(worker.run())
        deadline = time.monotonic() + seconds
        try:
            while not self._idle():
                if running.done():
                    break
                if time.monotonic() > deadline:
                    left = self.sqs.stats()[_QUEUE]
                    raise TracebatonError(f"The worker is not idle after {seconds} s: {left}.")
                await asyncio.sleep(0.01)
        finally:
            worker.stop()
            await running

    async def task(self, task_id: str) -> Task:
        """
        Return the task as the store has it.

        Raises:
            TracebatonError: There is none.
        """
        store = self._app.runtime("api").store
        task = await store.get(task_id) if store else None
        if task is None:
            raise TracebatonError(f"There is no task {task_id}.")
        return task

    def _idle(self) -> bool:
        queue = self.sqs.stats()[_QUEUE]
        return queue["visible"] == queue["in_flight"] == queue["delayed"] == 0

    def _settings(self, folder: Path) -> Settings:
        own = {
            "AWS_ENDPOINT_URL_SQS": self.sqs.url,
            "TRACEBATON_QUEUE_URL": self.sqs.queue_url(_QUEUE),
            "TRACEBATON_DLQ_URL": self.sqs.queue_url(_DLQ),
            "TRACEBATON_QUARANTINE_URL": self.sqs.queue_url(_QUARANTINE),
            "TRACEBATON_STORE": f"sqlite:///{folder / 'tasks.db'}",
            "TRACEBATON_RETRY_BASE_SECONDS": "0.01",
            "TRACEBATON_RETRY_CAP_SECONDS": "0.01",
        }
        return Settings.load(own | self._env)

    def _telemetry(self) -> Telemetry:
        """Return telemetry that keeps everything, on the process's own provider if it has one."""
        provider = trace.get_tracer_provider()
        if not isinstance(provider, TracerProvider):
            provider = TracerProvider(
                sampler=HeadSampler(1.0),  # the product's: a caller's flag decides nothing
                resource=Resource.create({"service.name": _SERVICE}),
            )
            provider.add_span_processor(SpanPipeline([]))
            trace.set_tracer_provider(provider)
        provider.add_span_processor(self._captured)
        propagator = Propagator()
        propagate.set_global_textmap(propagator)
        telemetry = Telemetry(
            tracer_provider=provider,
            propagator=propagator,
            resource=Resource.create({"service.name": _SERVICE}),
        )
        telemetry.reporter = self.events  # type: ignore[assignment]  # a list that reports
        return telemetry


class _Listening(AbstractContextManager[object]):
    """Takes log records in while the stage stands, and ends the capture of spans with it."""

    def __init__(self, spans: _Spans, lines: _Lines) -> None:
        self._spans = spans
        self._lines = lines
        self._level = logging.WARNING

    def __enter__(self) -> object:
        root = logging.getLogger()
        self._level = root.level
        root.setLevel(min(root.level or logging.INFO, logging.INFO))
        root.addHandler(self._lines)
        return self

    def __exit__(self, *error: object) -> None:
        root = logging.getLogger()
        root.removeHandler(self._lines)
        root.setLevel(self._level)
        self._spans.active = False


def _create_queues(sqs: LocalSqs, settings: Settings) -> None:
    sqs.create_queue(_DLQ)
    sqs.create_queue(_QUARANTINE)
    target = f"arn:aws:sqs:us-east-1:000000000000:{_DLQ}"
    policy = {"deadLetterTargetArn": target, "maxReceiveCount": str(settings.max_attempts)}
    sqs.create_queue(_QUEUE, {"RedrivePolicy": json.dumps(policy)})


def assert_one_trace(
    spans: Iterable[ReadableSpan], *, where: Callable[[ReadableSpan], bool] | None = None
) -> str:
    """
    Check that *spans* are one whole trace, and return its id.

    One trace id, one root, every parent among them: what a person sees as one waterfall.

    Args:
        where: Look at those spans only.

    Raises:
        AssertionError: Says what is wrong, span by span.
    """
    chosen = [span for span in spans if where is None or where(span)]
    if not chosen:
        raise AssertionError("there is no span at all")
    ids = {span.context.span_id for span in chosen if span.context}
    traces = {span.context.trace_id for span in chosen if span.context}
    roots = [span for span in chosen if span.parent is None or span.parent.span_id not in ids]
    if len(traces) == 1 and len(roots) == 1:
        return trace.format_trace_id(traces.pop())
    raise AssertionError(
        f"{len(traces)} traces and {len(roots)} roots instead of one:\n"
        + "\n".join(_described(span, ids) for span in chosen)
    )


def _described(span: ReadableSpan, ids: set[int]) -> str:
    context = span.context
    trace_id = trace.format_trace_id(context.trace_id) if context else "none"
    parent = span.parent
    if parent is None:
        above = "no parent"
    else:
        missing = "" if parent.span_id in ids else " (missing)"
        above = f"parent {trace.format_span_id(parent.span_id)}{missing}"
    return f"  {trace_id} {span.name}: {above}"

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
import tempfile
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from opentelemetry import propagate, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

from tracebaton.application import Tracebaton
from tracebaton.errors import TracebatonError
from tracebaton.local import Faults, LocalSqs
from tracebaton.propagation import Propagator
from tracebaton.settings import Settings
from tracebaton.tasks import Task
from tracebaton.telemetry.enrichment import SpanPipeline
from tracebaton.telemetry.pipeline import Telemetry
from tracebaton.telemetry.sampling import HeadSampler
from tracebaton.testing.captured import SERVICE, CapturedEvent, Events, Lines, Listening, Spans

__all__ = ["Stage"]

_QUEUE, _DLQ, _QUARANTINE = "tasks", "tasks-dlq", "tasks-quarantine"


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
        self._captured = Spans()
        self._lines = Lines()
        self.events: list[CapturedEvent] = Events()

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
            stack.enter_context(Listening(self._captured, self._lines))
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
                resource=Resource.create({"service.name": SERVICE}),
            )
            provider.add_span_processor(SpanPipeline([]))
            trace.set_tracer_provider(provider)
        provider.add_span_processor(self._captured)
        propagator = Propagator()
        propagate.set_global_textmap(propagator)
        telemetry = Telemetry(
            tracer_provider=provider,
            propagator=propagator,
            resource=Resource.create({"service.name": SERVICE}),
        )
        telemetry.reporter = self.events  # type: ignore[assignment]  # a list that reports
        return telemetry


def _create_queues(sqs: LocalSqs, settings: Settings) -> None:
    sqs.create_queue(_DLQ)
    sqs.create_queue(_QUARANTINE)
    target = f"arn:aws:sqs:us-east-1:000000000000:{_DLQ}"
    policy = {"deadLetterTargetArn": target, "maxReceiveCount": str(settings.max_attempts)}
    sqs.create_queue(_QUEUE, {"RedrivePolicy": json.dumps(policy)})

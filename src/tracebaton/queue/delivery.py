"""
One delivery of one message, from its body to a verdict.

In this order: decode, extract, attach, ``process`` span, start in the task store, handler under its
deadline, outcome. The outcome goes to the task store, the log, the span and Sentry by the one
mapping of ``problems.py``, and says what happens to the message.
"""

import asyncio
import inspect
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Tracer
from pydantic import BaseModel, ValidationError
from pydantic_core import to_jsonable_python

from tracebaton import context, problems
from tracebaton.context import RequestStore
from tracebaton.errors import (
    HandlerTimeout,
    InvalidTaskData,
    MessageError,
    Reject,
    RetryLater,
    TracebatonError,
    UnknownSchemaVersion,
)
from tracebaton.problems import Outcome, Reporter
from tracebaton.propagation import Propagator
from tracebaton.queue.event import TaskEvent, decode
from tracebaton.queue.lease import Lease
from tracebaton.queue.retry import RetryPolicy
from tracebaton.queue.sqs import Received
from tracebaton.queue.threads import HandlerThreads
from tracebaton.semconv import (
    AWS_SQS,
    AWS_TRACE_HEADER,
    BAGGAGE,
    EVENT_TASK_DEAD,
    EVENT_TASK_FAILED,
    EVENT_TASK_RETRIED,
    EVENT_TASK_STARTED,
    EVENT_TASK_SUCCEEDED,
    MESSAGING_BODY_SIZE,
    MESSAGING_DESTINATION,
    MESSAGING_MESSAGE_ID,
    MESSAGING_OPERATION_NAME,
    MESSAGING_OPERATION_TYPE,
    MESSAGING_SYSTEM,
    QUEUE_BACKLOG_MS,
    QUEUE_DELAY_MS,
    QUEUE_PREFETCH_MS,
    RECEIVE_COUNT,
    TASK_ID,
    TASK_STATUS,
    TASK_TYPE,
    TRACEPARENT,
    TRACESTATE,
)
from tracebaton.tasks import ENDED, Registry, TaskStatus, TaskStore, TaskType
from tracebaton.tasks.task import rfc3339

__all__ = ["Delivery", "Verdict"]

_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

_log = logging.getLogger("tracebaton.worker")


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    What happens to the message.

    Attributes:
        action: Delete it, make it visible again after *delay* seconds, or leave it alone.
    """

    action: Literal["delete", "retry", "leave"]
    delay: int = 0


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What the steps of one delivery share."""

    event: TaskEvent
    message: Received
    span: Span

    @property
    def number(self) -> int:
        return self.message.receive_count


class Delivery:
    """Runs the handler that a message asks for and says what to do with the message."""

    def __init__(
        self,
        *,
        queue_name: str,
        registry: Registry,
        store: TaskStore | None,
        tracer: Tracer,
        propagator: Propagator,
        reporter: Reporter,
        policy: RetryPolicy,
        threads: HandlerThreads,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._queue_name = queue_name
        self._registry = registry
        self._store = store
        self._tracer = tracer
        self._propagator = propagator
        self._reporter = reporter
        self._policy = policy
        self._threads = threads
        self._now = now
        #: False while messages come whose tasks are in another store than ours.
        self.store_matches = True

    async def run(self, lease: Lease) -> Verdict:
        """Handle the message of *lease*; cancelling this discards the handler's result."""
        message = lease.message
        try:
            event: TaskEvent | None = decode(message.body)
        except MessageError as exc:
            event, unreadable = None, exc
        extracted = self._propagator.extract_message(
            _carrier(event, message),
            aws_trace_header=message.system.get(AWS_TRACE_HEADER),
            own=event is not None,
        )
        store = _store(event, extracted.fields, message)
        with (
            self._reporter.isolated(),
            context.entered(store, extracted.context),
            self._tracer.start_as_current_span(
                f"process {self._queue_name}",
                kind=SpanKind.CONSUMER,
                attributes=self._attributes(event, lease),
                record_exception=False,
                set_status_on_exception=False,
            ) as span,
        ):
            ids = span.get_span_context()
            context.bind_trace(trace.format_trace_id(ids.trace_id) if ids.is_valid else None)
            if event is None:
                return self._unreadable(unreadable, message, span)
            return await self._deliver(_Attempt(event, message, span))

    def _attributes(self, event: TaskEvent | None, lease: Lease) -> dict[str, Any]:
        message = lease.message
        known = {
            MESSAGING_SYSTEM: AWS_SQS,
            MESSAGING_DESTINATION: self._queue_name,
            MESSAGING_OPERATION_NAME: "process",
            MESSAGING_OPERATION_TYPE: "process",
            MESSAGING_MESSAGE_ID: message.message_id,
            MESSAGING_BODY_SIZE: len(message.body),
            RECEIVE_COUNT: message.receive_count,
        }
        task = {} if event is None else {TASK_TYPE: event.type, TASK_ID: event.id}
        prefetch = time.monotonic() - lease.received_at
        waited = _waited(event, message, received=self._now() - prefetch)
        return known | task | waited | {QUEUE_PREFETCH_MS: _ms(prefetch)}

    async def _deliver(self, attempt: _Attempt) -> Verdict:
        event = attempt.event
        try:
            refused = await self._start(attempt)
            if refused is not None:
                return refused
            kind = self._registry[event.type]
            data = _validated(kind, event)
            _log.info(EVENT_TASK_STARTED, extra={"fields": {"task_type": event.type}})
            started = time.perf_counter()
            result = to_jsonable_python(await self._call(kind, data))
            return await self._succeeded(attempt, result, time.perf_counter() - started)
        except Exception as exc:  # the worker's edge: whatever a handler raises becomes an outcome
            return await self._failed(attempt, exc)

    async def _start(self, attempt: _Attempt) -> Verdict | None:
        if self._store is None:
            return None
        task = await self._store.start(attempt.event.id, attempt=attempt.number)
        self.store_matches = task is not None
        if task is None:
            _log.error(
                "task.unknown",
                extra={"fields": {"remedy": "API and worker need the same TRACEBATON_STORE"}},
            )
            return Verdict("retry", self._policy.delay(attempt.number))
        if task.status in ENDED:
            attempt.span.set_attribute(TASK_STATUS, task.status.value)
            _log.info("task.duplicate", extra={"fields": {"status": task.status.value}})
            return Verdict("delete")
        return None

    async def _call(self, kind: TaskType, data: BaseModel) -> Any:
        limit = asyncio.timeout(kind.deadline)
        try:
            async with limit:
                if inspect.iscoroutinefunction(kind.handler):
                    return await kind.handler(data)
                return await self._threads.run(lambda: kind.handler(data))
        except asyncio.CancelledError as exc:
            task = asyncio.current_task()
            if task is None or task.cancelling():  # the lease is gone, or the worker stops
                raise
            raise RuntimeError(f"The handler of {kind.name!r} cancelled itself.") from exc
        except TimeoutError as exc:
            if not limit.expired():  # the handler's own
                raise
            raise HandlerTimeout(
                f"The handler of {kind.name!r} ran longer than its deadline of {kind.deadline} s."
            ) from exc

    async def _succeeded(self, attempt: _Attempt, result: Any, seconds: float) -> Verdict:
        status = TaskStatus.SUCCEEDED
        if not await self._finish(attempt, status, result=result):
            return await self._superseded(attempt)
        attempt.span.set_attribute(TASK_STATUS, status.value)
        fields = {"task_type": attempt.event.type, "duration_ms": _ms(seconds)}
        _log.info(EVENT_TASK_SUCCEEDED, extra={"fields": fields})
        return Verdict("delete")

    async def _superseded(self, attempt: _Attempt) -> Verdict:
        """Discard a result that came too late: the task ended, or a newer delivery runs it."""
        task = await self._store.get(attempt.event.id) if self._store else None
        _log.warning("task.superseded", extra={"fields": {"task_type": attempt.event.type}})
        return Verdict("delete" if task is not None and task.status in ENDED else "leave")

    async def _finish(
        self,
        attempt: _Attempt,
        status: TaskStatus,
        *,
        result: Any = None,
        error: Mapping[str, Any] | None = None,
    ) -> bool:
        if self._store is None:
            return True
        return await self._store.finish(
            attempt.event.id, status, attempt=attempt.number, result=result, error=error
        )

    async def _failed(self, attempt: _Attempt, exc: Exception) -> Verdict:
        outcome = problems.outcome_of(exc)
        if not outcome.retryable:
            return await self._end(attempt, exc, outcome, TaskStatus.FAILED)
        if self._policy.is_last(attempt.number):
            return await self._end(attempt, exc, outcome, TaskStatus.DEAD)
        return await self._retry(attempt, exc, outcome)

    async def _retry(self, attempt: _Attempt, exc: Exception, outcome: Outcome) -> Verdict:
        asked = exc.delay if isinstance(exc, RetryLater) else None
        delay = self._policy.delay(attempt.number) if asked is None else max(0, round(asked))
        failure: dict[str, str | int | None] = {
            "attempt": attempt.number,
            "code": outcome.code,
            "error_type": outcome.error_type,
            "retry_at": rfc3339(self._now() + delay),
        }
        if not isinstance(exc, RetryLater):
            problems.record(exc, outcome, attempt.span)
        said: dict[str, str | int] = {
            "attempt": attempt.number,
            "code": outcome.code,
            "retry_in_seconds": delay,
        }
        attempt.span.add_event(EVENT_TASK_RETRIED, said)
        attempt.span.set_attribute(TASK_STATUS, TaskStatus.QUEUED.value)
        fields = {"task_type": attempt.event.type, "error_type": outcome.error_type, **said}
        _log.warning(EVENT_TASK_RETRIED, extra={"fields": fields}, exc_info=_stack(exc))
        if self._store is not None:
            await self._written(
                self._store.retry(attempt.event.id, attempt=attempt.number, failure=failure)
            )
        return Verdict("retry", delay)

    async def _end(
        self, attempt: _Attempt, exc: Exception, outcome: Outcome, status: TaskStatus
    ) -> Verdict:
        problems.record(exc, outcome, attempt.span)
        attempt.span.set_attribute(TASK_STATUS, status.value)
        store = context.current()
        ids = attempt.span.get_span_context()
        error = problems.problem(
            outcome,
            instance=f"/v1/tasks/{attempt.event.id}",
            correlation_id=store.correlation_id,
            trace_id=trace.format_trace_id(ids.trace_id) if ids.is_valid else None,
        )
        if not await self._written(self._finish(attempt, status, error=error)):
            # The state is not written, so the message must not go either.
            return Verdict("retry", self._policy.delay(attempt.number))
        await self._say(attempt, exc, outcome, status)
        # A dead message goes to the DLQ at its next receive, which visibility 0 brings forward.
        return Verdict("retry", 0) if status is TaskStatus.DEAD else Verdict("delete")

    async def _say(
        self, attempt: _Attempt, exc: Exception, outcome: Outcome, status: TaskStatus
    ) -> None:
        business = isinstance(exc, Reject)
        event_id = (
            None if business else self._report(attempt, exc, outcome, await self._past(attempt))
        )
        fields = {
            "task_type": attempt.event.type,
            "code": outcome.code,
            "error_type": outcome.error_type,
            "detail": outcome.detail,
        }
        if event_id is not None:
            fields["sentry_event_id"] = event_id
        _log.log(
            logging.WARNING if business else logging.ERROR,
            EVENT_TASK_DEAD if status is TaskStatus.DEAD else EVENT_TASK_FAILED,
            extra={"fields": fields},
            exc_info=_stack(exc),
        )

    async def _past(self, attempt: _Attempt) -> tuple[Mapping[str, Any], ...]:
        """Return the failed attempts before this one, for the one event that lists them."""
        task = await self._store.get(attempt.event.id) if self._store else None
        return task.failures if task else ()

    def _report(
        self,
        attempt: _Attempt,
        exc: Exception,
        outcome: Outcome,
        past: tuple[Mapping[str, Any], ...],
    ) -> str | None:
        tags = {
            "task_type": attempt.event.type,
            "task_id": attempt.event.id,
            "attempt": str(attempt.number),
        }
        # A final failure is one event each, even where the cause is a dependency that is away.
        final = replace(outcome, outage=False, reported=True)
        return self._reporter.report(exc, final, mechanism="sqs", tags=tags, failures=past)

    async def _written(self, write: Any) -> bool:
        """Await a store write; False, with a log line, where the store is away."""
        try:
            await write
        except TracebatonError as exc:
            fields = {"code": exc.code, "reason": str(exc.__cause__ or exc)}
            _log.warning("task_store.failed", extra={"fields": fields})
            return False
        return True

    def _unreadable(self, exc: MessageError, message: Received, span: Span) -> Verdict:
        outcome = problems.outcome_of(exc)
        problems.record(exc, outcome, span)
        fields = {"message_id": message.message_id, "code": outcome.code, "detail": outcome.detail}
        _log.error("message.unreadable", extra={"fields": fields})
        return Verdict("retry", self._policy.delay(message.receive_count))


def _carrier(event: TaskEvent | None, message: Received) -> dict[str, str]:
    """Merge the two places that carry the context: attributes beat the envelope."""
    envelope = dict(event.carrier) if event else {}
    if TRACEPARENT in message.attributes:  # a tracestate belongs to its own traceparent
        envelope.pop(TRACESTATE, None)
    names = (TRACEPARENT, TRACESTATE, BAGGAGE)
    return envelope | {
        name: value for name in names if (value := message.attributes.get(name)) is not None
    }


def _store(event: TaskEvent | None, fields: Mapping[str, str], message: Received) -> RequestStore:
    correlation_id = fields.get("correlation_id") or (event.correlation_id if event else None)
    return RequestStore(
        correlation_id=context.valid_correlation_id(correlation_id),
        user_id=(fields.get("user_id") or event.user_id) if event else None,
        task_id=event.id if event else None,
        attempt=message.receive_count,
    )


def _validated(kind: TaskType, event: TaskEvent) -> BaseModel:
    if event.schema_version != kind.version:
        raise UnknownSchemaVersion(
            f"The message has schema version {event.schema_version!r},"
            f" this worker knows {kind.version!r} of {kind.name!r}."
        )
    try:
        return kind.model.model_validate(event.data)
    except ValidationError as exc:
        fields = ", ".join(".".join(map(str, error["loc"])) for error in exc.errors())
        raise InvalidTaskData(
            f"The data does not fit the model of {kind.name!r}: {fields}."
        ) from exc


def _waited(event: TaskEvent | None, message: Received, *, received: float) -> dict[str, float]:
    """
    Split the time since the send into the delay that was asked for and the backlog.

    Only the first delivery's: later ones also waited for a handler and a back-off.
    """
    sent = message.system.get("SentTimestamp")
    if sent is None or message.receive_count > 1:
        return {}
    delay = event.delay_seconds if event else 0
    backlog = received - int(sent) / 1000 - delay
    return {QUEUE_DELAY_MS: _ms(delay), QUEUE_BACKLOG_MS: _ms(max(0.0, backlog))}


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _stack(exc: Exception) -> Exception | None:
    """Return *exc* where its stack helps: not for what the handler raised to steer its message."""
    return None if isinstance(exc, TracebatonError) else exc

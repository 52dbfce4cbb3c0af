"""
What follows from how an attempt ended: task store, log, span, Sentry, and the verdict.

All of it comes out of the one mapping of ``problems.py``, so that the five never tell different
stories.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from opentelemetry import trace

from tracebaton import context, problems
from tracebaton.errors import Reject, RetryLater, TracebatonError
from tracebaton.events import say
from tracebaton.problems import Outcome, Reporter
from tracebaton.queue.attempt import Attempt, Verdict, milliseconds
from tracebaton.queue.retry import RetryPolicy
from tracebaton.semconv import (
    EVENT_TASK_CANCELLED,
    EVENT_TASK_DEAD,
    EVENT_TASK_FAILED,
    EVENT_TASK_RETRIED,
    EVENT_TASK_SUCCEEDED,
    EVENT_TELEMETRY_FAILED,
)
from tracebaton.tasks import ENDED, TaskStatus, TaskStore
from tracebaton.tasks.task import rfc3339

__all__ = ["Outcomes"]

_log = logging.getLogger("tracebaton.worker")


class Outcomes:
    """Says what becomes of a message whose handler succeeded or failed."""

    def __init__(
        self,
        *,
        store: TaskStore | None,
        reporter: Reporter,
        policy: RetryPolicy,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self.policy = policy
        self._reporter = reporter
        self._now = now

    async def succeeded(self, attempt: Attempt, result: Any, seconds: float) -> Verdict:
        """Keep the handler's *result*; the message is done."""
        status = TaskStatus.SUCCEEDED
        if not await self._finish(attempt, status, result=result):
            return await self._superseded(attempt)
        attempt.became(status)
        fields = {"task_type": attempt.event.type, "duration_ms": milliseconds(seconds)}
        say(_log, EVENT_TASK_SUCCEEDED, fields, clean=True)
        return Verdict("delete")

    def cancelled(self, attempt: Attempt) -> Verdict:
        """Let go of a message whose task was cancelled while its handler ran."""
        status = TaskStatus.CANCELLED
        attempt.became(status)
        _log.info(EVENT_TASK_CANCELLED, extra={"fields": {"task_type": attempt.event.type}})
        return Verdict("delete")

    async def failed(self, attempt: Attempt, exc: Exception) -> Verdict:
        """Try again later, or end the task as ``failed`` or ``dead``."""
        outcome = problems.outcome_of(exc)
        if not outcome.retryable:
            return await self.end(attempt, exc, outcome, TaskStatus.FAILED)
        if self.policy.is_last(attempt.receives):
            return await self.end(attempt, exc, outcome, TaskStatus.DEAD)
        return await self._retry(attempt, exc, outcome)

    async def end(
        self, attempt: Attempt, exc: Exception, outcome: Outcome, status: TaskStatus
    ) -> Verdict:
        """End the task with the problem of *exc*."""
        problems.record(exc, outcome, attempt.span)
        attempt.measurement.error_type = outcome.error_type
        error = self.problem(attempt, outcome)
        try:
            ours = await self._finish(attempt, status, error=error)
        except TracebatonError as failure:
            _store_failed(failure)
            # The state is not written, so the message must not go either.
            return Verdict("retry", attempt.delay)
        if not ours:  # its one event is that of whoever has ended it, or will
            return await self._superseded(attempt)
        attempt.became(status)
        await self._say(attempt, exc, outcome, status)
        # A dead message goes to the DLQ at its next receive, which visibility 0 brings forward.
        return Verdict("retry", 0) if status is TaskStatus.DEAD else Verdict("delete")

    async def given_back(
        self, attempt: Attempt, outcome: Outcome, delay: int
    ) -> Mapping[str, str | int | None]:
        """Write that the attempt failed and when the next one comes; return what was written."""
        failure: dict[str, str | int | None] = {
            "attempt": attempt.number,
            "code": outcome.code,
            "error_type": outcome.error_type,
            "retry_at": rfc3339(self._now() + delay),
        }
        if self.store is not None:
            await self.written(
                self.store.retry(attempt.event.id, attempt=attempt.number, failure=failure)
            )
        return failure

    def problem(self, attempt: Attempt, outcome: Outcome) -> dict[str, Any]:
        """Return the problem document that the task's owner reads."""
        ids = attempt.span.get_span_context()
        return problems.problem(
            outcome,
            instance=f"/v1/tasks/{attempt.event.id}",
            correlation_id=context.current().correlation_id,
            trace_id=trace.format_trace_id(ids.trace_id) if ids.is_valid else None,
        )

    def report(
        self,
        attempt: Attempt,
        exc: Exception,
        outcome: Outcome,
        past: tuple[Mapping[str, Any], ...] = (),
    ) -> str | None:
        """Send the one event of a final failure and return its id."""
        event = attempt.incoming.event
        known = {} if event is None else {"task_type": event.type, "task_id": event.id}
        # A final failure is one event each, even where the cause is a dependency that is away.
        final = replace(outcome, level="error", outage=False, reported=True)
        tags = known | {"attempt": str(attempt.number)}
        return self._sent(exc, final, tags=tags, past=past)

    def _sent(
        self,
        exc: Exception,
        outcome: Outcome,
        *,
        tags: Mapping[str, str],
        past: tuple[Mapping[str, Any], ...] = (),
    ) -> str | None:
        try:
            return self._reporter.report(exc, outcome, mechanism="sqs", tags=tags, failures=past)
        except Exception:  # a sink that is broken loses no message (SPEC 6)
            _log.warning(EVENT_TELEMETRY_FAILED, exc_info=True)
            return None

    def mistaken(self, receives: int, exc: Exception) -> Verdict:
        """Give back a message that a mistake of ours stopped; the last time it is one event."""
        if not self.policy.is_last(receives):
            return Verdict("retry", self.policy.delay(receives))
        self._sent(exc, problems.outcome_of(exc), tags={"attempt": str(receives)})
        return Verdict("retry", 0)  # SQS moves it to the DLQ

    async def written(self, write: Any) -> bool:
        """Await a store write; False, with a log line, where the store is away."""
        try:
            await write
        except TracebatonError as exc:
            _store_failed(exc)
            return False
        return True

    async def _superseded(self, attempt: Attempt) -> Verdict:
        """Discard a result that came too late: the task ended, or a newer delivery runs it."""
        task = await self.store.get(attempt.event.id) if self.store else None
        _log.warning("task.superseded", extra={"fields": {"task_type": attempt.event.type}})
        # A dead one's message is for SQS to move to the DLQ.
        over = task is not None and task.status in ENDED - {TaskStatus.DEAD}
        return Verdict("delete" if over else "leave")

    async def _finish(
        self,
        attempt: Attempt,
        status: TaskStatus,
        *,
        result: Any = None,
        error: Mapping[str, Any] | None = None,
    ) -> bool:
        if self.store is None:
            return True
        return await self.store.finish(
            attempt.event.id, status, attempt=attempt.number, result=result, error=error
        )

    async def _retry(self, attempt: Attempt, exc: Exception, outcome: Outcome) -> Verdict:
        asked = exc.delay if isinstance(exc, RetryLater) else None
        delay = attempt.delay if asked is None else attempt.capped(asked)
        if not isinstance(exc, RetryLater):
            problems.record(exc, outcome, attempt.span)
        attempt.measurement.error_type = outcome.error_type
        said: dict[str, str | int] = {
            "attempt": attempt.number,
            "code": outcome.code,
            "retry_in_seconds": delay,
        }
        attempt.span.add_event(EVENT_TASK_RETRIED, said)
        attempt.became(TaskStatus.QUEUED)
        fields = {"task_type": attempt.event.type, "error_type": outcome.error_type, **said}
        _log.warning(EVENT_TASK_RETRIED, extra={"fields": fields}, exc_info=_stack(exc))
        await self.given_back(attempt, outcome, delay)
        return Verdict("retry", delay)

    async def _say(
        self, attempt: Attempt, exc: Exception, outcome: Outcome, status: TaskStatus
    ) -> None:
        business = isinstance(exc, Reject)
        event_id = (
            None if business else self.report(attempt, exc, outcome, await self._past(attempt))
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

    async def _past(self, attempt: Attempt) -> tuple[Mapping[str, Any], ...]:
        """Return the failed attempts before this one, for the one event that lists them."""
        try:
            task = await self.store.get(attempt.event.id) if self.store else None
        except TracebatonError:  # the event matters more than its list
            return ()
        return task.failures if task else ()


def _store_failed(exc: TracebatonError) -> None:
    fields = {"code": exc.code, "reason": str(exc.__cause__ or exc)}
    _log.warning("task_store.failed", extra={"fields": fields})


def _stack(exc: Exception) -> Exception | None:
    """Return *exc* where its stack helps: not for what the handler raised to steer its message."""
    return None if isinstance(exc, TracebatonError) else exc

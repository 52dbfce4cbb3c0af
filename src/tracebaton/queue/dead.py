"""
Dead letters: the tasks of messages that SQS moved to the DLQ while no worker could say so.

A worker that fails at the last attempt ends the task itself. One that is killed cannot: its message
reaches the DLQ and its task would be ``running`` or ``queued`` for ever.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Tracer

from tracebaton import context, problems
from tracebaton.context import RequestStore
from tracebaton.errors import UntrustedMessage, WorkerLost
from tracebaton.problems import Reporter
from tracebaton.propagation import Propagator
from tracebaton.queue.incoming import Incoming, Reader
from tracebaton.queue.message import Received, byte_size
from tracebaton.semconv import (
    AWS_SQS,
    EVENT_TASK_DEAD,
    MESSAGING_BODY_SIZE,
    MESSAGING_DESTINATION,
    MESSAGING_MESSAGE_ID,
    MESSAGING_OPERATION_NAME,
    MESSAGING_OPERATION_TYPE,
    MESSAGING_SYSTEM,
    TASK_ID,
    TASK_STATUS,
    TASK_TYPE,
)
from tracebaton.tasks import ENDED, Task, TaskStatus, TaskStore
from tracebaton.w3c import parse_traceparent

__all__ = ["DeadLetters", "Finding"]

_log = logging.getLogger("tracebaton.worker")

#: What a message in the DLQ means: its task was ended just now, had ended before, may still run
#: under a lease that is not over, or is none of ours.
Finding = Literal["marked", "ended", "leased", "unknown"]


class DeadLetters:
    """Ends the tasks of messages in a DLQ, once each; the messages stay where they are."""

    def __init__(
        self,
        *,
        queue_name: str,
        reader: Reader,
        store: TaskStore,
        tracer: Tracer,
        propagator: Propagator,
        reporter: Reporter,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Set whose tasks they are.

        Args:
            queue_name: Name of the DLQ.
            reader: Reads the messages of the queue they come from.
            store: Its conditional write decides who reports a task, among any number of processes.
        """
        self._queue_name = queue_name
        self._reader = reader
        self._store = store
        self._tracer = tracer
        self._propagator = propagator
        self._reporter = reporter
        self._now = now

    async def bury(self, message: Received) -> Finding:
        """
        End the task of *message* as ``dead`` and report it, unless that has been done.

        Raises:
            StoreUnavailable: The task store is away; nothing was written.
        """
        incoming = self._reader.read(message)
        if incoming.event is None or isinstance(incoming.problem, UntrustedMessage):
            return "unknown"  # who wrote it may have taken the id of another's task
        task = await self._store.get(incoming.event.id)
        if task is None:
            return "unknown"
        finding = self._finding(task, message)
        return await self._end(task, incoming) if finding is None else finding

    def _finding(self, task: Task, message: Received) -> Finding | None:
        if task.status in ENDED:
            return "ended"
        if task.owner not in (None, message.message_id):
            return "unknown"  # a copy: the message that the task belongs to is elsewhere
        if task.status is TaskStatus.RUNNING and (task.lease_until or 0.0) > self._now():
            return "leased"
        return None

    async def _end(self, task: Task, incoming: Incoming) -> Finding:
        exc = WorkerLost()
        outcome = replace(problems.outcome_of(exc), reported=True)
        with self._reporter.isolated(), self._span(task, incoming) as span:
            ids = span.get_span_context()
            error = problems.problem(
                outcome,
                instance=f"/v1/tasks/{task.id}",
                correlation_id=context.current().correlation_id,
                trace_id=trace.format_trace_id(ids.trace_id) if ids.is_valid else None,
            )
            if not await self._store.finish(
                task.id, TaskStatus.DEAD, attempt=task.attempt, error=error
            ):
                return "ended"  # by another watcher, or the message was redriven meanwhile
            problems.record(exc, outcome, span)
            span.set_attribute(TASK_STATUS, TaskStatus.DEAD.value)
            event_id = self._reporter.report(
                exc,
                outcome,
                mechanism="sqs",
                tags={"task_type": task.type, "task_id": task.id, "attempt": str(task.attempt)},
                failures=task.failures,
            )
            fields = {
                "task_type": task.type,
                "code": outcome.code,
                "error_type": outcome.error_type,
                "detail": outcome.detail,
            }
            if event_id is not None:
                fields["sentry_event_id"] = event_id
            _log.error(EVENT_TASK_DEAD, extra={"fields": fields})
        return "marked"

    @contextmanager
    def _span(self, task: Task, incoming: Incoming) -> Iterator[Span]:
        """
        Start the span that stands for what the killed workers could not tell.

        It joins the trace as their spans would have, and links the latest of them.
        """
        request = RequestStore(
            correlation_id=context.valid_correlation_id(task.correlation_id),
            user_id=task.user_id,
            task_id=task.id,
            attempt=task.attempt or None,
        )
        last = parse_traceparent([task.traceparent or ""])
        with (
            context.entered(request, self._parent(incoming)),
            self._tracer.start_as_current_span(
                f"process {self._queue_name}",
                kind=SpanKind.CONSUMER,
                attributes=self._attributes(task, incoming.message),
                links=() if last is None else (Link(last),),
                record_exception=False,
                set_status_on_exception=False,
            ) as span,
        ):
            ids = span.get_span_context()
            context.bind_trace(trace.format_trace_id(ids.trace_id) if ids.is_valid else None)
            yield span

    def _parent(self, incoming: Incoming) -> Context:
        if incoming.event is not None and incoming.event.propagate != "parent":
            return Context()
        return self._propagator.extract_message(
            incoming.carrier, aws_trace_header=incoming.trace_header, own=incoming.own
        ).context

    def _attributes(self, task: Task, message: Received) -> dict[str, str | int]:
        return {
            MESSAGING_SYSTEM: AWS_SQS,
            MESSAGING_DESTINATION: self._queue_name,
            MESSAGING_OPERATION_NAME: "process",
            MESSAGING_OPERATION_TYPE: "process",
            MESSAGING_MESSAGE_ID: message.message_id,
            MESSAGING_BODY_SIZE: byte_size(message.body),
            TASK_TYPE: task.type,
            TASK_ID: task.id,
        }

"""
A message on its way: the ``send`` span, which is its creation context, and the task it asks for.
"""

from dataclasses import dataclass, replace

import uuid_utils
from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Tracer

from tracebaton import context, problems
from tracebaton.queue.message import Outgoing
from tracebaton.queue.outgoing import Item
from tracebaton.semconv import (
    AWS_SQS,
    MESSAGING_DESTINATION,
    MESSAGING_OPERATION_NAME,
    MESSAGING_OPERATION_TYPE,
    MESSAGING_SYSTEM,
    TASK_ID,
    TASK_TYPE,
)
from tracebaton.tasks import Task

__all__ = ["Sending", "ended", "new_task", "opened"]


@dataclass(frozen=True, slots=True)
class Sending:
    """One saved task whose message is on its way: *context* holds its span and its store."""

    item: Item
    context: Context
    span: Span
    task: Task
    message: Outgoing


def opened(tracer: Tracer, *, queue_name: str, task_type: str) -> tuple[Context, Span]:
    """Start the span of a new task's send and return it with the context it stands in."""
    task_id = str(uuid_utils.uuid7())
    # The new task's id goes into the cell before the span starts, so that the span, the baggage and
    # the log line of this send are the new task's and not its parent's.
    store = replace(context.current(), task_id=task_id, attempt=None)
    with context.entered(store, otel.get_current()):
        span = tracer.start_span(
            f"send {queue_name}",
            kind=SpanKind.PRODUCER,
            attributes={
                MESSAGING_SYSTEM: AWS_SQS,
                MESSAGING_DESTINATION: queue_name,
                MESSAGING_OPERATION_NAME: "send",
                MESSAGING_OPERATION_TYPE: "send",
                TASK_TYPE: task_type,
                TASK_ID: task_id,
            },
            record_exception=False,
            set_status_on_exception=False,
        )
        return trace.set_span_in_context(span), span


def new_task(span: Span, task_type: str, *, parent_task_id: str | None, now: float) -> Task:
    """Return the task of the current send, whose id and owner are in the request store."""
    ids = span.get_span_context()
    trace_id = trace.format_trace_id(ids.trace_id) if ids.is_valid else None
    store = context.bind_trace(trace_id)
    return Task(
        id=store.task_id or "",
        type=task_type,
        user_id=store.user_id,
        correlation_id=store.correlation_id,
        trace_id=trace_id,
        parent_task_id=parent_task_id,
        created_at=now,
        updated_at=now,
    )


def ended(span: Span, exc: BaseException | None = None) -> None:
    """End *span*, with the failure that *exc* is; a cancellation is none."""
    if isinstance(exc, Exception):
        problems.record(exc, problems.outcome_of(exc), span)
    span.end()

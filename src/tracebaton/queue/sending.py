"""
A message on its way: the ``send`` span, which is its creation context, and the task it asks for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import uuid_utils
from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Tracer

from tracebaton import context, problems
from tracebaton.context import RequestStore
from tracebaton.propagation import Propagator
from tracebaton.queue.message import Outgoing
from tracebaton.queue.outbox import Parcel
from tracebaton.queue.outgoing import Item
from tracebaton.semconv import (
    AWS_SQS,
    MESSAGING_DESTINATION,
    MESSAGING_OPERATION_NAME,
    MESSAGING_OPERATION_TYPE,
    MESSAGING_SYSTEM,
    TASK_ID,
    TASK_TYPE,
    TRACEPARENT,
)
from tracebaton.tasks import Task
from tracebaton.w3c import parse_traceparent

__all__ = ["Sending", "ended", "new_task", "opened", "reopened"]


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
        return _started(tracer, queue_name, task_type=task_type, task_id=task_id)


def reopened(
    tracer: Tracer, propagator: Propagator, parcel: Parcel, *, queue_name: str
) -> tuple[Context, Span]:
    """
    Start the span of a send that may have been made before, and return it with its context.

    It stands where the first one stood, below the span that asked for it, and links the first one,
    which died with its process and may never have been heard of.
    """
    event = parcel.event
    carrier = dict(event.carrier)
    carrier.pop(TRACEPARENT, None)
    if parcel.parent is not None:
        carrier[TRACEPARENT] = parcel.parent
    store = RequestStore(
        correlation_id=context.valid_correlation_id(event.correlation_id),
        user_id=event.user_id,
        task_id=event.id,
    )
    first = parse_traceparent([event.carrier.get(TRACEPARENT, "")])
    with context.entered(store, propagator.extract_message(carrier).context):
        return _started(
            tracer,
            queue_name,
            task_type=event.type,
            task_id=event.id,
            links=() if first is None else (Link(first),),
        )


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


def _started(
    tracer: Tracer,
    queue_name: str,
    *,
    task_type: str,
    task_id: str,
    links: Sequence[Link] = (),
) -> tuple[Context, Span]:
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
        links=links,
        record_exception=False,
        set_status_on_exception=False,
    )
    return trace.set_span_in_context(span), span

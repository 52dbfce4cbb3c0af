"""The remote parent of a request or a message, and whose sampling decision it carries."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext

from tracebaton.w3c import parse_sentry_trace, parse_traceparent, parse_tracestate

__all__ = [
    "Parent",
    "is_stale",
    "remote_parent",
    "trusted_parent",
    "undecided_parent",
    "with_parent",
]

_DECISION_KEY = otel.create_key("tracebaton-parent-decision")

#: Whose sampling decision the remote parent carries: ours, an outsider's, or none.
_Decision = Literal["queue", "outsider", "open"]


class Parent(NamedTuple):
    """A span elsewhere, and whether its process has decided to sample."""

    span: SpanContext
    decided: bool  # a sentry-trace may leave the sampling decision open


def remote_parent(
    traceparent: Sequence[str], sentry_trace: Sequence[str], tracestate: Sequence[str]
) -> Parent | None:
    """Return the parent that the headers name; ``traceparent`` beats ``sentry-trace``."""
    span = parse_traceparent(traceparent)
    if span is not None:
        if not tracestate:
            return Parent(span, decided=True)
        state = parse_tracestate(tracestate)
        return Parent(
            SpanContext(span.trace_id, span.span_id, True, span.trace_flags, state), decided=True
        )
    sentry = parse_sentry_trace(sentry_trace)
    return None if sentry is None else Parent(sentry[0], decided=sentry[1] is not None)


def is_stale(parent: Parent | None, sentry_trace: Sequence[str]) -> bool:
    """Tell whether *sentry_trace* is of another trace than *parent*."""
    sentry = parse_sentry_trace(sentry_trace)
    return sentry is not None and parent is not None and sentry[0].trace_id != parent.span.trace_id


def with_parent(context: Context, span: SpanContext, decision: _Decision) -> Context:
    """Return *context* with *span* as its parent, and whose decision that carries."""
    context = Context({**context, _DECISION_KEY: decision})
    return trace.set_span_in_context(NonRecordingSpan(span), context)


def trusted_parent(context: Context | None) -> bool:
    """Tell whether the remote parent in *context* came by the queue, so its decision is ours."""
    return otel.get_value(_DECISION_KEY, context) == "queue"


def undecided_parent(context: Context | None) -> bool:
    """Tell whether the remote parent in *context* left the sampling decision open."""
    return otel.get_value(_DECISION_KEY, context) == "open"

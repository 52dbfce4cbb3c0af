"""
Failures in traces that the head did not keep: their own spans are sent all the same.

Such a trace is a partial one. The decision on the wire stays the head's, so each process sends the
units that failed in it and nothing else.
"""

from collections.abc import Iterable

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import SpanContext, TraceFlags

from tracebaton.telemetry.masking import changed
from tracebaton.telemetry.units import Unit, UnitCollector

__all__ = ["kept_errors"]


def kept_errors(exports: Iterable[SpanProcessor]) -> UnitCollector[None]:
    """Return what holds unsampled spans back until their local root ends, failed or not."""
    sinks = tuple(exports)

    def send(unit: Unit[None]) -> None:
        for ended in (*unit.spans, unit.root):
            for sink in sinks:
                sink.on_end(_sampled(ended.span))

    return UnitCollector(
        capture=lambda: None,
        submit=send,
        ignore=lambda span: span.context is not None and span.context.trace_flags.sampled,
        keep_errors=True,
    )


def _sampled(span: ReadableSpan) -> ReadableSpan:
    """Return *span* with the flag that the SDK's batch asks for; OTLP does not carry it."""
    here = span.context
    if here is None:
        return span
    flags = TraceFlags(here.trace_flags | TraceFlags.SAMPLED)
    context = SpanContext(here.trace_id, here.span_id, here.is_remote, flags, here.trace_state)
    return changed(span, context=context)

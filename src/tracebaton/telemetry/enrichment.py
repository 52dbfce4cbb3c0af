"""
What every span gets when it starts, the request store and Sentry's op, and loses when it ends.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import SpanKind, format_trace_id

from tracebaton.context import bind_trace, in_context, span_attributes
from tracebaton.semconv import (
    DB_SYSTEMS,
    GEN_AI_OPERATION,
    HTTP_METHODS,
    MESSAGING_OPERATION_TYPE,
    MESSAGING_SYSTEM,
    OP_HTTP_SERVER,
    OP_QUEUE_PROCESS,
    OP_QUEUE_PUBLISH,
    RPC_SYSTEM,
    SENTRY_OP,
)
from tracebaton.telemetry.masking import changed, dict_of, mask_span

__all__ = ["SpanPipeline", "presentable", "sentry_op"]

#: sentry-conventions' ops by OpenTelemetry's ``messaging.operation.type``.
_QUEUE_OPS: Final = {
    "send": OP_QUEUE_PUBLISH,
    "create": OP_QUEUE_PUBLISH,
    "receive": "queue.receive",
    "process": OP_QUEUE_PROCESS,
    "settle": "queue.settle",
}
#: The op of what says nothing about itself.
_UNKNOWN: Final = "function"
_HTTP: Final = frozenset(HTTP_METHODS)
_DB: Final = frozenset(DB_SYSTEMS)
_HTTP_OPS: Final = {SpanKind.SERVER: OP_HTTP_SERVER, SpanKind.CLIENT: "http.client"}


def sentry_op(kind: SpanKind, attributes: Mapping[str, Any]) -> str:
    """Return Sentry's op of a span; messaging comes before HTTP, AWS SDK spans carry both."""
    if MESSAGING_SYSTEM in attributes:
        return _QUEUE_OPS.get(str(attributes.get(MESSAGING_OPERATION_TYPE)), "queue")
    if GEN_AI_OPERATION in attributes:
        return f"gen_ai.{attributes[GEN_AI_OPERATION]}"
    if not _HTTP.isdisjoint(attributes):
        return _HTTP_OPS.get(kind, "http")
    if RPC_SYSTEM in attributes:
        return "rpc"
    return _UNKNOWN if _DB.isdisjoint(attributes) else "db"


class SpanPipeline(SpanProcessor):
    """
    Put the request store on every span, and let none pass with a secret in its URL.

    The one processor of the provider; the sinks stand behind it. The local root binds its trace id
    as the correlation id where none came in, before its own attributes are written.

    Masking is work for the thread that sends, which does many spans in a row in less than half the
    time: a sink with ``presents = True`` gets spans as they are and calls `presentable()` there.

    Attributes:
        owner: Whose pipeline it is.
    """

    owner: object = None

    def __init__(self, sinks: Iterable[SpanProcessor]) -> None:
        """Set the *sinks*, which see spans in this order."""
        self._sinks = tuple(sinks)
        self._all_present = all(getattr(sink, "presents", False) for sink in self._sinks)
        self._starts = tuple(
            sink.on_start
            for sink in self._sinks
            if type(sink).on_start is not SpanProcessor.on_start  # which does nothing
        )

    @property
    def feeds(self) -> bool:
        """Tell whether spans are handed on to anybody."""
        return bool(self._sinks)

    def retire(self) -> None:
        """Hand nothing on from now on: a provider that is not ours outlives its pipelines."""
        self._sinks = self._starts = ()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Write the store's ids and Sentry's op to *span*."""
        store = in_context(parent_context)
        if store.correlation_id is None and _is_local_root(parent_context):
            trace_id = format_trace_id(span.get_span_context().trace_id)
            store = bind_trace(trace_id, parent_context)
        changes = span_attributes(store)
        attributes = dict_of(span.attributes)
        if not attributes:
            changes[SENTRY_OP] = _UNKNOWN
        elif SENTRY_OP not in attributes:
            changes[SENTRY_OP] = sentry_op(span.kind, attributes)
        span.set_attributes(changes)
        for start in self._starts:
            start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        """Hand *span* on, without secrets to whoever does not mask it himself."""
        clean = span if self._all_present else presentable(span)
        for sink in self._sinks:
            sink.on_end(span if getattr(sink, "presents", False) else clean)


def presentable(span: ReadableSpan) -> ReadableSpan:
    """Return the ended *span* without secrets; instrumentations set attributes until then."""
    return mask_span(_with_op(span))


def _with_op(span: ReadableSpan) -> ReadableSpan:
    """Return *span* with the op it has by now: SQLAlchemy's and Redis's say late what they are."""
    attributes = dict_of(span.attributes)
    if attributes.get(SENTRY_OP) != _UNKNOWN:
        return span
    op = sentry_op(span.kind, attributes)
    return span if op == _UNKNOWN else changed(span, attributes={**attributes, SENTRY_OP: op})


def _is_local_root(context: Context | None) -> bool:
    parent = trace.get_current_span(context).get_span_context()
    return parent.is_remote or not parent.is_valid

"""
A unit of ended spans, played through sentry-sdk's span processor.
"""

from collections.abc import Callable
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import SpanContext, format_span_id, format_trace_id
from sentry_sdk.scope import Scope, ScopeType, use_isolation_scope, use_scope

from tracebaton.telemetry.masking import dict_of
from tracebaton.telemetry.units import Ended, Unit

try:
    from sentry_sdk.integrations.opentelemetry import SentrySpanProcessor
except ImportError:  # sentry-sdk 3 has none; `check_sdk()` says so before one is built
    SentrySpanProcessor = SpanProcessor  # type: ignore[misc,assignment]  # never called then

__all__ = ["Replay"]


class Replay(SentrySpanProcessor):
    """sentry-sdk's span processor, fed from one thread with whole units of ended spans."""

    def __new__(cls) -> "Replay":
        return object.__new__(cls)  # the base class is a singleton across clients

    def __init__(self) -> None:
        # Not the base's: it registers a global event processor that rewrites a transaction's ids to
        # those of whatever span is current, and its maps are shared by the class.
        self.otel_span_map: dict[str, Any] = {}
        self.open_spans: dict[int, set[str]] = {}

    def _is_sentry_span(self, otel_span: ReadableSpan) -> bool:
        return False  # such spans were not gathered; the base knows only the old URL attribute

    def _prune_old_spans(self) -> None:
        """Keep what is ten minutes old: the maps live for one replay."""

    # What the base reads out of a span, it reads by the old conventions only, and `describe()` has
    # the last word on all of it: read twice, it was a tenth of what a transaction costs.

    def _update_span_with_otel_status(self, sentry_span: Any, otel_span: ReadableSpan) -> None:
        """Leave the status to `describe()`."""

    def _update_span_with_otel_data(self, sentry_span: Any, otel_span: ReadableSpan) -> None:
        """Leave op, description and data to it too."""

    def _update_transaction_with_otel_data(self, sentry_span: Any, otel_span: ReadableSpan) -> None:
        """Leave a transaction's to it as well."""

    def _get_otel_context(self, otel_span: ReadableSpan) -> dict[str, Any]:
        parts = {"attributes": otel_span.attributes, "resource": otel_span.resource.attributes}
        return {name: dict_of(part) for name, part in parts.items() if part}

    def _get_trace_data(
        self, span_context: SpanContext, parent_span_context: SpanContext | None, *_: object
    ) -> dict[str, Any]:
        """Return the ids; what sentry-sdk's own propagator would have left is nowhere."""
        parent = parent_span_context
        return {
            "span_id": format_span_id(span_context.span_id),
            "trace_id": format_trace_id(span_context.trace_id),
            "parent_span_id": None if parent is None else format_span_id(parent.span_id),
            "parent_sampled": None,
            "baggage": None,
        }

    def send(self, unit: Unit[Scope], complete: Callable[..., Any]) -> None:
        """Send *unit* as a transaction that *complete* has the last word on."""
        fresh = Scope(ty=ScopeType.CURRENT)
        fresh.add_event_processor(complete)
        with use_isolation_scope(unit.scope), use_scope(fresh):
            try:
                self._start(unit.root)
                for ended in sorted(unit.spans, key=_start_time):  # parents first
                    self._start(ended)
                for ended in (*unit.spans, unit.root):
                    super().on_end(ended.span)
            finally:
                self.otel_span_map.clear()
                self.open_spans.clear()

    def _start(self, ended: Ended) -> None:
        super().on_start(ended.span)
        span = self.otel_span_map.get(format_span_id(ended.span.context.span_id))
        if span is not None:
            span.set_thread(ended.thread_id, ended.thread_name)


def _start_time(ended: Ended) -> int:
    return ended.span.start_time or 0

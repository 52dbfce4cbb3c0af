"""
A unit of ended spans, played through sentry-sdk's span processor.
"""

from collections.abc import Callable
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import format_span_id
from sentry_sdk.scope import Scope, ScopeType, use_isolation_scope, use_scope

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

"""
The dynamic sampling context: what Sentry's server needs to know to extrapolate from a sample.

The head writes it once from OpenTelemetry's decision; everybody behind it passes it on frozen.
"""

from functools import lru_cache
from typing import Any

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, format_trace_id

from tracebaton.baggage import incoming_sentry_members
from tracebaton.semconv import SENTRY_BAGGAGE_PREFIX
from tracebaton.telemetry.sampling import HeadRates, sample_rand
from tracebaton.telemetry.transactions import transaction_name
from tracebaton.telemetry.units import Node, UnitCollector

__all__ = ["DynamicSampling"]

Members = tuple[tuple[str, str], ...]


class DynamicSampling:
    """The members to send and the header of each envelope, from one source."""

    def __init__(
        self,
        *,
        public_key: str,
        org: str | None,
        release: str | None,
        environment: str | None,
        rates: HeadRates,
        units: UnitCollector[Any],
    ) -> None:
        """
        Set what the head says about itself.

        Args:
            public_key: Of the DSN.
            org: The organisation's id, if the DSN's host names it.
            release: As Sentry knows it.
            environment: As Sentry knows it.
            rates: The share of traces that the head keeps.
            units: Where the local root of a span is looked up.
        """
        self.public_key = public_key
        self.org = org
        self._release = release
        self._environment = environment
        self._rates = rates
        self._units = units

    def items(self, context: Context) -> Members:
        """Return the members to send from *context*."""
        span = trace.get_current_span(context).get_span_context()
        if not span.is_valid:
            return ()
        node = None if span.is_remote else self._units.node(span.span_id)
        return self._members(span, node, incoming_sentry_members(context))

    def current_header(self) -> dict[str, str]:
        """Return the ``trace`` header of an envelope about the current span."""
        return _header(self.items(otel.get_current()))

    def current_transaction(self) -> str | None:
        """Return the name of the transaction that the current span will be part of."""
        span = trace.get_current_span().get_span_context()
        node = None if span.is_remote else self._units.node(span.span_id)
        return None if node is None else _good_name(node.root.span())

    def header(self, span: SpanContext, node: Node[Any], root: ReadableSpan) -> dict[str, str]:
        """Return the ``trace`` header of the transaction of *span*, whose ended root is *root*."""
        return _header(self._members(span, node, node.incoming, root))

    def _members(
        self,
        span: SpanContext,
        node: Node[Any] | None,
        incoming: Members,
        root: ReadableSpan | None = None,
    ) -> Members:
        if node is None:
            return self._frozen(span, incoming, None) or self._fresh(span, None)
        top = node.root
        if not top.members:
            head = root or top.span()
            top.members = self._frozen(span, incoming, head) or self._fresh(span, head)
        return top.members

    def _frozen(self, span: SpanContext, incoming: Members, root: ReadableSpan | None) -> Members:
        """Return *incoming* if it belongs to this trace and tells the decision that was taken."""
        found = dict(incoming)
        if found.get(_member("trace_id")) != format_trace_id(span.trace_id):
            return ()
        sampled = str(span.trace_flags.sampled).lower()
        if found.get(_member("sampled"), sampled) == sampled:
            return incoming
        # An outsider's decision was not followed, so its rate explains nothing.
        return tuple((found | dict(self._decision(span, root))).items())

    def _fresh(self, span: SpanContext, root: ReadableSpan | None) -> Members:
        members = {
            "trace_id": format_trace_id(span.trace_id),
            "public_key": self.public_key,
            "org_id": self.org,
            "release": self._release,
            "environment": self._environment,
            "transaction": _good_name(root),
        }
        known = {_member(key): value for key, value in members.items() if value}
        return tuple((known | dict(self._decision(span, root))).items())

    def _decision(self, span: SpanContext, root: ReadableSpan | None) -> Members:
        rate = (
            self._rates.of_dropped(span.trace_id)
            if root is None
            else self._rates.of(root.kind, root.attributes)
        )
        return (
            (_member("sample_rate"), str(rate)),
            (_member("sample_rand"), f"{sample_rand(span.trace_id):.6f}"),
            (_member("sampled"), str(span.trace_flags.sampled).lower()),
        )


def _header(members: Members) -> dict[str, str]:
    return {_bare(key): value for key, value in members}


# Thousands of envelopes may wait: they share the names, which were a tenth of their memory.
@lru_cache(maxsize=256)
def _bare(name: str) -> str:
    return name.removeprefix(SENTRY_BAGGAGE_PREFIX)


@lru_cache(maxsize=256)
def _member(name: str) -> str:
    return SENTRY_BAGGAGE_PREFIX + name


def _good_name(root: ReadableSpan | None) -> str | None:
    if root is None:
        return None
    name, source = transaction_name(root.name, root.kind, root.attributes or {})
    return name if source in {"route", "task"} else None

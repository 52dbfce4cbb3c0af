"""
The one sampling decision of a trace, taken where it starts and followed everywhere else.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from random import Random
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceState, format_trace_id
from opentelemetry.util.types import Attributes

from tracebaton.propagation import trusted_parent, undecided_parent
from tracebaton.semconv import HTTP_METHODS, HTTP_ROUTE, MESSAGING_OPERATION_TYPE, TASK_TYPE

__all__ = ["HeadRates", "HeadSampler", "sample_rand"]

#: Traces that were dropped at a rate of their own, whose later failures can still name it.
_REMEMBERED: Final = 1000


@lru_cache(maxsize=1024)
def sample_rand(trace_id: int) -> float:
    """
    Return the number in [0, 1) that decides about *trace_id*.

    It is the one that sentry-sdk derives from the same id, six digits and never rounded up, so that
    ``sample_rand < sample_rate`` in the dynamic sampling context holds for each sampled trace.
    """
    return Random(format_trace_id(trace_id)).randrange(0, 1_000_000) / 1_000_000


class HeadRates:
    """The share of traces to keep, by what starts them: an HTTP route or a task type."""

    def __init__(self, default: float, *own: Mapping[str, float]) -> None:
        """
        Set the rates.

        Args:
            default: Of all that has none of its own, between 0 and 1.
            own: By task type, route template, or method and route template (``GET /v1/jobs``). The
                first mapping that has one decides.
        """
        self.default = default
        self._own = own
        self._dropped: dict[int, float] = {}
        self._lock = threading.Lock()

    def also(self, rates: Mapping[str, float]) -> None:
        """Look into *rates* too, where those before have none."""
        self._own = (*self._own, rates)

    def of(self, kind: SpanKind | None, attributes: Mapping[str, Any] | None) -> float:
        """Return the rate of the traces that a span of this kind starts."""
        for rates in filter(None, self._own):
            for name in _names(kind, attributes or {}):
                if name in rates:
                    return rates[name]
        return self.default

    def drop(self, trace_id: int, rate: float) -> None:
        """Note that a trace was not kept: nothing else will know its rate."""
        if rate == self.default:
            return
        with self._lock:
            self._dropped[trace_id] = rate
            if len(self._dropped) > _REMEMBERED:
                del self._dropped[next(iter(self._dropped))]

    def of_dropped(self, trace_id: int) -> float:
        """Return the rate at which *trace_id* was not kept."""
        return self._dropped.get(trace_id, self.default)


def _names(kind: SpanKind | None, attributes: Mapping[str, Any]) -> Iterator[str]:
    if kind is not SpanKind.SERVER:
        yield str(attributes.get(TASK_TYPE))
        return
    route = attributes.get(HTTP_ROUTE)
    for name in HTTP_METHODS:
        if name in attributes:
            yield f"{attributes[name]} {route}"
    yield str(route)


class HeadSampler(Sampler):
    """
    Follow a local or trusted parent; decide by the rate for everybody else.

    A trusted parent came by the queue, or over HTTP where the settings trust callers. An outsider's
    flag decides nothing: a request that turned tracing off for itself could not be looked into.
    """

    def __init__(
        self,
        rate: float | HeadRates,
        *,
        trust_sampling: bool = False,
        keep_errors: bool = False,
        record_calls: bool = False,
        keep_polls: bool = False,
    ) -> None:
        """
        Set the rate.

        Args:
            rate: The share of traces to keep, between 0 and 1; or the rates of each head.
            trust_sampling: Follow the flag of HTTP callers too.
            keep_errors: Record what is not kept, for the case that it fails. The flag on the wire
                stays 0.
            record_calls: Record CLIENT spans that are not kept, because the propagator has to know
                which host they call.
            keep_polls: Draw for polls of a queue too, which belong to no request.
        """
        self._rates = rate if isinstance(rate, HeadRates) else HeadRates(rate)
        self._trust_sampling = trust_sampling
        self._keep_errors = keep_errors
        self._record_calls = record_calls
        self._keep_polls = keep_polls

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Return the decision for one span; the parent's tracestate goes on unchanged."""
        parent = trace.get_current_span(parent_context).get_span_context()
        decision = self.decide(parent, parent_context, trace_id, kind=kind, attributes=attributes)
        state = parent.trace_state if parent.is_valid else trace_state
        kept = None if decision is Decision.DROP else attributes
        return SamplingResult(decision, kept, state)

    def decide(
        self,
        parent: SpanContext,
        context: Context | None,
        trace_id: int,
        *,
        kind: SpanKind | None,
        attributes: Attributes,
    ) -> Decision:
        """Return the decision alone, for a span below *parent*, which stands in *context*."""
        if parent.is_valid and self._follows(parent, context):
            keeps = parent.trace_flags.sampled
        else:
            drawn = self._keep_polls or not _is_poll(parent, attributes)
            keeps = drawn and self._draw(trace_id, kind, attributes)
        if keeps:
            return Decision.RECORD_AND_SAMPLE
        call = self._record_calls and kind is SpanKind.CLIENT
        if call or (self._keep_errors and not _is_poll(parent, attributes)):
            return Decision.RECORD_ONLY
        return Decision.DROP

    def _draw(self, trace_id: int, kind: SpanKind | None, attributes: Attributes) -> bool:
        rate = self._rates.of(kind, attributes)
        if rate >= 1 or (rate > 0 and sample_rand(trace_id) < rate):
            return True
        self._rates.drop(trace_id, rate)
        return False

    def _follows(self, parent: SpanContext, context: Context | None) -> bool:
        if not parent.is_remote:
            return True
        if undecided_parent(context):
            return False
        return self._trust_sampling or trusted_parent(context)

    def get_description(self) -> str:
        """Return the sampler's name and the rate of what has none of its own."""
        return f"HeadSampler{{{self._rates.default}}}"


def _is_poll(parent: SpanContext, attributes: Attributes) -> bool:
    """Tell whether a span is a poll of its own: it belongs to no request, SPEC 5 samples it out."""
    receives = (attributes or {}).get(MESSAGING_OPERATION_TYPE) == "receive"
    return receives and not parent.is_valid

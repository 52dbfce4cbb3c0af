"""
The one sampling decision of a trace, taken where it starts and followed everywhere else.
"""

from collections.abc import Sequence
from functools import lru_cache
from random import Random

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceState, format_trace_id
from opentelemetry.util.types import Attributes

from tracebaton.propagation import trusted_parent, undecided_parent
from tracebaton.semconv import MESSAGING_OPERATION_TYPE

__all__ = ["HeadSampler", "sample_rand"]


@lru_cache(maxsize=1024)
def sample_rand(trace_id: int) -> float:
    """
    Return the number in [0, 1) that decides about *trace_id*.

    It is the one that sentry-sdk derives from the same id, six digits and never rounded up, so that
    ``sample_rand < sample_rate`` in the dynamic sampling context holds for each sampled trace.
    """
    return Random(format_trace_id(trace_id)).randrange(0, 1_000_000) / 1_000_000


class HeadSampler(Sampler):
    """
    Follow a local or trusted parent; decide by the rate for everybody else.

    A trusted parent came by the queue, or over HTTP where the settings trust callers. An outsider's
    flag decides nothing: a request that turned tracing off for itself could not be looked into.
    """

    def __init__(
        self,
        rate: float,
        *,
        trust_sampling: bool = False,
        keep_errors: bool = False,
        record_calls: bool = False,
    ) -> None:
        """
        Set the rate.

        Args:
            rate: The share of traces to keep, between 0 and 1.
            trust_sampling: Follow the flag of HTTP callers too.
            keep_errors: Record what is not kept, for the case that it fails. The flag on the wire
                stays 0.
            record_calls: Record CLIENT spans that are not kept, because the propagator has to know
                which host they call.
        """
        self._rate = rate
        self._trust_sampling = trust_sampling
        self._keep_errors = keep_errors
        self._record_calls = record_calls

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
        state = parent.trace_state if parent.is_valid else trace_state
        if self._keeps(parent, parent_context, trace_id, attributes):
            return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes, state)
        call = self._record_calls and kind is SpanKind.CLIENT
        if call or (self._keep_errors and not _is_poll(parent, attributes)):
            return SamplingResult(Decision.RECORD_ONLY, attributes, state)
        return SamplingResult(Decision.DROP, None, state)

    def _keeps(
        self,
        parent: SpanContext,
        context: Context | None,
        trace_id: int,
        attributes: Attributes,
    ) -> bool:
        if parent.is_valid and self._follows(parent, context):
            return parent.trace_flags.sampled
        if _is_poll(parent, attributes):
            return False
        return self._rate >= 1 or (self._rate > 0 and sample_rand(trace_id) < self._rate)

    def _follows(self, parent: SpanContext, context: Context | None) -> bool:
        if not parent.is_remote:
            return True
        if undecided_parent(context):
            return False
        return self._trust_sampling or trusted_parent(context)

    def get_description(self) -> str:
        """Return the sampler's name and rate."""
        return f"HeadSampler{{{self._rate}}}"


def _is_poll(parent: SpanContext, attributes: Attributes) -> bool:
    """Tell whether a span is a poll of its own: it belongs to no request, SPEC 5 samples it out."""
    receives = (attributes or {}).get(MESSAGING_OPERATION_TYPE) == "receive"
    return receives and not parent.is_valid

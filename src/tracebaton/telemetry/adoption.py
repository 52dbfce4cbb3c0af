"""
What of OpenTelemetry an application has set up before us, and stays its own.

A provider that stands is worked with and not replaced: its sampler decides, its exporters send, and
spans keep the ids of the request store on them. So is a propagator that somebody chose.
"""

from dataclasses import dataclass
from typing import Any, Final

from opentelemetry import metrics, propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import ProxyTracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tracebaton.propagation import Propagator

__all__ = ["Found", "OwnMeterProvider", "OwnTracerProvider"]

_STOCK: Final = [TraceContextTextMapPropagator, W3CBaggagePropagator]


class OwnTracerProvider(TracerProvider):
    """A tracer provider of ours: a second pipeline of the process works beside it."""


class OwnMeterProvider(MeterProvider):
    """A meter provider of ours."""


@dataclass(frozen=True, slots=True)
class Found:
    """
    What stood when the pipeline was built.

    Attributes:
        tracer_provider: Somebody else's global one; None where there is none.
        meter_provider: The same for metrics.
        propagator_chosen: Whether the global propagator is somebody's choice.
    """

    tracer_provider: trace.TracerProvider | None = None
    meter_provider: metrics.MeterProvider | None = None
    propagator_chosen: bool = False

    @classmethod
    def now(cls) -> "Found":
        """Return what stands now."""
        tracers, meters = trace.get_tracer_provider(), metrics.get_meter_provider()
        # Its only method beside the interface's tells that nobody has set a provider yet.
        unset = hasattr(meters, "on_set_meter_provider")
        foreign = not isinstance(tracers, ProxyTracerProvider | OwnTracerProvider)
        return cls(
            tracer_provider=tracers if foreign else None,
            meter_provider=None if unset or isinstance(meters, OwnMeterProvider) else meters,
            propagator_chosen=foreign or _is_chosen(propagate.get_global_textmap()),
        )

    def has_processor(self, name: str) -> bool:
        """Tell whether the provider has a span processor of a class of that *name* already."""
        several = getattr(self.tracer_provider, "_active_span_processor", None)
        processors = getattr(several, "_span_processors", ())
        return any(type(processor).__name__ == name for processor in processors)


def _is_chosen(propagator: Any) -> bool:
    """Tell whether it is neither one of ours nor what OpenTelemetry starts with."""
    if isinstance(propagator, Propagator):
        return False
    parts = getattr(propagator, "_propagators", ())
    stock = isinstance(propagator, CompositePropagator) and [type(part) for part in parts] == _STOCK
    return not stock

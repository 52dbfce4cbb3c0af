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
from opentelemetry.util.types import Attributes

from tracebaton.propagation import Propagator
from tracebaton.telemetry.enrichment import SpanPipeline
from tracebaton.telemetry.measuring import quickened
from tracebaton.telemetry.spans import lightened

__all__ = ["Found", "OwnMeterProvider", "OwnTracerProvider", "pipelines_of"]

_STOCK: Final = [TraceContextTextMapPropagator, W3CBaggagePropagator]


class OwnTracerProvider(TracerProvider):
    """
    A tracer provider of ours: a second pipeline of the process works beside it.

    Its spans are the SDK's at less of a cost, see `OwnSpan`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take what the SDK's takes."""
        #: By name, version and schema: many ask for their tracer once a span.
        self._asked: dict[tuple[str | None, ...], trace.Tracer] = {}
        super().__init__(*args, **kwargs)

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes = None,
    ) -> trace.Tracer:
        """Return the tracer of a library, the same one each time."""
        named = instrumenting_module_name, instrumenting_library_version, schema_url
        known = None if attributes else self._asked.get(named)
        if known is None:
            known = lightened(super().get_tracer(*named, attributes))
            if not attributes:
                self._asked[named] = known
        return known


class OwnMeterProvider(MeterProvider):
    """A meter provider of ours, whose instruments measure at less of a cost, see `OwnMeter`."""

    def get_meter(self, *args: Any, **kwargs: Any) -> metrics.Meter:
        """Return the meter of a library."""
        return quickened(super().get_meter(*args, **kwargs))


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

    @property
    def has_sentry(self) -> bool:
        """Tell whether the provider makes Sentry's transactions already."""
        found = _processors_of(self.tracer_provider)
        return any(type(one).__name__ == "SentrySpanProcessor" for one in found)

    @property
    def has_pipeline(self) -> bool:
        """Tell whether the provider feeds sinks of ours already: they would get each span twice."""
        return any(pipeline.feeds for pipeline in pipelines_of(self.tracer_provider))


def pipelines_of(provider: trace.TracerProvider | None) -> list[SpanPipeline]:
    """Return our pipelines behind *provider*, be it ours or somebody else's."""
    return [one for one in _processors_of(provider) if isinstance(one, SpanPipeline)]


def _processors_of(provider: trace.TracerProvider | None) -> tuple[object, ...]:
    several = getattr(provider, "_active_span_processor", None)
    return tuple(getattr(several, "_span_processors", ()))


def _is_chosen(propagator: Any) -> bool:
    """Tell whether it is neither one of ours nor what OpenTelemetry starts with."""
    if isinstance(propagator, Propagator):
        return False
    parts = getattr(propagator, "_propagators", ())
    stock = isinstance(propagator, CompositePropagator) and [type(part) for part in parts] == _STOCK
    return not stock

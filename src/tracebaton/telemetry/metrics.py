"""
Metrics: the provider behind the instruments, pushed over OTLP, read by Prometheus, or both.
"""

import threading
from collections.abc import Iterable, Iterator
from typing import Any, Final, Protocol

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics.export import (
    MetricExportResult,
    MetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.metrics.view import DropAggregation, View
from opentelemetry.sdk.resources import Resource

from tracebaton.semconv import COMPONENT_NAME, ERROR_TYPE, METRIC_SPANS_EXPORTED, SCOPE
from tracebaton.telemetry.adoption import OwnMeterProvider
from tracebaton.telemetry.connections import REASONS, Connections, silence
from tracebaton.telemetry.forks import in_child
from tracebaton.telemetry.losses import Losses
from tracebaton.telemetry.masked_metrics import mask_metrics
from tracebaton.telemetry.prometheus import Exposition

__all__ = ["Metrics", "SpanSink"]

#: The ASGI instrumentation keeps a response's length on itself, where the next response of unknown
#: length finds it (opentelemetry-python-contrib#5081): no number is better than a wrong one.
_WRONG: Final = ("http.server.response.body.size", "http.server.response.size")


class SpanSink(Protocol):
    """A destination of spans that counts them."""

    @property
    def destination(self) -> str: ...

    @property
    def exported(self) -> int: ...

    @property
    def lost(self) -> int: ...


class Metrics:
    """
    The meter provider of a process and the ways its metrics leave.

    Attributes:
        provider: Makes the instruments.
        exposition: What a Prometheus scrape gets; None where nobody asked for it.
    """

    def __init__(self, resource: Resource, *, endpoint: str | None, prometheus: bool) -> None:
        """
        Start the interval's thread where there is an endpoint; ``OTEL_METRIC_EXPORT_INTERVAL``.

        Args:
            resource: What names this process.
            endpoint: The whole URL, ``/v1/metrics`` included.
            prometheus: Whether a scrape is answered.

        Raises:
            ConfigurationError: The extra for Prometheus is not installed.
        """
        self.exposition: Exposition | None = Exposition() if prometheus else None
        self._exporter = None if endpoint is None else _Exporter(endpoint)
        readers: list[MetricReader] = []
        if self._exporter is not None:
            readers.append(PeriodicExportingMetricReader(self._exporter))
        if self.exposition is not None:
            readers.append(self.exposition.reader)
        self.provider: OwnMeterProvider = OwnMeterProvider(
            metric_readers=readers,
            resource=resource,
            views=[View(instrument_name=name, aggregation=DropAggregation()) for name in _WRONG],
            shutdown_on_exit=False,  # its hook at exit has no deadline
        )
        self._readers = readers
        in_child(self._start_at_zero)

    def _start_at_zero(self) -> None:
        """Forget what the parent measured: it reports that itself."""
        consumer = self.provider._measurement_consumer
        if hasattr(consumer, "add_metric_reader"):  # gives a reader a storage that is empty
            consumer._lock = threading.Lock()
            for reader in self._readers:
                consumer.add_metric_reader(reader)

    def watch(self, sinks: Iterable[SpanSink]) -> None:
        """Tell how many spans each of *sinks* took and lost; it counts them anyway."""
        watched = tuple(sinks)

        def observe(options: CallbackOptions) -> Iterator[Observation]:
            for sink in watched:
                named = {COMPONENT_NAME: sink.destination}
                yield Observation(sink.exported, named)
                yield Observation(sink.lost, {**named, ERROR_TYPE: "lost"})

        self.provider.get_meter(SCOPE).create_observable_counter(
            METRIC_SPANS_EXPORTED, [observe], "{span}", "Spans that were exported or lost."
        )

    def force_flush(self) -> bool:
        """Send what was measured; the caller bounds the wait."""
        return self.provider.force_flush()

    def shutdown(self) -> None:
        """Send what was measured and stop; `abandon()` cuts it short."""
        self.provider.shutdown()

    def abandon(self) -> None:
        """Stop retrying: the deadline has passed."""
        if self._exporter is not None:
            self._exporter.shutdown()


class _Exporter(OTLPMetricExporter):
    """The SDK's exporter; what it lost is said once an interval, by us."""

    def __init__(self, endpoint: str) -> None:
        silence()
        self._losses = Losses("otlp", signal="metrics")
        super().__init__(endpoint=endpoint, session=Connections())

    def export(
        self, metrics_data: MetricsData, timeout_millis: float | None = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        result = super().export(mask_metrics(metrics_data), timeout_millis, **kwargs)
        if result is not MetricExportResult.SUCCESS:
            self._losses.add(_points(metrics_data), REASONS.take())
        return result


def _points(data: MetricsData) -> int:
    return sum(
        len(metric.data.data_points)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    )

"""
Metrics over OTLP: the provider behind the instruments, with one destination.
"""

from typing import Any, Final

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import (
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.metrics.view import DropAggregation, View
from opentelemetry.sdk.resources import Resource

from tracebaton.telemetry.adoption import OwnMeterProvider
from tracebaton.telemetry.connections import REASONS, Connections, silence
from tracebaton.telemetry.losses import Losses

__all__ = ["MetricPush"]

#: The ASGI instrumentation keeps a response's length on itself, where the next response of unknown
#: length finds it (opentelemetry-python-contrib#5081): no number is better than a wrong one.
_WRONG: Final = ("http.server.response.body.size", "http.server.response.size")


class MetricPush:
    """The meter provider of a process, and what sends its metrics once an interval."""

    def __init__(self, endpoint: str, resource: Resource) -> None:
        """
        Start the interval's thread; ``OTEL_METRIC_EXPORT_INTERVAL`` sets it.

        Args:
            endpoint: The whole URL, ``/v1/metrics`` included.
            resource: What names this process.
        """
        self._exporter = _Exporter(endpoint)
        self.provider = OwnMeterProvider(
            metric_readers=[PeriodicExportingMetricReader(self._exporter)],
            resource=resource,
            views=[View(instrument_name=name, aggregation=DropAggregation()) for name in _WRONG],
            shutdown_on_exit=False,  # its hook at exit has no deadline
        )

    def force_flush(self) -> bool:
        """Send what was measured; the caller bounds the wait."""
        return self.provider.force_flush()

    def shutdown(self) -> None:
        """Send what was measured and stop; `abandon()` cuts it short."""
        self.provider.shutdown()

    def abandon(self) -> None:
        """Stop retrying: the deadline has passed."""
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
        result = super().export(metrics_data, timeout_millis, **kwargs)
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

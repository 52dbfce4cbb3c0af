"""
Metrics for whoever comes and reads them: Prometheus, by the extra ``tracebaton[prometheus]``.
"""

from typing import Any

from opentelemetry.sdk.metrics.export import MetricReader, MetricsData

from tracebaton.errors import ConfigurationError
from tracebaton.telemetry.masked_metrics import mask_metrics

__all__ = ["Exposition"]


class Exposition:
    """
    What one process measured, in the format that a scrape asks for.

    The registry is its own: what others register in ``prometheus_client``'s stays theirs.

    Attributes:
        reader: Belongs into the meter provider.
    """

    def __init__(self) -> None:
        """
        Start empty.

        Raises:
            ConfigurationError: The extra is not installed.
        """
        try:
            from opentelemetry.exporter.prometheus import PrometheusMetricReader
            from prometheus_client import CollectorRegistry
        except ImportError as exc:
            raise ConfigurationError(
                "OTEL_METRICS_EXPORTER: prometheus needs an extra: pip install"
                " 'tracebaton[prometheus]'"
            ) from exc

        class Reader(PrometheusMetricReader):
            """The SDK's reader, without secrets; a class here, because the extra may be missing."""

            def _receive_metrics(self, metrics_data: MetricsData, *more: Any, **named: Any) -> None:
                super()._receive_metrics(mask_metrics(metrics_data), *more, **named)

        self._registry = CollectorRegistry()
        self.reader: MetricReader = Reader(registry=self._registry)

    def __call__(self, accept: str) -> tuple[str, bytes]:
        """Return the content type that *accept* asks for, and all that was measured."""
        from prometheus_client.exposition import choose_encoder

        encode, content_type = choose_encoder(accept)
        return content_type, encode(self._registry)

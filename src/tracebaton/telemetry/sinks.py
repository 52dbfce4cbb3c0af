"""
Where spans, log lines and metrics go, by the settings.
"""

from collections.abc import Iterable

from opentelemetry.sdk.resources import Resource

from tracebaton.settings import Settings
from tracebaton.telemetry.logs import LogPush
from tracebaton.telemetry.metrics import Metrics
from tracebaton.telemetry.otlp import SpanExport, otlp_span_exporter
from tracebaton.telemetry.sentry import Sentry

__all__ = ["log_push", "metering", "span_exports", "traces_endpoint"]


def traces_endpoint(settings: Settings) -> str | None:
    """Return where spans go by ``OTEL_EXPORTER_OTLP_*``, None for nowhere."""
    if settings.otel_traces_exporter != "otlp":
        return None
    base = settings.otlp_endpoint
    return settings.otlp_traces_endpoint or (_signal(base, "traces") if base else None)


def span_exports(settings: Settings, sentry: Sentry | None, *, otlp: bool) -> Iterable[SpanExport]:
    """
    Yield what sends spans by OTLP: to the endpoint, to the viewer, to Sentry in its mode ``otlp``.

    Args:
        otlp: Whether the configured endpoint is ours to send to.
    """
    if otlp and (endpoint := traces_endpoint(settings)) is not None:
        yield SpanExport(otlp_span_exporter(endpoint), destination="otlp")
    if settings.viewer_url:
        endpoint = _signal(settings.viewer_url, "traces")
        yield SpanExport(otlp_span_exporter(endpoint, local=True), destination="viewer")
    if sentry is not None and sentry.otlp is not None:
        endpoint, headers = sentry.otlp
        yield SpanExport(otlp_span_exporter(endpoint, headers=headers), destination="sentry")


def log_push(settings: Settings, resource: Resource) -> LogPush | None:
    """Return what sends log lines, None where they go to stdout only."""
    viewer = _signal(settings.viewer_url, "logs") if settings.viewer_url else None
    endpoint = settings.otlp_logs_endpoint if settings.otel_logs_exporter == "otlp" else None
    if viewer is None and endpoint is None:
        return None
    return LogPush(resource, endpoint=endpoint, viewer=viewer)


def metering(settings: Settings, resource: Resource) -> Metrics | None:
    """Return what measures, None where metrics go nowhere."""
    ways, base = settings.otel_metrics_exporter, settings.otlp_endpoint
    endpoint = settings.otlp_metrics_endpoint or (_signal(base, "metrics") if base else None)
    if "otlp" not in ways:
        endpoint = None
    if endpoint is None and "prometheus" not in ways:
        return None
    return Metrics(resource, endpoint=endpoint, prometheus="prometheus" in ways)


def _signal(base: str, signal: str) -> str:
    return f"{base.rstrip('/')}/v1/{signal}"

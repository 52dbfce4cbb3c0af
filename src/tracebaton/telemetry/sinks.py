"""
Where spans, log lines and metrics go, by the settings.

What sends OTLP is imported where something goes that way: the exporters, protobuf and requests are
9 MB of a process's memory.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from opentelemetry.sdk.resources import Resource

from tracebaton.settings import Settings
from tracebaton.telemetry.sentry import Sentry

if TYPE_CHECKING:
    from tracebaton.telemetry.logs import LogPush
    from tracebaton.telemetry.metrics import Metrics
    from tracebaton.telemetry.otlp import SpanExport

__all__ = ["log_push", "metering", "span_exports", "traces_endpoint"]


def traces_endpoint(settings: Settings) -> str | None:
    """Return where spans go by ``OTEL_EXPORTER_OTLP_*``, None for nowhere."""
    if settings.otel_traces_exporter != "otlp":
        return None
    base = settings.otlp_endpoint
    return settings.otlp_traces_endpoint or (_signal(base, "traces") if base else None)


def span_exports(
    settings: Settings, sentry: Sentry | None, *, otlp: bool
) -> Iterable["SpanExport"]:
    """
    Yield what sends spans by OTLP: to the endpoint, to the viewer, to Sentry in its mode ``otlp``.

    Args:
        otlp: Whether the configured endpoint is ours to send to.
    """
    if otlp and (endpoint := traces_endpoint(settings)) is not None:
        yield _export(endpoint, "otlp")
    if settings.viewer_url:
        yield _export(_signal(settings.viewer_url, "traces"), "viewer", local=True)
    if sentry is not None and sentry.otlp is not None:
        endpoint, headers = sentry.otlp
        yield _export(endpoint, "sentry", headers=headers)


def _export(
    endpoint: str,
    destination: str,
    *,
    headers: Mapping[str, str] | None = None,
    local: bool = False,
) -> "SpanExport":
    from tracebaton.telemetry.otlp import SpanExport, otlp_span_exporter

    exporter = otlp_span_exporter(endpoint, headers=headers, local=local)
    return SpanExport(exporter, destination=destination)


def log_push(settings: Settings, resource: Resource) -> "LogPush | None":
    """Return what sends log lines, None where they go to stdout only."""
    viewer = _signal(settings.viewer_url, "logs") if settings.viewer_url else None
    endpoint = settings.otlp_logs_endpoint if settings.otel_logs_exporter == "otlp" else None
    if viewer is None and endpoint is None:
        return None
    from tracebaton.telemetry.logs import LogPush

    return LogPush(resource, endpoint=endpoint, viewer=viewer)


def metering(settings: Settings, resource: Resource) -> "Metrics | None":
    """Return what measures, None where metrics go nowhere."""
    ways, base = settings.otel_metrics_exporter, settings.otlp_endpoint
    endpoint = settings.otlp_metrics_endpoint or (_signal(base, "metrics") if base else None)
    if "otlp" not in ways:
        endpoint = None
    if endpoint is None and "prometheus" not in ways:
        return None
    from tracebaton.telemetry.metrics import Metrics

    return Metrics(resource, endpoint=endpoint, prometheus="prometheus" in ways)


def _signal(base: str, signal: str) -> str:
    return f"{base.rstrip('/')}/v1/{signal}"

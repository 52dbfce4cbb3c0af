"""
Where spans, logs and failures go: Sentry, an OTLP backend, the local viewer, any of them together.

The only package that builds the OpenTelemetry SDK; the rest of tracebaton uses its API.
"""

from tracebaton.telemetry.pipeline import FlushReport, Telemetry, build

__all__ = ["FlushReport", "Telemetry", "build"]

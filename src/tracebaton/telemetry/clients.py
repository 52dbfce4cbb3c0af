"""
Spans of outgoing calls, by the OpenTelemetry instrumentations that ``TRACEBATON_INSTRUMENT`` names.
"""

from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from opentelemetry.instrumentation.dependencies import get_dist_dependency_conflicts
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]  # not in its __all__
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from tracebaton.errors import ConfigurationError
from tracebaton.settings import ALL_INSTALLED, INSTRUMENTATIONS

__all__ = ["Clients"]


class Clients:
    """The instrumentations of client libraries, found at once and switched on later."""

    def __init__(self, names: Iterable[str]) -> None:
        """
        Find the instrumentations of *names*.

        Raises:
            ConfigurationError: One is not installed, or its library is not.
        """
        chosen, found, missing = frozenset(names), [], []
        everything = ALL_INSTALLED in chosen
        for name in INSTRUMENTATIONS:
            if not everything and name not in chosen:
                continue
            entry = _entry(name)
            if entry is not None:
                found.append(entry)
            elif name in chosen:
                missing.append(name)
        if missing:
            remedy = " ".join(f"opentelemetry-instrumentation-{name}" for name in missing)
            raise ConfigurationError(
                f"TRACEBATON_INSTRUMENT: {', '.join(missing)} cannot be instrumented, its library"
                f" or its instrumentation is not installed: pip install {remedy}"
            )
        self._entries = found

    def instrument(self, tracer_provider: TracerProvider, meter_provider: MeterProvider) -> None:
        """Switch them on for the whole process; what somebody else switched on stays as it is."""
        for entry in self._entries:
            instrumentor: BaseInstrumentor = entry.load()()
            if not instrumentor.is_instrumented_by_opentelemetry:
                providers: dict[str, Any] = {
                    "tracer_provider": tracer_provider,
                    "meter_provider": meter_provider,
                }
                instrumentor.instrument(**providers)


def _entry(name: str) -> EntryPoint | None:
    """Return the instrumentation *name* if it and a fitting version of its library are here."""
    for entry in entry_points(group="opentelemetry_instrumentor", name=name):
        if entry.dist is not None and get_dist_dependency_conflicts(entry.dist) is None:
            return entry
    return None

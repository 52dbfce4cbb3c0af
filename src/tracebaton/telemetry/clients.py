"""
Spans of outgoing calls, by the OpenTelemetry instrumentations that ``TRACEBATON_INSTRUMENT`` names.
"""

from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.instrumentation.dependencies import get_dist_dependency_conflicts
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]  # not in its __all__
from opentelemetry.metrics import MeterProvider
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)
from opentelemetry.trace import TracerProvider

from tracebaton.errors import ConfigurationError
from tracebaton.propagation import Propagator
from tracebaton.settings import ALL_INSTALLED, INSTRUMENTATIONS

__all__ = ["Clients"]

#: What botocore's instrumentation writes with; it comes with it, and asks nobody about the host.
_XRAY: Final = "opentelemetry.propagators.aws.aws_xray_propagator"


class Clients:
    """The instrumentations of client libraries, found at once and switched on later."""

    def __init__(self, names: Iterable[str]) -> None:
        """
        Find the instrumentations of *names*.

        Raises:
            ConfigurationError: One is not installed, or its library is not.
        """
        chosen, found, missing = frozenset(names), [], []
        for name in INSTRUMENTATIONS:
            if name not in chosen and ALL_INSTALLED not in chosen:
                continue
            entry, hindrance = _entry(name)
            if entry is not None:
                found.append(entry)
            elif name in chosen:
                missing.append(f"{name} cannot be instrumented: {hindrance}")
        if missing:
            raise ConfigurationError(f"TRACEBATON_INSTRUMENT: {'; '.join(missing)}")
        self._entries = found

    def instrument(
        self,
        tracer_provider: TracerProvider,
        meter_provider: MeterProvider,
        propagator: Propagator,
    ) -> None:
        """Switch them on for the whole process; what somebody else switched on stays as it is."""
        for entry in self._entries:
            instrumentor: BaseInstrumentor = entry.load()()
            if not instrumentor.is_instrumented_by_opentelemetry:
                options: dict[str, Any] = {
                    "tracer_provider": tracer_provider,
                    "meter_provider": meter_provider,
                }
                if entry.name == "botocore":
                    xray: TextMapPropagator = import_module(_XRAY).AwsXRayPropagator()
                    options["propagator"] = _Bordered(xray, propagator)
                instrumentor.instrument(**options)


class _Bordered(TextMapPropagator):
    """Somebody else's propagator, for hosts that may learn of the trace."""

    def __init__(self, inner: TextMapPropagator, border: Propagator) -> None:
        self._inner = inner
        self._border = border

    @property
    def fields(self) -> set[str]:
        return self._inner.fields

    def extract(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        getter: Getter[CarrierT] = default_getter,
    ) -> Context:
        return self._inner.extract(carrier, context, getter)

    def inject(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        setter: Setter[CarrierT] = default_setter,
    ) -> None:
        if self._border.may_tell(context):
            self._inner.inject(carrier, context, setter)


def _entry(name: str) -> tuple[EntryPoint | None, str]:
    """Return the instrumentation *name* if a fitting version of its library is here, or why not."""
    for entry in entry_points(group="opentelemetry_instrumentor", name=name):
        conflict = None if entry.dist is None else get_dist_dependency_conflicts(entry.dist)
        if conflict is None:
            return entry, ""
        wanted = conflict.required or " or ".join(conflict.required_any)
        return None, f"pip install '{wanted}'" + (
            f" in place of {conflict.found}" if conflict.found else ""
        )
    return None, f"pip install opentelemetry-instrumentation-{name}"

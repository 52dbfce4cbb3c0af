"""
Build what a process needs to be seen, and make it the process's own.
"""

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from opentelemetry import metrics, propagate, trace
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.trace import NoOpTracerProvider, ProxyTracerProvider

from tracebaton.errors import ConfigurationError
from tracebaton.propagation import Propagator
from tracebaton.semconv import EVENT_SPOTLIGHT_IDLE, EVENT_TELEMETRY_JOINED
from tracebaton.settings import Settings, prefer_stable_http_conventions
from tracebaton.telemetry import sinks
from tracebaton.telemetry.adoption import Found, OwnTracerProvider, pipelines_of
from tracebaton.telemetry.clients import Clients
from tracebaton.telemetry.enrichment import SpanPipeline
from tracebaton.telemetry.kept import kept_errors
from tracebaton.telemetry.resource import resource_of
from tracebaton.telemetry.running import FlushReport, Role, Telemetry
from tracebaton.telemetry.sampling import HeadRates, HeadSampler
from tracebaton.telemetry.sentry import Sentry

__all__ = ["FlushReport", "Role", "Telemetry", "build", "resource_of", "standing"]

_log = logging.getLogger("tracebaton.telemetry")
#: What sentry-sdk reads as false in ``SENTRY_SPOTLIGHT``.
_NO: Final = frozenset({"", "0", "f", "n", "no", "off", "false"})
_SPOTLIGHT_REMEDY: Final = "Set SENTRY_DSN=http://x@127.0.0.1:8969/1: without a DSN nothing is sent"


def build(
    settings: Settings,
    *,
    role: Role,
    install: bool = True,
    sample_rates: Mapping[str, float] = MappingProxyType({}),
) -> Telemetry:
    """
    Return the telemetry that *settings* ask for.

    Args:
        settings: Which sinks, which rate, whom to trust.
        role: Names the service where ``OTEL_SERVICE_NAME`` does not.
        install: Make provider and propagator OpenTelemetry's global ones. The provider is global
            once a process; a second call keeps the first one's and works beside it. What the
            application set up before stays: spans go through its provider, sampled and sent to its
            endpoint by it, and to Sentry and the viewer by us.
        sample_rates: The application's own, by route or task type; ``TRACEBATON_SAMPLE_RATES``
            wins. Looked up at each head, so they may still grow.

    Raises:
        ConfigurationError: This sentry-sdk cannot do what ``TRACEBATON_SENTRY_MODE`` needs, what
            ``TRACEBATON_INSTRUMENT`` names is not installed, or a variable that the OpenTelemetry
            SDK reads by itself is wrong.
    """
    if _asks_for_spotlight(settings) and not settings.sentry_dsn:
        fields = {"variable": "SENTRY_SPOTLIGHT", "remedy": _SPOTLIGHT_REMEDY}
        _log.warning(EVENT_SPOTLIGHT_IDLE, extra={"fields": fields})
    clients = Clients(settings.instrument)
    prefer_stable_http_conventions()
    resource = resource_of(settings, role=role)
    rates = HeadRates(settings.sample_rate, settings.sample_rates, sample_rates)
    sentry = _sentry(settings, resource, rates) if settings.sentry_dsn else None
    propagator = Propagator(
        trust_baggage=settings.trust_baggage,
        propagate_baggage_to=settings.propagate_baggage_to,
        propagate_trace_to=settings.propagate_trace_to,
        sentry=None if sentry is None else sentry.members,
    )
    found = Found.now() if install else Found()
    try:
        telemetry = (
            _disabled(resource, propagator, sentry)
            if settings.otel_sdk_disabled
            else _enabled(settings, resource, propagator, sentry=sentry, rates=rates, found=found)
        )
    except ValueError as exc:  # the SDK reads its limits by itself, and names them
        raise ConfigurationError(f"OpenTelemetry: {exc}") from exc
    telemetry.shutdown_at_exit()
    if install:
        _install(telemetry, found)
        if not settings.otel_sdk_disabled:
            clients.instrument(
                telemetry.tracer_provider, telemetry.meter_provider, telemetry.propagator
            )
    return telemetry


def _asks_for_spotlight(settings: Settings) -> bool:
    """Tell whether sentry-sdk would send to a Spotlight: a URL, or what it reads as true."""
    return (settings.sentry_spotlight or "").lower() not in _NO


def standing(
    settings: Settings, *, role: Role, sample_rates: Mapping[str, float] = MappingProxyType({})
) -> Telemetry | None:
    """
    Return what ``configure_telemetry()`` installed for the same *settings*, while it runs.

    Args:
        sample_rates: Count there from now on.
    """
    for pipeline in pipelines_of(trace.get_tracer_provider()):
        owner = pipeline.owner
        if isinstance(owner, Telemetry) and owner.serves(settings, role):
            if owner.rates is not None and sample_rates:
                owner.rates.also(sample_rates)
            return owner
    return None


def _sentry(settings: Settings, resource: Resource, rates: HeadRates) -> Sentry:
    number = str(resource.attributes["service.version"])
    return Sentry(
        settings,
        release=settings.sentry_release or f"tracebaton@{number}",
        environment=str(resource.attributes["deployment.environment.name"]),
        rates=rates,
    )


def _disabled(resource: Resource, propagator: Propagator, sentry: Sentry | None) -> Telemetry:
    return Telemetry(
        tracer_provider=NoOpTracerProvider(),
        propagator=propagator,
        resource=resource,
        sentry=sentry,
        meter_provider=NoOpMeterProvider(),
    )


def _enabled(
    settings: Settings,
    resource: Resource,
    propagator: Propagator,
    *,
    sentry: Sentry | None,
    rates: HeadRates,
    found: Found,
) -> Telemetry:
    theirs = found.tracer_provider
    exports = (
        []
        if found.has_pipeline
        else list(sinks.span_exports(settings, sentry, otlp=theirs is None))
    )
    ends: list[SpanProcessor] = [*exports]
    transactions = None if sentry is None else sentry.processor
    if transactions is not None and not (found.has_sentry or found.has_pipeline):
        ends.append(transactions)
    if settings.keep_errors and theirs is None:
        ends.append(kept_errors(exports))
    pipeline = SpanPipeline(ends)
    provider = theirs or _provider(settings, resource, rates)
    if hasattr(provider, "add_span_processor"):  # any that is the SDK's or modelled on it
        provider.add_span_processor(pipeline)
    metering = None if found.meter_provider else sinks.metering(settings, resource)
    if metering is not None:
        metering.watch([*exports] if transactions is None or sentry is None else [*exports, sentry])
    return Telemetry(
        tracer_provider=provider,
        propagator=propagator,
        resource=resource,
        pipeline=pipeline,
        exports=exports,
        sentry=sentry,
        logs=sinks.log_push(settings, resource),
        meter_provider=None if metering is None else metering.provider,
        metering=metering,
        rates=rates,
    )


def _provider(settings: Settings, resource: Resource, rates: HeadRates) -> TracerProvider:
    return OwnTracerProvider(
        sampler=HeadSampler(
            rates,
            trust_sampling=settings.trust_sampling,
            keep_errors=settings.keep_errors,
            record_calls=bool(settings.propagate_baggage_to)
            or settings.propagate_trace_to is not None,
            keep_polls="receive" in settings.queue_spans,
        ),
        resource=resource,
        shutdown_on_exit=False,  # its hook at exit has no deadline
    )


def _install(telemetry: Telemetry, found: Found) -> None:
    # A provider that does nothing is no reason to take the place, which is given away once only.
    does = not isinstance(telemetry.tracer_provider, NoOpTracerProvider)
    if does and isinstance(trace.get_tracer_provider(), ProxyTracerProvider):
        trace.set_tracer_provider(telemetry.tracer_provider)
    if telemetry.has_metrics and not isinstance(metrics.get_meter_provider(), MeterProvider):
        metrics.set_meter_provider(telemetry.meter_provider)
    if not found.propagator_chosen:
        propagate.set_global_textmap(telemetry.propagator)
    if found.tracer_provider is not None:
        fields = {"provider": type(found.tracer_provider).__qualname__}
        _log.info(EVENT_TELEMETRY_JOINED, extra={"fields": fields})

"""
Build what a process needs to be seen, and take it down within a deadline.
"""

import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from types import MappingProxyType
from typing import Final, Literal

from opentelemetry import metrics, propagate, trace
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.trace import NoOpTracerProvider, ProxyTracerProvider, Tracer

from tracebaton.errors import ConfigurationError
from tracebaton.problems import NO_REPORTER, Reporter
from tracebaton.propagation import Propagator
from tracebaton.semconv import EVENT_SPOTLIGHT_IDLE, EVENT_TELEMETRY_JOINED, SCOPE
from tracebaton.settings import Settings, prefer_stable_http_conventions
from tracebaton.telemetry.adoption import Found, OwnTracerProvider, pipelines_of
from tracebaton.telemetry.clients import Clients
from tracebaton.telemetry.ending import AtOnce, at_exit
from tracebaton.telemetry.enrichment import SpanPipeline
from tracebaton.telemetry.kept import kept_errors
from tracebaton.telemetry.logs import LogPush
from tracebaton.telemetry.metrics import Metrics
from tracebaton.telemetry.otlp import SpanExport, otlp_span_exporter
from tracebaton.telemetry.prometheus import Exposition
from tracebaton.telemetry.sampling import HeadRates, HeadSampler
from tracebaton.telemetry.sentry import Sentry

__all__ = ["FlushReport", "Role", "Telemetry", "build", "resource_of", "standing"]

Role = Literal["api", "worker"]

_log = logging.getLogger("tracebaton.telemetry")
#: Sentry's own default, so that issues of a process without the variable stay together.
_ENVIRONMENT: Final = "production"
#: What sentry-sdk reads as false in ``SENTRY_SPOTLIGHT``.
_NO: Final = frozenset({"", "0", "f", "n", "no", "off", "false"})
_SPOTLIGHT_REMEDY: Final = "Set SENTRY_DSN=http://x@127.0.0.1:8969/1: without a DSN nothing is sent"
#: Seconds that the end of a process waits for its sinks where nobody called `shutdown()`.
EXIT_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class FlushReport:
    """
    What became of the spans when telemetry was shut down.

    Attributes:
        spans_exported: Spans that a destination took, once a destination, since the start.
        spans_dropped: Spans that one refused, that did not fit its queue, or that the deadline cut.
        complete: Whether nothing was waiting at the end.
    """

    spans_exported: int
    spans_dropped: int
    complete: bool


class Telemetry:
    """
    A process's tracer, propagator, reporter and log handler.

    Attributes:
        tracer_provider: OpenTelemetry's provider; one without spans where the SDK is disabled.
        propagator: The one propagator.
        reporter: Where failures go; `NO_REPORTER` without a DSN.
        log_handler: Sends log lines to viewer and logs endpoint; None without both.
        resource: What names this process to every backend.
        sentry: The connection to Sentry; None without a DSN.
        meter_provider: Ours where metrics go anywhere, else the global one.
        asked: The settings and the role of the whole process that it was built for.
        rates: The head's, where we decide.
    """

    def __init__(
        self,
        *,
        tracer_provider: trace.TracerProvider,
        propagator: Propagator,
        resource: Resource,
        pipeline: SpanPipeline | None = None,
        exports: Iterable[SpanExport] = (),
        sentry: Sentry | None = None,
        logs: LogPush | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        metering: Metrics | None = None,
        rates: HeadRates | None = None,
    ) -> None:
        self.tracer_provider = tracer_provider
        self.propagator = propagator
        self.resource = resource
        self.reporter: Reporter = NO_REPORTER if sentry is None else sentry.reporter
        self.log_handler = None if logs is None else logs.handler
        self._pipeline = pipeline
        self._exports = tuple(exports)
        self.sentry = sentry
        self._pushes = tuple(push for push in (logs, metering) if push is not None)
        self._metering = metering
        self.meter_provider = meter_provider or metrics.get_meter_provider()
        self.asked: tuple[Settings, Role] | None = None
        self.rates = rates
        if pipeline is not None:
            pipeline.owner = self
        self._report: FlushReport | None = None
        self._stopping = AtOnce(self._stops())
        self._cancel: Callable[[], object] = lambda: None

    @property
    def tracer(self) -> Tracer:
        """Return the tracer of our manual spans."""
        return self.tracer_provider.get_tracer(SCOPE)

    def serves(self, settings: Settings, role: Role) -> bool:
        """Tell whether it was built for a process that is set up like that, and still runs."""
        return self.asked == (settings, role) and self._report is None

    @property
    def has_metrics(self) -> bool:
        """Tell whether metrics go anywhere."""
        return self._metering is not None

    @property
    def exposition(self) -> Exposition | None:
        """Return what a Prometheus scrape gets, None where nobody asked for it."""
        return None if self._metering is None else self._metering.exposition

    def force_flush(self, timeout: float) -> bool:
        """Send what has ended within *timeout* seconds and tell whether all of it left."""
        flushes: list[Callable[[], object]] = [
            one.force_flush for one in (*self._exports, *self._pushes)
        ]
        calls: list[Callable[[float], object]] = [_timeless(flush) for flush in flushes]
        if self.sentry is not None:
            calls.append(self.sentry.force_flush)
        return AtOnce(calls).within(timeout) and not self._waiting

    @property
    def _waiting(self) -> int:
        sentry = 0 if self.sentry is None else self.sentry.waiting
        return sentry + sum(export.waiting for export in self._exports)

    def shutdown_at_exit(self, timeout: float = EXIT_SECONDS) -> None:
        """Call `shutdown()` when the interpreter ends, unless somebody else does before."""
        self._cancel = at_exit(self._stopping.prepare, partial(self.shutdown, timeout))

    def shutdown(self, timeout: float) -> FlushReport:
        """
        Send what waits and stop, in *timeout* seconds whatever state the sinks are in.

        All destinations are flushed at the same time; what hangs is left behind in daemon threads.
        A second call returns the first one's report.
        """
        self._cancel()
        if self._report is None:
            self._report = self._shut_down(timeout)
        return self._report

    def _shut_down(self, timeout: float) -> FlushReport:
        complete = self._stopping.within(timeout) and not self._waiting
        if self._pipeline is not None:
            self._pipeline.retire()
        for left in (*self._exports, *self._pushes):
            left.abandon()
        return self._counted(complete=complete)

    def flush(self, timeout: float) -> FlushReport:
        """Send what waits, like `shutdown()`, and go on."""
        return self._counted(complete=self.force_flush(timeout))

    def _counted(self, *, complete: bool) -> FlushReport:
        sinks: list[SpanExport | Sentry] = [*self._exports]
        if self.sentry is not None:
            sinks.append(self.sentry)
        return FlushReport(
            spans_exported=sum(sink.exported for sink in sinks),
            spans_dropped=sum(sink.unsent for sink in sinks),
            complete=complete,
        )

    def _stops(self) -> Iterator[Callable[[float], object]]:
        yield from (_timeless(one.shutdown) for one in (*self._exports, *self._pushes))
        if self.sentry is not None:
            yield self.sentry.shutdown


def _timeless(call: Callable[[], object]) -> Callable[[float], object]:
    """Return *call* for those who give it a deadline, which it does not know."""
    return lambda timeout: call()


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
    exports = [] if found.has_pipeline else list(_exports(settings, sentry, otlp=theirs is None))
    sinks: list[SpanProcessor] = [*exports]
    transactions = None if sentry is None else sentry.processor
    if transactions is not None and not (found.has_sentry or found.has_pipeline):
        sinks.append(transactions)
    if settings.keep_errors and theirs is None:
        sinks.append(kept_errors(exports))
    pipeline = SpanPipeline(sinks)
    provider = theirs or _provider(settings, resource, rates)
    if hasattr(provider, "add_span_processor"):  # any that is the SDK's or modelled on it
        provider.add_span_processor(pipeline)
    metering = None if found.meter_provider else _metering(settings, resource)
    if metering is not None:
        metering.watch([*exports] if transactions is None or sentry is None else [*exports, sentry])
    return Telemetry(
        tracer_provider=provider,
        propagator=propagator,
        resource=resource,
        pipeline=pipeline,
        exports=exports,
        sentry=sentry,
        logs=_log_push(settings, resource),
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


def _exports(settings: Settings, sentry: Sentry | None, *, otlp: bool) -> Iterable[SpanExport]:
    wanted = otlp and settings.otel_traces_exporter == "otlp"
    if wanted and (settings.otlp_traces_endpoint or settings.otlp_endpoint):
        endpoint = settings.otlp_traces_endpoint or _signal(settings.otlp_endpoint or "", "traces")
        yield SpanExport(otlp_span_exporter(endpoint), destination="otlp")
    if settings.viewer_url:
        endpoint = _signal(settings.viewer_url, "traces")
        yield SpanExport(otlp_span_exporter(endpoint, local=True), destination="viewer")
    if sentry is not None and sentry.otlp is not None:
        endpoint, headers = sentry.otlp
        yield SpanExport(otlp_span_exporter(endpoint, headers=headers), destination="sentry")


def _log_push(settings: Settings, resource: Resource) -> LogPush | None:
    viewer = _signal(settings.viewer_url, "logs") if settings.viewer_url else None
    endpoint = settings.otlp_logs_endpoint if settings.otel_logs_exporter == "otlp" else None
    if viewer is None and endpoint is None:
        return None
    return LogPush(resource, endpoint=endpoint, viewer=viewer)


def _metering(settings: Settings, resource: Resource) -> Metrics | None:
    ways, base = settings.otel_metrics_exporter, settings.otlp_endpoint
    endpoint = settings.otlp_metrics_endpoint or (_signal(base, "metrics") if base else None)
    if "otlp" not in ways:
        endpoint = None
    if endpoint is None and "prometheus" not in ways:
        return None
    return Metrics(resource, endpoint=endpoint, prometheus="prometheus" in ways)


def _signal(base: str, signal: str) -> str:
    return f"{base.rstrip('/')}/v1/{signal}"


def resource_of(settings: Settings, *, role: Role) -> Resource:
    """
    Return what names this process: our defaults, over them ``OTEL_RESOURCE_ATTRIBUTES``, over
    those the variables of their own.
    """
    defaults = {
        "service.name": f"tracebaton-{role}",
        "service.version": version("tracebaton"),
        "service.instance.id": str(uuid.uuid4()),
        "deployment.environment.name": _ENVIRONMENT,
    }
    named = {
        "service.name": settings.otel_service_name,
        "service.version": settings.sentry_release,
        "deployment.environment.name": settings.sentry_environment,
    }
    return Resource.create(
        defaults
        | dict(OTELResourceDetector().detect().attributes)
        | {key: value for key, value in named.items() if value}
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

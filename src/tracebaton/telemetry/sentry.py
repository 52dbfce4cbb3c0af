"""
Sentry: transactions through sentry-sdk's span processor, failures once and linked.

The only module that imports ``sentry_sdk``. Spans are not translated while the request waits: they
are gathered as OpenTelemetry ends them, and when the local root has ended one background thread
replays the whole unit through ``SentrySpanProcessor`` under the unit's isolation scope. So a job
may run for hours, nothing is pruned, threads cannot race over the processor's map, and a span that
ends after its root is simply a transaction of its own.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, Literal
from uuid import uuid4

import sentry_sdk
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import format_span_id, format_trace_id
from sentry_sdk.integrations.argv import ArgvIntegration
from sentry_sdk.integrations.atexit import AtexitIntegration
from sentry_sdk.integrations.dedupe import DedupeIntegration
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_sdk.scope import (
    Scope,
    ScopeType,
    register_external_propagation_context,
    use_isolation_scope,
    use_scope,
)
from sentry_sdk.tracing import get_span_status_from_http_code
from sentry_sdk.transport import HttpTransport
from sentry_sdk.utils import Dsn, event_from_exception

from tracebaton.context import current
from tracebaton.errors import ConfigurationError
from tracebaton.problems import Outcome, Reporter
from tracebaton.settings import Settings
from tracebaton.telemetry.dsc import DynamicSampling
from tracebaton.telemetry.handover import Handover
from tracebaton.telemetry.outages import Outages
from tracebaton.telemetry.transactions import describe
from tracebaton.telemetry.units import Ended, Unit, UnitCollector

try:
    from sentry_sdk.integrations.opentelemetry import SentrySpanProcessor
except ImportError:  # sentry-sdk 3 has none; `check_sdk()` says so before anything is built
    SentrySpanProcessor = SpanProcessor  # type: ignore[misc,assignment]  # never called then

__all__ = ["Sentry", "check_sdk"]

Mode = Literal["span-processor", "otlp"]

#: Envelopes, and units on their way to become one, that may wait in memory.
QUEUE_SIZE: Final = 10_000
_REPORTED: Final = "_tracebaton_event"
_log = logging.getLogger("tracebaton.telemetry")


def check_sdk(mode: Mode, *, version: str, lifecycle: str | None) -> None:
    """
    Refuse a sentry-sdk that would silently send no transactions.

    Args:
        mode: ``TRACEBATON_SENTRY_MODE``.
        version: Of sentry-sdk.
        lifecycle: Its ``trace_lifecycle`` option.

    Raises:
        ConfigurationError: Version 3 has no span processor, and streaming ignores it.
    """
    if mode == "otlp":
        return
    if int(version.split(".")[0]) >= 3:
        raise ConfigurationError(
            f"TRACEBATON_SENTRY_MODE=span-processor needs sentry-sdk below 3, found {version}: "
            "install sentry-sdk<3 or set TRACEBATON_SENTRY_MODE=otlp"
        )
    if lifecycle == "stream":
        raise ConfigurationError(
            "TRACEBATON_SENTRY_MODE=span-processor sends nothing with trace_lifecycle=stream: "
            "set trace_lifecycle=static or TRACEBATON_SENTRY_MODE=otlp"
        )


class _Transport(HttpTransport):
    """
    The SDK's transport, out of sight of instrumentations, counting what Sentry took.

    An instrumented urllib3 would otherwise make a transaction of each envelope that is sent.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(options)
        self.submitted = self.finished = self.spans = 0

    def capture_envelope(self, envelope: Any) -> None:
        self.submitted += 1
        super().capture_envelope(envelope)

    def on_dropped_event(self, _reason: str) -> None:
        _log.warning("telemetry.envelope_lost", extra={"fields": {"reason": _reason}})

    def _send_envelope(self, envelope: Any) -> None:
        try:
            with suppress_instrumentation():
                super()._send_envelope(envelope)
            event = envelope.get_transaction_event()
            self.spans += 0 if event is None else 1 + len(event.get("spans") or ())
        finally:
            self.finished += 1


class _Replay(SentrySpanProcessor):
    """sentry-sdk's span processor, fed from one thread with whole units of ended spans."""

    def __new__(cls) -> "_Replay":
        return object.__new__(cls)  # the base class is a singleton across clients

    def __init__(self) -> None:
        # Not the base's: it registers a global event processor that rewrites a transaction's ids to
        # those of whatever span is current, and its maps are shared by the class.
        self.otel_span_map: dict[str, Any] = {}
        self.open_spans: dict[int, set[str]] = {}

    def _is_sentry_span(self, otel_span: ReadableSpan) -> bool:
        return False  # such spans were not gathered; the base knows only the old URL attribute

    def _prune_old_spans(self) -> None:
        """Keep what is ten minutes old: the maps live for one replay."""

    def send(self, unit: Unit[Scope], complete: Callable[..., Any]) -> None:
        """Send *unit* as a transaction that *complete* has the last word on."""
        fresh = Scope(ty=ScopeType.CURRENT)
        fresh.add_event_processor(complete)
        with use_isolation_scope(unit.scope), use_scope(fresh):
            try:
                self._start(unit.root)
                for ended in sorted(unit.spans, key=_start_time):  # parents first
                    self._start(ended)
                for ended in (*unit.spans, unit.root):
                    super().on_end(ended.span)
            finally:
                self.otel_span_map.clear()
                self.open_spans.clear()

    def _start(self, ended: Ended) -> None:
        super().on_start(ended.span)
        span = self.otel_span_map.get(format_span_id(ended.span.context.span_id))
        if span is not None:
            span.set_thread(ended.thread_id, ended.thread_name)


def _start_time(ended: Ended) -> int:
    return ended.span.start_time or 0


class Sentry:
    """The connection to one Sentry project."""

    def __init__(self, settings: Settings, *, release: str, environment: str) -> None:
        """
        Initialise sentry-sdk for this process.

        Args:
            settings: With ``SENTRY_DSN`` set.
            release: What Sentry shall know as the release.
            environment: What Sentry shall know as the environment.

        Raises:
            ConfigurationError: This sentry-sdk cannot do what the mode needs.
        """
        self._mode: Mode = settings.sentry_mode
        self._queue_child = settings.sentry_queue_child
        self._dsn = Dsn(settings.sentry_dsn or "")
        check_sdk(self._mode, version=sentry_sdk.VERSION, lifecycle=None)
        self._replay = _Replay()
        self._units: UnitCollector[Scope] = UnitCollector(
            capture=sentry_sdk.get_isolation_scope, submit=self._submit, ignore=self._is_own_call
        )
        self.members = DynamicSampling(
            public_key=self._dsn.public_key,
            org=getattr(self._dsn, "org_id", None),
            release=release,
            environment=environment,
            rate=settings.sample_rate,
            units=self._units,
        )
        self._outages = Outages()
        self._handover: Handover[Unit[Scope]] = Handover(
            self._send,
            name="tracebaton-sentry",
            limit=QUEUE_SIZE,
            tick=self._outages.send_due,
        )
        sentry_sdk.init(**_options(settings, release, environment, self._before_send))
        options = sentry_sdk.get_client().options
        check_sdk(self._mode, version=sentry_sdk.VERSION, lifecycle=options.get("trace_lifecycle"))
        register_external_propagation_context(_current_ids)
        if settings.sentry_profile_session_sample_rate:
            sentry_sdk.profiler.start_profiler()
        self.reporter: Reporter = _Reporter(self._outages, self._handover.wake)

    @property
    def processor(self) -> SpanProcessor | None:
        """Return what gathers spans for transactions; None in mode ``otlp``."""
        return self._units if self._mode == "span-processor" else None

    @property
    def otlp(self) -> tuple[str, dict[str, str]] | None:
        """Return Sentry's OTLP endpoint and its headers, in mode ``otlp`` only."""
        if self._mode != "otlp":
            return None
        dsn = self._dsn
        path = f"{dsn.path}api/{dsn.project_id}/integration/otlp/v1/traces/"
        auth = dsn.to_auth(f"sentry.python/{sentry_sdk.VERSION}")
        return f"{dsn.scheme}://{dsn.netloc}{path}", {"x-sentry-auth": str(auth.to_header())}

    def flush(self, timeout: float) -> bool:
        """Send what is ready within *timeout* seconds and tell whether all of it left."""
        drained = self._handover.drain(timeout)
        sentry_sdk.get_client().flush(timeout=timeout)
        return drained and self._unsent() == 0

    def shutdown(self, timeout: float) -> tuple[int, int, bool]:
        """Flush, stop, and return the spans sent, the spans lost, and whether nothing is left."""
        drained = self._handover.drain(timeout)
        self._outages.send_due(all_of_them=True)
        with suppress(Exception):  # not running is fine
            sentry_sdk.profiler.stop_profiler()
        transport = sentry_sdk.get_client().transport
        sentry_sdk.get_client().close(timeout=timeout)
        spans = transport.spans if isinstance(transport, _Transport) else 0
        return spans, len(self._handover), drained and self._unsent(transport) == 0

    def _unsent(self, transport: Any = None) -> int:
        transport = transport or sentry_sdk.get_client().transport
        if not isinstance(transport, _Transport):
            return 0
        return transport.submitted - transport.finished

    def _is_own_call(self, span: ReadableSpan) -> bool:
        urls = (span.attributes or {}).get("url.full"), (span.attributes or {}).get("http.url")
        return any(url and self._dsn.netloc in str(url) for url in urls)

    def _submit(self, unit: Unit[Scope]) -> None:
        if self._handover.submit(unit):
            return
        transport = sentry_sdk.get_client().transport
        if transport is not None:
            transport.record_lost_event("queue_overflow", data_category="transaction")

    def _send(self, unit: Unit[Scope]) -> None:
        self._replay.send(unit, partial(self._complete, unit))

    def _complete(self, unit: Unit[Scope], event: dict[str, Any], hint: Any) -> dict[str, Any]:
        root = unit.root.span
        describe(
            event,
            root,
            (ended.span for ended in unit.spans),
            http_status=get_span_status_from_http_code,
            queue_child=self._queue_child,
        )
        header = self.members.header(root.context, unit.node, root)
        event["contexts"]["trace"]["dynamic_sampling_context"] = header
        return event

    def _before_send(self, event: dict[str, Any], hint: Mapping[str, Any]) -> dict[str, Any] | None:
        """Drop the second event of one exception object in one trace; link the first."""
        exc = (hint.get("exc_info") or (None, None))[1]
        ids = _current_ids()
        if exc is not None and not _first_report(exc, ids and ids[0], event["event_id"]):
            return None
        context = event.setdefault("contexts", {}).setdefault("trace", {})
        span = trace.get_current_span().get_span_context()
        if span.is_valid and context.get("trace_id") == format_trace_id(span.trace_id):
            node = self._units.node(span.span_id)
            context["dynamic_sampling_context"] = self.members.header(span, node)
        return event


def _first_report(exc: BaseException, trace_id: str | None, event_id: str) -> bool:
    """Mark *exc* as reported in this trace; a cached object raised in another one is new."""
    seen = getattr(exc, _REPORTED, None)
    if seen is not None and (None in (seen[0], trace_id) or seen[0] == trace_id):
        return False
    with suppress(AttributeError, TypeError):  # an exception with slots cannot be marked
        setattr(exc, _REPORTED, (trace_id, event_id))
    return True


def _current_ids() -> tuple[str, str] | None:
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return None
    return format_trace_id(span.trace_id), format_span_id(span.span_id)


class _Reporter:
    """Failures as Sentry events, and units of work kept apart."""

    def __init__(self, outages: Outages, wake: Callable[[], None]) -> None:
        self._outages = outages
        self._wake = wake

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """Start a unit of work with nothing inherited: no tag, user or breadcrumb."""
        # New scopes and not the SDK's isolation_scope(): that one copies what is there.
        with (
            use_isolation_scope(Scope(ty=ScopeType.ISOLATION)) as scope,
            use_scope(Scope(ty=ScopeType.CURRENT)),
        ):
            scope.set_new_propagation_context()
            yield

    def report(
        self,
        exc: BaseException,
        outcome: Outcome,
        *,
        mechanism: str,
        tags: Mapping[str, str],
        failures: Sequence[Mapping[str, Any]] = (),
    ) -> str | None:
        """Send *exc* once and return its event's id."""
        if not outcome.outage:
            event, hint = _event(exc, outcome, mechanism, tags)
            if failures:
                event["contexts"]["attempts"] = {"failures": [dict(one) for one in failures]}
            sent = sentry_sdk.capture_event(event, hint=hint)
            return sent or getattr(exc, _REPORTED, (None, None))[1]

        def opened() -> tuple[str, Callable[[int], Any]]:
            event, hint = _event(exc, outcome, mechanism, tags)
            send = partial(_send_outage, event, hint, sentry_sdk.get_isolation_scope())
            return event["event_id"], send

        event_id = self._outages.add(outcome.code, opened)
        self._wake()
        return event_id


def _send_outage(event: Any, hint: dict[str, Any], scope: Scope, count: int) -> None:
    event["contexts"]["outage"] = {"count": count}
    with use_isolation_scope(scope):
        sentry_sdk.capture_event(event, hint=hint)


def _event(
    exc: BaseException, outcome: Outcome, mechanism: str, tags: Mapping[str, str]
) -> tuple[Any, dict[str, Any]]:
    event, hint = event_from_exception(
        exc,
        client_options=sentry_sdk.get_client().options,
        mechanism={"type": mechanism, "handled": False},
    )
    store, ids = current(), _current_ids()
    known = {
        "code": outcome.code,
        "retryable": str(outcome.retryable).lower(),
        "http_status": str(outcome.status) if mechanism == "asgi" else None,
        "correlation_id": store.correlation_id,
        "task_id": store.task_id,
        "attempt": None if store.attempt is None else str(store.attempt),
    }
    whole: dict[str, Any] = dict(event)
    whole["event_id"] = uuid4().hex
    whole["timestamp"] = datetime.now(UTC)
    whole["tags"] = {key: value for key, value in known.items() if value} | dict(tags)
    whole["contexts"] = {"trace": {"trace_id": ids[0], "span_id": ids[1]}} if ids else {}
    if store.user_id:
        whole["user"] = {"id": store.user_id}
    return whole, dict(hint)


def _options(
    settings: Settings, release: str, environment: str, before_send: Callable[..., Any]
) -> dict[str, Any]:
    options: dict[str, Any] = {
        "dsn": settings.sentry_dsn,
        "release": release,
        "environment": environment,
        "before_send": before_send,
        "transport": _Transport,
        "transport_queue_size": QUEUE_SIZE,
        # What is merely installed stays out; OpenTelemetry instruments, and writes the headers.
        "auto_enabling_integrations": False,
        "trace_propagation_targets": [],
        "integrations": [
            # Logs are breadcrumbs; what is an event is decided by the one error mapping.
            LoggingIntegration(level=logging.INFO, event_level=None),
            # The stop has its own deadline and its own line; nothing is printed at exit.
            AtexitIntegration(callback=lambda pending, timeout: None),
        ],
        # Dedupe forgets all but the last exception, Argv sends the command line.
        "disabled_integrations": [DedupeIntegration(), ArgvIntegration()],
        "include_local_variables": False,
        "auto_session_tracking": False,
        # It would halve the rate of one process and not of the other: half traces.
        "enable_backpressure_handling": False,
        "profile_session_sample_rate": settings.sentry_profile_session_sample_rate,
        "profile_lifecycle": "manual",
    }
    if settings.sentry_mode == "span-processor":
        # OpenTelemetry has decided; a second roll of the dice would leave half traces.
        options |= {"instrumenter": "otel", "traces_sample_rate": 1.0}
    return options

"""
The connection to one Sentry project: initialised for the process, flushed at its end.
"""

import logging
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, Final, Literal

import sentry_sdk
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from sentry_sdk.integrations.argv import ArgvIntegration
from sentry_sdk.integrations.atexit import AtexitIntegration
from sentry_sdk.integrations.dedupe import DedupeIntegration
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_sdk.scope import Scope, register_external_propagation_context
from sentry_sdk.tracing import get_span_status_from_http_code
from sentry_sdk.utils import Dsn

from tracebaton.errors import ConfigurationError
from tracebaton.problems import Reporter
from tracebaton.semconv import URL_ATTRIBUTES
from tracebaton.settings import Settings
from tracebaton.telemetry.dsc import DynamicSampling
from tracebaton.telemetry.failures import current_ids
from tracebaton.telemetry.handover import Handover
from tracebaton.telemetry.losses import InFlight, Losses
from tracebaton.telemetry.outages import Outages
from tracebaton.telemetry.sampling import HeadRates
from tracebaton.telemetry.sentry.held import Held
from tracebaton.telemetry.sentry.masking import mask_event
from tracebaton.telemetry.sentry.profiler import start_profiler
from tracebaton.telemetry.sentry.replay import Replay
from tracebaton.telemetry.sentry.reporter import SentryReporter, first_report
from tracebaton.telemetry.sentry.trail import hear_events
from tracebaton.telemetry.sentry.transport import ParallelTransport
from tracebaton.telemetry.transactions import describe
from tracebaton.telemetry.units import Unit, UnitCollector

__all__ = ["Sentry", "check_sdk"]

Mode = Literal["span-processor", "otlp"]

#: Envelopes, and units on their way to become one, that may wait in memory.
QUEUE_SIZE: Final = 10_000
#: Spans in all of them: about a gigabyte. Ten thousand units of 25 spans are below it.
QUEUE_SPANS: Final = 250_000
#: Units that may wait, some 20 MB, while requests and messages come first: a burst of them.
UNHURRIED: Final = 2_000

_TOO_MANY: Final = "too many spans in one transaction"


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


class Sentry:
    """The connection to one Sentry project."""

    #: What log lines and metrics call it.
    destination: Final = "sentry"

    def __init__(
        self,
        settings: Settings,
        *,
        release: str,
        environment: str,
        rates: HeadRates | None = None,
        queue_size: int = QUEUE_SIZE,
        queue_spans: int = QUEUE_SPANS,
    ) -> None:
        """
        Initialise sentry-sdk for this process.

        Args:
            settings: With ``SENTRY_DSN`` set.
            release: What Sentry shall know as the release.
            environment: What Sentry shall know as the environment.
            rates: What the head samples by; the one rate of the settings by default.
            queue_size: Units, and envelopes, that may wait in memory.
            queue_spans: Spans in all of them.

        Raises:
            ConfigurationError: This sentry-sdk cannot do what the mode needs.
        """
        self._mode: Mode = settings.sentry_mode
        self._queue_spans = queue_spans
        self._queue_child = settings.sentry_queue_child
        self._dsn = Dsn(settings.sentry_dsn or "")
        check_sdk(self._mode, version=sentry_sdk.VERSION, lifecycle=None)
        self._replay = Replay()
        self._held = Held()
        self._units: UnitCollector[Scope] = UnitCollector(
            capture=sentry_sdk.get_isolation_scope,
            submit=self._submit,
            ignore=self._is_own_call,
            keep_errors=settings.keep_errors,
        )
        self.members: DynamicSampling = DynamicSampling(
            public_key=self._dsn.public_key,
            org=getattr(self._dsn, "org_id", None),
            release=release,
            environment=environment,
            rates=rates or HeadRates(settings.sample_rate),
            units=self._units,
        )
        self._losses = Losses(self.destination)
        self._flight = InFlight(self._losses, Losses(self.destination, signal="events"))
        self._outages = Outages()
        self._left = 0
        self._handover: Handover[Unit[Scope]] = Handover(
            self._send,
            name="tracebaton-sentry",
            limit=queue_size,
            tick=self._outages.send_due,
            rests_below=UNHURRIED,
        )
        sentry_sdk.init(
            **_options(settings),
            release=release,
            environment=environment,
            before_send=self._before_send,
            before_send_transaction=self._held.put_back,
            before_breadcrumb=self._before_breadcrumb,
            transport_queue_size=queue_size,
            # A class, because the SDK builds it from its own options.
            transport=type("Transport", (ParallelTransport,), {"flight": self._flight}),
        )
        options = sentry_sdk.get_client().options
        if not options["debug"]:  # the SDK writes two lines a transaction and throws them away
            logging.getLogger("sentry_sdk.errors").setLevel(logging.INFO)
        check_sdk(self._mode, version=sentry_sdk.VERSION, lifecycle=options.get("trace_lifecycle"))
        register_external_propagation_context(current_ids)
        hear_events()
        if settings.sentry_profile_session_sample_rate:
            start_profiler()
        self.reporter: Reporter = SentryReporter(self._outages, self._handover.wake, self.members)

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

    @property
    def exported(self) -> int:
        """Return how many spans Sentry took as parts of transactions."""
        return self._flight.sent

    @property
    def lost(self) -> int:
        """Return how many spans Sentry refused or its queues could not hold."""
        return self._losses.count

    @property
    def unsent(self) -> int:
        """Return how many spans Sentry did not take, lost and waiting ones."""
        return self._flight.unsent

    @property
    def waiting(self) -> int:
        """Return how many units and envelopes are still on their way."""
        return self._left + len(self._handover) + self._flight.parcels

    def force_flush(self, timeout: float) -> bool:
        """Send what is ready within *timeout* seconds and tell whether all of it left."""
        deadline = time.monotonic() + timeout
        self._handover.drain(timeout)
        sentry_sdk.get_client().flush(timeout=max(0.0, deadline - time.monotonic()))
        return not self.waiting

    def shutdown(self, timeout: float) -> None:
        """Flush and stop within *timeout* seconds; a held back outage event goes out too."""
        deadline = time.monotonic() + timeout
        self._handover.drain(timeout)
        self._outages.send_due(all_of_them=True)
        sentry_sdk.profiler.stop_profiler()
        sentry_sdk.get_client().close(timeout=max(0.0, deadline - time.monotonic()))
        self._left = self._handover.close()
        self._flight.close()

    def _is_own_call(self, span: ReadableSpan) -> bool:
        urls = ((span.attributes or {}).get(name) for name in URL_ATTRIBUTES)
        return any(url and self._dsn.netloc in str(url) for url in urls)

    def _submit(self, unit: Unit[Scope]) -> None:
        spans, lost = 1 + len(unit.spans), unit.node.lost
        full = self._flight.waiting + spans > self._queue_spans
        self._flight.receive(spans + lost)
        if lost:
            self._flight.lose(lost, _TOO_MANY)
        if full or not self._handover.submit(unit):
            self._flight.lose(spans, "the queue is full")

    def _send(self, unit: Unit[Scope]) -> None:
        clean = unit.presentable()
        self._replay.send(clean, partial(self._complete, clean))

    def _complete(self, unit: Unit[Scope], event: dict[str, Any], hint: Any) -> dict[str, Any]:
        root = unit.root.span
        children = len(event["spans"])
        self._flight.pack(event["event_id"], 1 + children)
        if len(unit.spans) > children:
            self._flight.lose(len(unit.spans) - children, _TOO_MANY)
        describe(
            event,
            root,
            (ended.span for ended in unit.spans),
            http_status=get_span_status_from_http_code,
            queue_child=self._queue_child,
        )
        header = self.members.header(root.context, unit.node, root)
        event["contexts"]["trace"]["dynamic_sampling_context"] = header
        self._held.take_out(event, hint)
        masked = mask_event(event)
        self._held.take_plain(masked, hint)
        return masked

    def _before_send(self, event: Any, hint: Mapping[str, Any]) -> Any:
        """Drop the second event of one exception object in one trace; link the first."""
        exc = (hint.get("exc_info") or (None, None))[1]
        ids = current_ids()
        if exc is not None and not first_report(exc, ids and ids[0], event["event_id"]):
            return None
        context = event.setdefault("contexts", {}).setdefault("trace", {})
        if ids is not None and context.get("trace_id") == ids[0]:
            context["dynamic_sampling_context"] = self.members.current_header()
        return mask_event(event)

    def _before_breadcrumb(self, crumb: Any, hint: Mapping[str, Any]) -> Any:
        """Keep the calls to Sentry itself out: the SDK does not know them by a DSN with a port."""
        url = (crumb.get("data") or {}).get("url")
        return None if url and self._dsn.netloc in str(url) else crumb


def _options(settings: Settings) -> dict[str, Any]:
    options: dict[str, Any] = {
        "dsn": settings.sentry_dsn,
        # What is merely installed stays out; OpenTelemetry instruments, and writes the headers.
        "auto_enabling_integrations": False,
        "trace_propagation_targets": [],
        "integrations": [
            # Logs are breadcrumbs; what is an event is decided by the one error mapping.
            LoggingIntegration(level=logging.INFO, event_level=None, sentry_logs_level=None),
        ],
        "disabled_integrations": [
            DedupeIntegration(),  # forgets all but the last exception
            ArgvIntegration(),  # sends the command line
            # Our stop has a deadline and may leave a close behind: a second one at exit would meet
            # it half way (an AttributeError on stderr).
            AtexitIntegration(),
        ],
        # They would leave the transaction, in a form of their own that few servers know.
        "stream_gen_ai_spans": False,
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

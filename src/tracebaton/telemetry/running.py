"""
What a process has of telemetry while it runs: flushed, counted, and shut down within a deadline.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

from opentelemetry import metrics, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import Tracer

from tracebaton.problems import NO_REPORTER, Reporter
from tracebaton.propagation import Propagator
from tracebaton.semconv import SCOPE
from tracebaton.settings import Settings
from tracebaton.telemetry.ending import AtOnce, at_exit
from tracebaton.telemetry.enrichment import SpanPipeline
from tracebaton.telemetry.sampling import HeadRates
from tracebaton.telemetry.sentry import Sentry

if TYPE_CHECKING:
    from tracebaton.telemetry.logs import LogPush
    from tracebaton.telemetry.metrics import Metrics
    from tracebaton.telemetry.otlp import SpanExport
    from tracebaton.telemetry.prometheus import Exposition

__all__ = ["FlushReport", "Role", "Telemetry"]

Role = Literal["api", "worker"]

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
        exports: Iterable["SpanExport"] = (),
        sentry: Sentry | None = None,
        logs: "LogPush | None" = None,
        meter_provider: metrics.MeterProvider | None = None,
        metering: "Metrics | None" = None,
        rates: HeadRates | None = None,
    ) -> None:
        self.tracer_provider = tracer_provider
        self.propagator = propagator
        self.resource = resource
        self.reporter: Reporter = NO_REPORTER if sentry is None else sentry.reporter
        self.log_handler: logging.Handler | None = None if logs is None else logs.handler
        self._pipeline = pipeline
        self._exports = tuple(exports)
        self.sentry = sentry
        self._pushes = tuple(push for push in (logs, metering) if push is not None)
        self._metering = metering
        self.meter_provider: metrics.MeterProvider = meter_provider or metrics.get_meter_provider()
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
    def exposition(self) -> "Exposition | None":
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

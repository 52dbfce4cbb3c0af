"""
OTLP over HTTP: spans to a collector, a backend or the local viewer.

The SDK's exporters and batches do the work. Added here: what was lost is counted and said once an
interval, a stop has a deadline, and a second destination does not get the first one's headers.
"""

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

import requests
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from requests.adapters import HTTPAdapter

from tracebaton.telemetry.forks import in_child
from tracebaton.telemetry.losses import Losses

__all__ = [
    "BATCH_SIZE",
    "QUEUE_SIZE",
    "SCHEDULE_DELAY",
    "Connections",
    "OwnHeaders",
    "SpanExport",
    "otlp_span_exporter",
    "silence",
]

#: Seconds a span waits for company; the viewer shows it within 2 s of its end.
SCHEDULE_DELAY: Final = 0.5
#: Spans, and log lines, that may wait in memory for one destination.
QUEUE_SIZE: Final = 10_000
BATCH_SIZE: Final = 512

#: The SDK's own lines about a failed export; ours say it once an interval, with the count.
_SDK_LOGGERS: Final = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.exporter.otlp.proto.http._log_exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.sdk._shared_internal",
)
_SENT_HEADERS: Final = frozenset({"content-type", "content-encoding", "content-length", "host"})


class _Reasons(logging.Filter):
    """Keeps the SDK's last word on a failure for our line, and the line itself out of the log."""

    def __init__(self) -> None:
        super().__init__()
        self._here = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        self._here.last = record.getMessage()
        return False

    def take(self) -> str | None:
        """Return what the current thread was told last."""
        last: str | None = getattr(self._here, "last", None)
        self._here.last = None
        return last


_REASONS = _Reasons()


class Connections(requests.Session):
    """A session whose connections a forked child does not share: their requests would mix."""

    def __init__(self) -> None:
        super().__init__()
        in_child(self._connect_anew)

    def _connect_anew(self) -> None:
        for scheme in ("https://", "http://"):
            self.mount(scheme, HTTPAdapter())


class OwnHeaders(Connections):
    """
    A session that sends our headers and none of ``OTEL_EXPORTER_OTLP_HEADERS``.

    Those hold the credentials of the configured backend, and the SDK adds them to every exporter.
    """

    def __init__(self, headers: Mapping[str, str], *, trust_env: bool) -> None:
        super().__init__()
        self._own = dict(headers)
        self.trust_env = trust_env

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        for name in [name for name in request.headers if name.lower() not in _SENT_HEADERS]:
            del request.headers[name]
        request.headers.update(self._own)
        return super().send(request, **kwargs)


def otlp_span_exporter(
    endpoint: str, *, headers: Mapping[str, str] | None = None, local: bool = False
) -> SpanExporter:
    """
    Return an exporter to the traces *endpoint*.

    Args:
        endpoint: The whole URL, ``/v1/traces`` included.
        headers: Send these in place of the environment's.
        local: A viewer on this machine: no header or proxy of the environment is used.
    """
    silence()
    if headers is None and not local:
        return OTLPSpanExporter(endpoint=endpoint, session=Connections())
    session = OwnHeaders(headers or {}, trust_env=not local)
    return OTLPSpanExporter(endpoint=endpoint, session=session)


def silence() -> _Reasons:
    """Keep the SDK's lines about failed exports out of the log; return where their words go."""
    for name in _SDK_LOGGERS:
        logging.getLogger(name).addFilter(_REASONS)  # adding it twice does nothing
    return _REASONS


class SpanExport(SpanProcessor):
    """
    A bounded batch of spans on its way to one destination.

    At most `QUEUE_SIZE` spans wait; beyond that the oldest go. Every span handed in is counted as
    exported, as lost, or as still waiting.
    """

    def __init__(
        self, exporter: SpanExporter, *, destination: str, queue_size: int = QUEUE_SIZE
    ) -> None:
        """
        Start the batch's thread.

        Args:
            exporter: What sends; its failures are counted and passed over.
            destination: What the log line calls it.
            queue_size: Spans that may wait.
        """
        self._exporter = exporter
        self._queue_size = queue_size
        self._losses = Losses(destination)
        self._start_empty()
        self._batch = BatchSpanProcessor(
            _Counted(exporter, self),
            max_queue_size=queue_size,
            schedule_delay_millis=SCHEDULE_DELAY * 1000,
            max_export_batch_size=min(BATCH_SIZE, queue_size),
        )
        in_child(self._start_empty)  # as the batch itself does

    def _start_empty(self) -> None:
        self._lock = threading.Lock()
        self._received = self._taken = self._exported = self._overflowed = 0

    @property
    def exported(self) -> int:
        """Return how many spans the destination took."""
        return self._exported

    @property
    def lost(self) -> int:
        """Return how many spans the destination refused or the queue could not hold."""
        return self._losses.count

    @property
    def waiting(self) -> int:
        """Return how many spans are neither exported nor lost."""
        # A batch that is just leaving the queue may have been counted as overflow too.
        return max(0, self._received - self._exported - self.lost)

    @property
    def unsent(self) -> int:
        """Return how many spans the destination did not take, lost and waiting ones."""
        return self._received - self._exported

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Do nothing: a span is sent when it ends."""

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a sampled span; in a full queue the batch lets go of its oldest."""
        if not (span.context and span.context.trace_flags.sampled):
            return
        with self._lock:
            self._received += 1
            full = self._received - self._taken - self._overflowed > self._queue_size
            self._overflowed += full
        if full:
            self._losses.add(1, "the queue is full")
        self._batch.on_end(span)

    def exporting(self, spans: Sequence[ReadableSpan]) -> None:
        """Count *spans* as taken out of the queue."""
        with self._lock:
            self._taken += len(spans)

    def sent(self, spans: Sequence[ReadableSpan], result: SpanExportResult) -> None:
        """Count the outcome of one batch."""
        if result is SpanExportResult.SUCCESS:
            with self._lock:
                self._exported += len(spans)
        else:
            self._losses.add(len(spans), _REASONS.take())

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send what waits; the caller bounds the wait, the SDK cannot (opentelemetry#4568)."""
        self._batch.force_flush(timeout_millis)
        return not self.waiting

    def shutdown(self) -> None:
        """Send what waits and stop; `abandon()` cuts it short."""
        self._batch.shutdown()  # type: ignore[no-untyped-call]  # the SDK's is not annotated

    def abandon(self) -> None:
        """Stop retrying: the deadline has passed."""
        self._exporter.shutdown()


class _Counted(SpanExporter):
    def __init__(self, exporter: SpanExporter, export: SpanExport) -> None:
        self._exporter = exporter
        self._export = export

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._export.exporting(spans)
        try:
            result = self._exporter.export(spans)
        except Exception:  # an exporter's own fault is a lost batch, not a dead thread
            result = SpanExportResult.FAILURE
        self._export.sent(spans, result)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

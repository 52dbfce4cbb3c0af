"""
OTLP over HTTP: spans to a collector, a backend or the local viewer.

The SDK's exporters and batches do the work. Added here: spans are encoded by us, what was lost is
counted and said once an interval, and a stop has a deadline.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from tracebaton.telemetry.connections import REASONS, Connections, OwnHeaders, silence
from tracebaton.telemetry.encoding import encoded
from tracebaton.telemetry.enrichment import presentable
from tracebaton.telemetry.losses import Ledger, Losses

__all__ = [
    "BATCH_SIZE",
    "QUEUE_SIZE",
    "SCHEDULE_DELAY",
    "SpanExport",
    "otlp_span_exporter",
    "reach",
]

#: Seconds a span waits for company; the viewer shows it within 2 s of its end.
SCHEDULE_DELAY: Final = 0.5
#: Spans, and log lines, that may wait in memory for one destination.
QUEUE_SIZE: Final = 10_000
BATCH_SIZE: Final = 512
#: Bytes of one request before it is compressed: the SDK's own bound, and the Collector's is 20 MiB.
LARGEST_REQUEST: Final = 64 * 1024 * 1024


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
        return _Exporter(endpoint=endpoint, session=Connections())
    session = OwnHeaders(headers or {}, trust_env=not local)
    return _Exporter(endpoint=endpoint, session=session)


def reach(endpoint: str, *, local: bool = False) -> str | None:
    """
    Send no span at all to *endpoint*, the whole URL, as spans are sent; return why that failed.

    It takes as long as a batch may take that does not arrive, ``OTEL_EXPORTER_OTLP_TIMEOUT``.
    """
    exporter = otlp_span_exporter(endpoint, local=local)
    try:
        result = exporter.export(())
    except Exception as exc:  # the exporter's own fault is a finding as well
        return f"{type(exc).__name__}: {exc}"
    finally:
        exporter.shutdown()
    reason = REASONS.take()
    return None if result is SpanExportResult.SUCCESS else reason or "the export failed"


class _Exporter(OTLPSpanExporter):
    """
    The SDK's exporter with an encoder of ours.

    Compression, credentials, timeouts and retries are the SDK's. Where its insides are not what
    they were, or it measures itself, it does the encoding too.
    """

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send *spans* as one request."""
        send = getattr(getattr(self, "_client", None), "export", None)
        measures = type(getattr(self, "_metrics", None)).__name__ != "NoOpExporterMetrics"
        if send is None or measures or self._shutdown:
            return super().export(spans)
        body = encoded(spans)
        if len(body) > LARGEST_REQUEST:
            REASONS.note(f"{len(body)} bytes are more than a request may have")
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS if send(body).success else SpanExportResult.FAILURE


class SpanExport(SpanProcessor):
    """
    A bounded batch of spans on its way to one destination.

    At most `QUEUE_SIZE` spans wait; beyond that the oldest go. Every span handed in is counted as
    exported, as lost, or as still waiting. Secrets are masked in the batch's thread.
    """

    #: See `SpanPipeline`.
    presents: Final = True

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
        self._ledger = Ledger(Losses(destination), size=queue_size)
        self.destination = destination
        self._batch = BatchSpanProcessor(
            _Counted(exporter, self._ledger),
            max_queue_size=queue_size,
            schedule_delay_millis=SCHEDULE_DELAY * 1000,
            max_export_batch_size=min(BATCH_SIZE, queue_size),
        )

    @property
    def exported(self) -> int:
        """Return how many spans the destination took."""
        return self._ledger.exported

    @property
    def lost(self) -> int:
        """Return how many spans the destination refused or the queue could not hold."""
        return self._ledger.lost

    @property
    def waiting(self) -> int:
        """Return how many spans are neither exported nor lost."""
        return self._ledger.waiting

    @property
    def unsent(self) -> int:
        """Return how many spans the destination did not take, lost and waiting ones."""
        return self._ledger.unsent

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a sampled span; in a full queue the batch lets go of its oldest."""
        if not (span.context and span.context.trace_flags.sampled):
            return
        self._ledger.enter()
        self._batch.on_end(span)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send what waits; the caller bounds the wait, the SDK cannot (opentelemetry#4568)."""
        self._batch.force_flush(timeout_millis)
        return not self.waiting

    def shutdown(self) -> None:
        """Send what waits and stop; `abandon()` cuts it short."""
        self._batch.shutdown()  # type: ignore[no-untyped-call]  # the SDK's is not annotated

    def abandon(self) -> None:
        """Stop retrying, the deadline has passed, and say what was lost."""
        self._ledger.close()
        self._exporter.shutdown()


class _Counted(SpanExporter):
    def __init__(self, exporter: SpanExporter, ledger: Ledger) -> None:
        self._exporter = exporter
        self._ledger = ledger

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._ledger.leave(len(spans))
        try:
            result = self._exporter.export([presentable(span) for span in spans])
        except Exception:  # an exporter's own fault is a lost batch, not a dead thread
            result = SpanExportResult.FAILURE
        if result is SpanExportResult.SUCCESS:
            self._ledger.arrive(len(spans))
        else:
            self._ledger.lose(len(spans), REASONS.take())
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

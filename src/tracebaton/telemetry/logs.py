"""
Log lines over OTLP: to the local viewer, and to a backend where its logs endpoint is named.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from opentelemetry import context as otel
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.sdk._logs import (
    LoggerProvider,
    LogRecordProcessor,
    ReadableLogRecord,
    ReadWriteLogRecord,
)
from opentelemetry.sdk._logs.export import (
    BatchLogRecordProcessor,
    LogRecordExporter,
    LogRecordExportResult,
)
from opentelemetry.sdk.resources import Resource

from tracebaton.logs import log_fields
from tracebaton.telemetry.connections import REASONS, Connections, OwnHeaders, silence
from tracebaton.telemetry.losses import Ledger, Losses
from tracebaton.telemetry.otlp import BATCH_SIZE, QUEUE_SIZE, SCHEDULE_DELAY

__all__ = ["LogPush", "OtlpLogHandler"]


class LogPush:
    """The log lines of a process on their way to one or two destinations."""

    def __init__(self, resource: Resource, *, endpoint: str | None, viewer: str | None) -> None:
        """
        Start a batch for each destination.

        Args:
            resource: What names this process.
            endpoint: A backend's whole URL, ``/v1/logs`` included.
            viewer: The same of a viewer on this machine, which gets no header of the environment.
        """
        silence()
        self._provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
        self._exports: list[_LogExport] = []
        if endpoint is not None:
            self._add(OTLPLogExporter(endpoint=endpoint, session=Connections()), "otlp")
        if viewer is not None:
            session = OwnHeaders({}, trust_env=False)
            self._add(OTLPLogExporter(endpoint=viewer, session=session), "viewer")
        service = str(resource.attributes["service.name"])
        self.handler: OtlpLogHandler = OtlpLogHandler(self._provider, service=service)

    def _add(self, exporter: LogRecordExporter, destination: str) -> None:
        export = _LogExport(exporter, destination=destination)
        self._exports.append(export)
        self._provider.add_log_record_processor(export)

    def force_flush(self) -> bool:
        """Send what waits; the caller bounds the wait."""
        return self._provider.force_flush()

    def shutdown(self) -> None:
        """Send what waits and stop; `abandon()` cuts it short."""
        self._provider.shutdown()

    def abandon(self) -> None:
        """Stop retrying, the deadline has passed, and say what was lost."""
        for export in self._exports:
            export.abandon()


class _LogExport(LogRecordProcessor):
    """A bounded batch of log lines on its way to one destination, as `SpanExport` is of spans."""

    def __init__(self, exporter: LogRecordExporter, *, destination: str) -> None:
        self._exporter = exporter
        self._ledger = Ledger(Losses(destination, signal="logs"), size=QUEUE_SIZE)
        self._batch = BatchLogRecordProcessor(
            _Counted(exporter, self._ledger),
            schedule_delay_millis=SCHEDULE_DELAY * 1000,
            max_queue_size=QUEUE_SIZE,
            max_export_batch_size=BATCH_SIZE,
        )

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        self._ledger.enter()
        self._batch.on_emit(log_record)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._batch.force_flush(timeout_millis)

    def shutdown(self) -> None:
        self._batch.shutdown()  # type: ignore[no-untyped-call]  # the SDK's is not annotated

    def abandon(self) -> None:
        self._ledger.close()
        self._exporter.shutdown()  # type: ignore[no-untyped-call]  # the SDK's is not annotated


class _Counted(LogRecordExporter):
    def __init__(self, exporter: LogRecordExporter, ledger: Ledger) -> None:
        self._exporter = exporter
        self._ledger = ledger

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        self._ledger.leave(len(batch))
        result = self._exporter.export(batch)
        if result is LogRecordExportResult.SUCCESS:
            self._ledger.arrive(len(batch))
        else:
            self._ledger.lose(len(batch), REASONS.take())
        return result

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)

    def shutdown(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]  # the SDK's is not annotated


class OtlpLogHandler(logging.Handler):
    """
    Send log lines over OTLP: the event's name as body, its fields as attributes.

    What the exporters themselves log stays out, or each failed export would feed the next.
    """

    def __init__(self, provider: LoggerProvider, *, service: str) -> None:
        super().__init__()
        self._provider = provider
        self._service = service

    def emit(self, record: logging.LogRecord) -> None:
        """Queue *record*; never raises."""
        if not is_instrumentation_enabled():
            return
        try:
            fields = log_fields(record, service=self._service)
            line = LogRecord(
                timestamp=int(record.created * 1e9),
                context=otel.get_current(),
                severity_text=fields["level"],
                severity_number=_severity(record.levelno),
                body=str(fields["event"]),
                attributes=_attributes(fields),
            )
            self._provider.get_logger(record.name).emit(line)
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Detach from logging; the pipeline shuts the provider down."""
        super().close()


#: Fields that the OTLP record has a place of its own for.
_PLACED: Final = frozenset(
    {"timestamp", "level", "event", "logger", "service", "trace_id", "span_id"}
)


def _severity(level: int) -> SeverityNumber:
    """Return OTLP's number: 5 for debug, 9 for info, 13, 17, 21 for critical."""
    return SeverityNumber(max(1, min(21, level // 10 * 4 + 1)))


def _attributes(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value if isinstance(value, (str, bool, int, float)) else str(value)
        for key, value in fields.items()
        if value is not None and key not in _PLACED
    }

"""
What the store keeps of an OTLP request: one row a span, one row a log line.

A row is the encoded OTLP message plus the few values that the store indexes, so that nothing of the
span is lost and nothing is decoded twice on the way in.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from tracebaton import semconv
from tracebaton.viewer.news import EVENTS, TaskNews, of_line

__all__ = ["INDEXED", "LogRow", "SpanRow", "log_rows", "span_rows"]

#: The span attributes by which a trace can be found, or that its summary shows.
INDEXED: Final = frozenset(
    {
        semconv.CORRELATION_ID,
        semconv.USER_ID,
        semconv.TASK_ID,
        semconv.TASK_TYPE,
        semconv.TASK_STATUS,
        semconv.RECEIVE_COUNT,
        *semconv.HTTP_STATUS_CODES,
    }
)
#: Attributes of a log line by the names that the one log schema has for them.
_FIELDS: Final = {semconv.TASK_ID: "task_id", semconv.TASK_ATTEMPT: "attempt"}
#: SQLite's integers are signed; OTLP's times are not. A forged one is cut to the year 2262.
MAX_TIME: Final = 2**63 - 1
#: Characters of a name or an id that are indexed; the span itself keeps all of it.
MAX_TEXT: Final = 256
#: What the conventions call a process that names no service.
UNKNOWN_SERVICE: Final = "unknown_service"

ENTRY_KINDS: Final = frozenset(
    {Span.SPAN_KIND_SERVER, Span.SPAN_KIND_PRODUCER, Span.SPAN_KIND_CONSUMER}
)


# Tuples and no dataclasses: a frozen dataclass costs 1.5 µs a span, a fifth of the intake.
class SpanRow(NamedTuple):
    """One span, ready to be stored."""

    trace_id: bytes
    span_id: bytes
    start: int
    end: int
    root: bool
    entry: bool
    error: bool
    name: str
    service: str
    indexed: dict[str, str]
    origin: bytes
    body: bytes


class LogRow(NamedTuple):
    """One log line of a trace, ready to be stored, with what it says of a task."""

    trace_id: bytes
    time: int
    origin: bytes
    body: bytes
    news: TaskNews | None


def span_rows(request: ExportTraceServiceRequest) -> tuple[list[SpanRow], int]:
    """Return the rows of *request* and the number of spans without valid ids."""
    rows: list[SpanRow] = []
    rejected = 0
    for group in request.resource_spans:
        service = service_name(group.resource)
        for scoped in group.scope_spans:
            origin = encode_origin(group, scoped)
            valid = [
                span for span in scoped.spans if is_id(span.trace_id, 16) and is_id(span.span_id, 8)
            ]
            rejected += len(scoped.spans) - len(valid)
            rows.extend(_span_row(span, service, origin) for span in valid)
    return rows, rejected


def log_rows(request: ExportLogsServiceRequest) -> list[LogRow]:
    """Return the rows of *request*; a line outside every trace has no place in the viewer."""
    rows: list[LogRow] = []
    for group in request.resource_logs:
        for scoped in group.scope_logs:
            origin = encode_origin(group, scoped)
            rows.extend(
                _log_row(record, origin)
                for record in scoped.log_records
                if is_id(record.trace_id, 16)
            )
    return rows


def _log_row(record: LogRecord, origin: bytes) -> LogRow:
    time = min(record.time_unix_nano or record.observed_time_unix_nano, MAX_TIME)
    event = record.event_name or record.body.string_value
    news = None
    if event in EVENTS:
        said = {_FIELDS.get(item.key, item.key): text_of(item.value) for item in record.attributes}
        news = of_line(record.trace_id, time, event, said)
    return LogRow(record.trace_id, time, origin, record.SerializeToString(), news)


def is_id(value: bytes, size: int) -> bool:
    """Tell whether *value* is a trace or span id: *size* bytes, not all zero."""
    return len(value) == size and any(value)


def text_of(value: AnyValue) -> str:
    """Return an attribute value as the text by which it is indexed and searched."""
    if text := value.string_value:
        return text[:MAX_TEXT]
    kind = value.WhichOneof("value")
    if kind == "bool_value":
        return "true" if value.bool_value else "false"
    if kind in ("int_value", "double_value"):
        return str(getattr(value, kind))
    return ""


def service_name(resource: Resource) -> str:
    """Return the ``service.name`` of *resource*."""
    names = (text_of(item.value) for item in resource.attributes if item.key == "service.name")
    return next(names, "") or UNKNOWN_SERVICE


def encode_origin(group: ResourceSpans | ResourceLogs, scoped: ScopeSpans | ScopeLogs) -> bytes:
    """
    Return resource and scope as one encoded ``ResourceSpans`` without spans.

    ``ResourceLogs`` has the same field numbers, so that a service's logs share its spans' origin.
    """
    holder = ScopeSpans(scope=scoped.scope, schema_url=scoped.schema_url)
    origin = ResourceSpans(
        resource=group.resource, scope_spans=[holder], schema_url=group.schema_url
    )
    return origin.SerializeToString(deterministic=True)


def _span_row(span: Span, service: str, origin: bytes) -> SpanRow:
    start = min(span.start_time_unix_nano, MAX_TIME)
    root = not span.parent_span_id
    return SpanRow(
        span.trace_id,
        span.span_id,
        start,
        max(start, min(span.end_time_unix_nano, MAX_TIME)),
        root,
        root or span.kind in ENTRY_KINDS,
        span.status.code == Status.STATUS_CODE_ERROR,
        span.name[:MAX_TEXT],
        service,
        _indexed(span.attributes),
        origin,
        span.SerializeToString(),
    )


def _indexed(attributes: Iterable[KeyValue]) -> dict[str, str]:
    found = {}
    for item in attributes:
        key = item.key
        if key in INDEXED and (text := text_of(item.value)):
            found[key] = text
    return found

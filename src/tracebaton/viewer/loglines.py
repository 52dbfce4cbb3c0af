"""A stored OTLP log record as a line of the one log schema."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans

from tracebaton import semconv
from tracebaton.viewer import otlp_json
from tracebaton.viewer.rows import MAX_TIME, service_name

__all__ = ["log_line", "rfc3339"]

#: Names of OTLP severity numbers, four of each.
LEVELS: Final = ("trace", "debug", "info", "warning", "error", "critical")

#: Attributes that stand for a fixed field of the schema.
FIXED: Final = {
    semconv.CORRELATION_ID: "correlation_id",
    semconv.USER_ID: "user_id",
    semconv.TASK_ID: "task_id",
    semconv.TASK_ATTEMPT: "attempt",
}


def log_line(record: LogRecord, origin: ResourceSpans) -> dict[str, Any]:
    """
    Return *record* as the line that its service wrote to stdout, as far as OTLP kept it.

    Fixed fields come first; an attribute fills a fixed field that is unset and overwrites none.
    """
    time = min(record.time_unix_nano or record.observed_time_unix_nano, MAX_TIME)
    line: dict[str, Any] = dict.fromkeys(semconv.LOG_FIELDS) | {
        "timestamp": rfc3339(time),
        "level": _level(record),
        "event": record.event_name or None,
        "logger": next((scoped.scope.name for scoped in origin.scope_spans), "") or None,
        "service": service_name(origin.resource),
        "trace_id": record.trace_id.hex(),
        "span_id": record.span_id.hex() or None,
    }
    body = _plain(record.body)
    if line["event"] is None and not isinstance(body, dict):
        line["event"] = body
    elif body is not None:
        _fill(line, body.items() if isinstance(body, dict) else [("body", body)])
    _fill(line, ((item.key, _plain(item.value)) for item in record.attributes))
    return line


def rfc3339(time: int) -> str:
    """Return nanoseconds since the epoch as RFC 3339 in UTC, with microseconds."""
    seconds, nanos = divmod(time, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=nanos // 1000)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _fill(line: dict[str, Any], fields: Iterable[tuple[str, Any]]) -> None:
    for key, value in fields:
        name = FIXED.get(key, key)
        if line.get(name) is None:
            line[name] = value


def _level(record: LogRecord) -> str:
    if record.severity_text:
        return record.severity_text.lower()
    return LEVELS[min((record.severity_number - 1) // 4, 5)] if record.severity_number else "info"


def _plain(value: AnyValue) -> Any:
    match value.WhichOneof("value"):
        case "array_value":
            return [_plain(item) for item in value.array_value.values]
        case "kvlist_value":
            return {item.key: _plain(item.value) for item in value.kvlist_value.values}
        case "int_value":
            return value.int_value
        case _:
            return next(iter(otlp_json.any_value(value).values()), None)

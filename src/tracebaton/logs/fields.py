"""
What a line says: the fixed fields, the ids of the request, and the event's own without secrets.
"""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from opentelemetry import trace

from tracebaton.context import current
from tracebaton.redaction import redact_exception, redact_mapping, redact_text
from tracebaton.semconv import (
    EVENT_AUDIT_CALL,
    EVENT_AUDIT_ERROR,
    EVENT_AUDIT_SUCCESS,
    SERVICE_NAME,
)

__all__ = ["LEVELS", "OF_A_SERVICE", "log_fields", "timestamp"]

#: The schema's name of each level.
LEVELS: Final = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warning",
    logging.ERROR: "error",
    logging.CRITICAL: "critical",
}
_BLANK: Final = vars(logging.makeLogRecord({}))
#: Attributes every record has, and what other formatters and uvicorn put there for themselves;
#: whatever else is there came in by ``extra``.
_RECORD: Final = frozenset(_BLANK) | {"message", "asctime", "taskName", "color_message"}

#: Events that are about a service inside the process; they say its name, and the process's beside.
OF_A_SERVICE: Final = frozenset({EVENT_AUDIT_CALL, EVENT_AUDIT_SUCCESS, EVENT_AUDIT_ERROR})


def log_fields(record: logging.LogRecord, *, service: str) -> dict[str, Any]:
    """
    Return the event of *record* as an ordered mapping: the fixed fields, then the event's own.

    The same mapping is rendered to stdout and exported over OTLP: JSON data without secrets.
    """
    store, span = current(), trace.get_current_span().get_span_context()
    fields: dict[str, Any] = {
        "timestamp": timestamp(record.created),
        "level": LEVELS.get(record.levelno) or record.levelname.lower(),
        "event": _event(record),
        "logger": record.name,
        "service": service,
        "trace_id": f"{span.trace_id:032x}" if span.is_valid else None,
        "span_id": f"{span.span_id:016x}" if span.is_valid else None,
        "correlation_id": store.correlation_id,
        "user_id": store.user_id,
        "task_id": store.task_id,
        "attempt": store.attempt,
    }
    own = _own(record)
    if own:
        more = redact_mapping(own)
        if fields["event"] in OF_A_SERVICE and "service" in more:
            fields["service"], more[SERVICE_NAME] = more.pop("service"), service
        _add(fields, more)
    if record.exc_info or record.exc_text or record.stack_info:
        _add(fields, _stacks(record))
    return fields


def _add(fields: dict[str, Any], more: Mapping[str, Any]) -> None:
    """
    Add *more* so that no fixed field is overwritten and no key stands twice.

    Ids that the event knows better than the store, such as those of a task that was just enqueued,
    fill an unset one.
    """
    if fields.keys().isdisjoint(more):
        fields.update(more)
        return
    for key, value in more.items():
        if fields.get(key) is None:
            fields[key] = value
        elif fields[key] != value:
            fields[f"event_{key}"] = value


def timestamp(created: float) -> str:
    """Return a moment, in seconds since the epoch, as RFC 3339 in UTC."""
    seconds = int(created)
    micros = min(999_999, round((created - seconds) * 1_000_000))
    return f"{_second(seconds)}.{micros:06d}Z"


@lru_cache(maxsize=16)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _event(record: logging.LogRecord) -> str:
    message = record.msg
    if record.args or not isinstance(message, str):
        try:
            message = record.getMessage()
        except Exception:  # a library's wrong format arguments must not cost the line
            message = message if isinstance(message, str) else f"<{type(message).__name__}>"
    return redact_text(message.rstrip("\n"))


def _own(record: logging.LogRecord) -> dict[str, Any] | None:
    """Return the event's own fields: those of ours, and a library's ``extra``."""
    attributes = vars(record)
    ours = attributes.get("fields")
    if isinstance(ours, dict):
        if len(attributes) == len(_BLANK) + 1:
            return ours
        return _extra(attributes) | ours
    return _extra(attributes) if len(attributes) > len(_BLANK) else None


def _extra(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in attributes.items()
        if key not in _RECORD and not (key == "fields" and isinstance(value, dict))
    }


def _stacks(record: logging.LogRecord) -> dict[str, str]:
    stacks = {}
    exc = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    if exc is not None:
        stacks["exception"] = redact_exception(exc)
    elif record.exc_text:  # a queue handler has rendered it
        stacks["exception"] = redact_text(record.exc_text)
    if record.stack_info:
        stacks["stack"] = redact_text(record.stack_info)
    return stacks

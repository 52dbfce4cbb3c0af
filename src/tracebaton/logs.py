"""
The one log schema: one JSON line an event on stdout, for ours and for any library's stdlib logger.

A structured event is ``logger.info("task.started", extra={"fields": {...}})``: the message is the
event's name, the fields follow the fixed ones. The ids come from the request store and the current
span, so no caller passes them.
"""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, TextIO

from opentelemetry import trace

from tracebaton.context import current
from tracebaton.semconv import LOG_FIELDS

__all__ = ["JsonFormatter", "PrettyFormatter", "configure_logging", "log_fields"]

_HANDLER = "tracebaton"
_LEVELS = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warning",
    logging.ERROR: "error",
    logging.CRITICAL: "critical",
}
#: Attributes every LogRecord has; whatever else is there came in by ``extra``.
_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "fields", "taskName"}


def log_fields(record: logging.LogRecord, *, service: str) -> dict[str, Any]:
    """
    Return the event of *record* as an ordered mapping: the fixed fields, then the event's own.

    The same mapping is rendered to stdout and exported over OTLP.
    """
    store, span = current(), trace.get_current_span().get_span_context()
    fields: dict[str, Any] = {
        "timestamp": _timestamp(record.created),
        "level": _LEVELS.get(record.levelno, record.levelname.lower()),
        "event": _message(record),
        "logger": record.name,
        "service": service,
        "trace_id": trace.format_trace_id(span.trace_id) if span.is_valid else None,
        "span_id": trace.format_span_id(span.span_id) if span.is_valid else None,
        "correlation_id": store.correlation_id,
        "user_id": store.user_id,
        "task_id": store.task_id,
        "attempt": store.attempt,
    }
    own = getattr(record, "fields", None)
    extra = own if isinstance(own, dict) else _extra(record)
    # A field never overwrites a fixed one, and no key stands twice; ids that the event knows better
    # than the store (a task that was just enqueued) fill an unset one.
    for key, value in extra.items():
        if fields.get(key) is None:
            fields[key] = value
        elif key in LOG_FIELDS and fields[key] != value:
            fields[f"event_{key}"] = value
    if record.exc_info and record.exc_info[1] is not None:
        fields["exception"] = "".join(traceback.format_exception(record.exc_info[1]))
    return fields


def _timestamp(created: float) -> str:
    moment = datetime.fromtimestamp(created, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond:06d}Z"


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # a library's wrong format arguments must not cost the line
        return str(record.msg)


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _RECORD}


class JsonFormatter(logging.Formatter):
    """Render a record as one line of JSON."""

    def __init__(self, *, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return the JSON line of *record*; values JSON does not know become strings."""
        fields = log_fields(record, service=self._service)
        return json.dumps(fields, default=str)


#: Colour of each level on a terminal.
_COLOURS = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "1;31"}
_DIM, _RESET = "\x1b[2m", "\x1b[0m"


class PrettyFormatter(logging.Formatter):
    """Render a record for people: time, level, event, then what is set."""

    def __init__(self, *, service: str, colour: bool = True) -> None:
        super().__init__()
        self._service = service
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """Return one readable line, and the stack below it where there is one."""
        fields = log_fields(record, service=self._service)
        stack = fields.pop("exception", None)
        clock, level = fields["timestamp"][11:23], fields["level"]
        head = f"{level:<8}{fields['service']} {fields['event']}"
        if self._colour:
            clock = f"{_DIM}{clock}{_RESET}"
            head = f"\x1b[{_COLOURS.get(level, '0')}m{level:<8}{_RESET}{fields['service']} "
            head += f"\x1b[1m{_printable(fields['event'])}{_RESET}"
        rest = " ".join(
            f"{key}={_printable(value)}"
            for key, value in fields.items()
            if value is not None and key not in _SHOWN
        )
        tail = f"\n{stack}" if stack else ""
        if self._colour:
            rest = f"{_DIM}{rest}{_RESET}"
        return f"{clock} {head} {rest}{tail}"


_SHOWN = frozenset({"timestamp", "level", "event", "service", "logger", "span_id"})


def _printable(value: object) -> str:
    """Return *value* without control characters: text from outside must not drive a terminal."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in str(value))


def configure_logging(
    *,
    service: str,
    level: str = "info",
    pretty: bool | None = None,
    stream: TextIO | None = None,
    also: logging.Handler | None = None,
) -> None:
    """
    Send every logger's records to *stream* in the one schema.

    Args:
        service: The ``service`` of each line.
        level: The lowest level written: ``debug``, ``info``, ``warning`` or ``error``.
        pretty: For people instead of JSON; where None, when *stream* is a terminal.
        stream: stdout by default.
        also: A second handler that gets the same records, for OTLP.
    """
    out = sys.stdout if stream is None else stream
    people = out.isatty() if pretty is None else pretty
    handler: logging.Handler = logging.StreamHandler(out)
    handler.setFormatter(
        PrettyFormatter(service=service, colour=out.isatty())
        if people
        else JsonFormatter(service=service)
    )
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if handler.get_name() == _HANDLER]:
        root.removeHandler(old)
    for new in filter(None, (handler, also)):
        new.set_name(_HANDLER)  # so that a second call replaces ours and nobody else's
        root.addHandler(new)
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    # uvicorn's own access log would be a second line a request, outside the request's context.
    logging.getLogger("uvicorn.access").disabled = True
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    # botocore and urllib3 say at info and debug what our own events say once.
    for name in ("botocore", "urllib3", "httpx", "httpcore", "asyncio"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))

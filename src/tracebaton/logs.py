"""
The one log schema: one JSON line an event on stdout, for ours and for any library's stdlib logger.

A structured event is ``logger.info("task.started", extra={"fields": {...}})``: the message is the
event's name, the fields follow the fixed ones. The ids come from the request store and the current
span, so no caller passes them. Everything passes `tracebaton.redaction`.
"""

import json
import logging
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, TextIO

from opentelemetry import trace
from pydantic_core import PydanticSerializationError, to_json

from tracebaton.context import current
from tracebaton.redaction import redact_exception, redact_mapping, redact_text
from tracebaton.semconv import (
    EVENT_AUDIT_CALL,
    EVENT_AUDIT_ERROR,
    EVENT_AUDIT_SUCCESS,
    SERVICE_NAME,
)
from tracebaton.terminal import printable, printable_lines

__all__ = ["JsonFormatter", "PrettyFormatter", "configure_logging", "log_fields"]

_HANDLER: Final = "tracebaton"
_LEVELS: Final = {
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
_OF_A_SERVICE: Final = frozenset({EVENT_AUDIT_CALL, EVENT_AUDIT_SUCCESS, EVENT_AUDIT_ERROR})


def log_fields(record: logging.LogRecord, *, service: str) -> dict[str, Any]:
    """
    Return the event of *record* as an ordered mapping: the fixed fields, then the event's own.

    The same mapping is rendered to stdout and exported over OTLP: JSON data without secrets.
    """
    store, span = current(), trace.get_current_span().get_span_context()
    fields: dict[str, Any] = {
        "timestamp": _timestamp(record.created),
        "level": _LEVELS.get(record.levelno) or record.levelname.lower(),
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
        if fields["event"] in _OF_A_SERVICE and "service" in more:
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


def _timestamp(created: float) -> str:
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


class JsonFormatter(logging.Formatter):
    """Render a record as one line of JSON."""

    def __init__(self, *, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return the JSON line of *record*."""
        fields = log_fields(record, service=self._service)
        try:
            # A quarter of the standard library's time, and the line is most of a log call's.
            return to_json(fields, ensure_ascii=True).decode("ascii")
        except PydanticSerializationError:  # it does not know lone surrogates
            return json.dumps(fields, separators=(",", ":"))


#: Colour of each level on a terminal.
_COLOURS: Final = {
    "debug": "2",
    "info": "32",
    "warning": "33",
    "error": "31",
    "critical": "1;31",
}
_DIM, _BOLD, _RESET = "\x1b[2m", "\x1b[1m", "\x1b[0m"
#: Fields that stand at the head of a pretty line, or that nobody reads there.
_SHOWN: Final = frozenset({"timestamp", "level", "event", "service", "logger", "span_id"})
_BELOW: Final = ("exception", "stack")


class PrettyFormatter(logging.Formatter):
    """Render a record for people: time, level, event, then what is set."""

    def __init__(self, *, service: str, colour: bool = True) -> None:
        super().__init__()
        self._service = service
        self._dim, self._bold, self._reset = (_DIM, _BOLD, _RESET) if colour else ("", "", "")
        self._colours = _COLOURS if colour else {}

    def format(self, record: logging.LogRecord) -> str:
        """Return one readable line, and the stack below it where there is one."""
        fields = log_fields(record, service=self._service)
        below = "".join(
            f"\n{printable_lines(stack)}" for name in _BELOW if (stack := fields.pop(name, None))
        )
        level = fields["level"]
        colour = f"\x1b[{self._colours[level]}m" if level in self._colours else ""
        rest = " ".join(
            f"{printable(key)}={printable(value)}"
            for key, value in fields.items()
            if value is not None and key not in _SHOWN
        )
        return (
            f"{self._dim}{fields['timestamp'][11:23]}{self._reset} "
            f"{colour}{printable(level):<8}{self._reset if colour else ''}"
            f"{printable(fields['service'])} "
            f"{self._bold}{printable(fields['event'])}{self._reset} "
            f"{self._dim}{rest}{self._reset}{below}"
        )


class _Lines(logging.StreamHandler[TextIO]):
    """Write lines to a stream; one that is closed or broken costs the lines and nothing else."""

    _failed = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record) + "\n"
            try:
                self.stream.write(line)
            except UnicodeEncodeError:  # a terminal or a file that knows ASCII only
                encoding = self.stream.encoding or "ascii"
                self.stream.write(line.encode(encoding, "backslashreplace").decode(encoding))
            self.stream.flush()
        except Exception as exc:  # logging is an edge: it never raises into its caller
            self._give_up(exc)

    def _give_up(self, exc: Exception) -> None:
        if isinstance(exc, BrokenPipeError) and self.stream is sys.stdout:
            _to_nowhere(self.stream)
        if self._failed:
            return
        self._failed = True
        with suppress(Exception):
            sys.stderr.write(f"tracebaton: log lines are lost: {type(exc).__name__}: {exc}\n")


def _to_nowhere(stream: TextIO) -> None:
    """
    Let *stream* swallow what it still holds.

    Its reader is gone. The interpreter flushes stdout at exit and would turn exit code 0 into 120
    (https://docs.python.org/3/library/signal.html#note-on-sigpipe).
    """
    with suppress(Exception):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


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
    handler = _Lines(out)
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
    # These say at info and debug what our own events say once.
    for name in ("uvicorn.error", "botocore", "urllib3", "httpx", "httpcore", "asyncio"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))

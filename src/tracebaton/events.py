"""
A structured event as a log line, without what nobody reads of it.

``logging`` makes a record, walks the stack for file, line and function of each call, asks for names
of threads and processes and looks for handlers. Events are found by their name. Where nobody but
our handler hears a logger there is no record at all.
"""

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["HEARS", "say"]

_BLANK: Final = vars(logging.makeLogRecord({}))
_START: Final = time.time()
#: As Python made them: sentry-sdk, for one, puts another in its place to see each record.
_HANDLE, _CALL_HANDLERS = logging.Logger.handle, logging.Logger.callHandlers


#: The attribute by which another ``callHandlers`` says that it takes events without a record: a
#: function of logger's name, event, level and fields.
HEARS: Final = "tracebaton_hears"


def say(
    log: logging.Logger,
    event: str,
    fields: Mapping[str, Any],
    *,
    level: int = logging.INFO,
    clean: bool = False,
) -> None:
    """
    Log *event* with *fields*, as ``log.log(level, event, extra={"fields": fields})`` does.

    Args:
        clean: The *fields* are JSON data without secrets already.
    """
    if not log.isEnabledFor(level):
        return
    if logging.getLogRecordFactory() is not logging.LogRecord:  # somebody adds to each record
        log.log(level, event, extra={"fields": fields})
        return
    call = type(log).callHandlers
    hears = None if call is _CALL_HANDLERS else getattr(call, HEARS, None)
    said = _direct(log, level) if call is _CALL_HANDLERS or hears is not None else None
    if said is None or not said(log.name, event, level, fields, clean):
        log.handle(_record(log, event, level, fields))
    elif hears is not None:
        hears(log.name, event, level, fields)


def _direct(log: logging.Logger, level: int) -> Any:
    """Return how to write without a record, None where anybody else may want one."""
    if log.filters or type(log).handle is not _HANDLE:
        return None
    only, here = None, log
    while True:
        handlers = here.handlers
        if handlers:
            if only is not None or len(handlers) > 1:
                return None
            only = handlers[0]
        parent = here.parent
        if parent is None or not here.propagate:
            break
        here = parent
    if only is None or only.filters or level < only.level:
        return None
    return getattr(only, "said", None)


def _record(
    log: logging.Logger, event: str, level: int, fields: Mapping[str, Any]
) -> logging.LogRecord:
    record = logging.LogRecord.__new__(logging.LogRecord)
    created = time.time()
    vars(record).update(
        _BLANK,
        name=log.name,
        msg=event,
        args=(),
        levelno=level,
        levelname=logging.getLevelName(level),
        created=created,
        msecs=int((created - int(created)) * 1000) + 0.0,
        relativeCreated=(created - _START) * 1000,
        thread=threading.get_ident(),
        threadName=threading.current_thread().name,
        fields=fields,
    )
    return record

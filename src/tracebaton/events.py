"""
A structured event as a log record, without what nobody reads of it.

``logging`` walks the stack for file, line and function of each call and asks for names of threads
and processes. Events are found by their name.
"""

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["say"]

_BLANK: Final = vars(logging.makeLogRecord({}))
_START: Final = time.time()


def say(
    log: logging.Logger, event: str, fields: Mapping[str, Any], *, level: int = logging.INFO
) -> None:
    """Log *event* with *fields*, as ``log.log(level, event, extra={"fields": fields})`` does."""
    if not log.isEnabledFor(level):
        return
    if logging.getLogRecordFactory() is not logging.LogRecord:  # somebody adds to each record
        log.log(level, event, extra={"fields": fields})
        return
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
    log.handle(record)

"""
The one log schema: one JSON line an event on stdout, for ours and for any library's stdlib logger.

A structured event is ``logger.info("task.started", extra={"fields": {...}})``: the message is the
event's name, the fields follow the fixed ones. The ids come from the request store and the current
span, so no caller passes them. Everything passes `tracebaton.redaction`.
"""

import logging
import sys
from typing import Final, TextIO

from tracebaton.logs.fields import log_fields
from tracebaton.logs.json_lines import JsonFormatter
from tracebaton.logs.pretty import PrettyFormatter
from tracebaton.logs.stream import Lines

__all__ = ["JsonFormatter", "PrettyFormatter", "configure_logging", "log_fields"]

_HANDLER: Final = "tracebaton"


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
    handler = Lines(out)
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

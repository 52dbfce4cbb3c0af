"""
Where the lines go.
"""

import logging
import os
import sys
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from typing import Any, TextIO

from tracebaton.logs.json_lines import JsonFormatter

__all__ = ["Lines"]


class Lines(logging.StreamHandler[TextIO]):
    """Write lines to a stream; one that is closed or broken costs the lines and nothing else."""

    _failed = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._write(self.format(record) + "\n")
        except Exception as exc:  # logging is an edge: it never raises into its caller
            self._give_up(exc)

    def said(
        self, logger: str, event: str, level: int, fields: Mapping[str, Any], clean: bool
    ) -> bool:
        """
        Write an event that no record is made of, and tell whether that was possible.

        `tracebaton.events.say()` asks the one handler that hears a logger.
        """
        formatter = self.formatter
        if type(formatter) is not JsonFormatter:
            return False
        try:
            line = formatter.line(logger, event, level, fields, clean=clean)
            if line is None:
                return False
            with self.lock or nullcontext():
                self._write(line + "\n")
        except Exception as exc:  # as above
            self._give_up(exc)
        return True

    def _write(self, line: str) -> None:
        try:
            self.stream.write(line)
        except UnicodeEncodeError:  # a terminal or a file that knows ASCII only
            encoding = self.stream.encoding or "ascii"
            self.stream.write(line.encode(encoding, "backslashreplace").decode(encoding))
        self.stream.flush()

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

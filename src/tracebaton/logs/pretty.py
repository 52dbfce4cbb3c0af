"""
A line for people at a terminal.
"""

import logging
from typing import Final

from tracebaton.logs.fields import log_fields
from tracebaton.terminal import printable, printable_lines

__all__ = ["PrettyFormatter"]

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

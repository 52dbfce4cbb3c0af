"""What the commands share: tables, complaints, and options with a unit."""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from tracebaton.terminal import printable

__all__ = ["duration", "fail", "json_document", "print_json", "print_table", "rate"]

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER = r"(\d+(?:\.\d+)?)"


def json_document(text: str, what: str) -> Any:
    """
    Return the JSON document in *text*.

    Raises:
        ConfigurationError: It is none; the line says *what* is not.
    """
    from tracebaton.errors import ConfigurationError

    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ConfigurationError(f"{what} is no JSON document ({exc})") from None


def print_json(content: Any) -> None:
    """Print *content* as one JSON document, in ASCII: nothing of it reaches a terminal raw."""
    print(json.dumps(content))


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print *columns* of *rows* under their names, aligned."""
    texts = [[_cell(row.get(column)) for column in columns] for row in rows]
    heads = [column.replace("_", " ") for column in columns]
    widths = [max(map(len, cells)) for cells in zip(heads, *texts, strict=True)]
    for cells in (heads, *texts):
        line = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        print(line.rstrip())


def _cell(value: object) -> str:
    return "" if value is None else printable(value)


def fail(text: str, *, code: int = 1) -> typer.Exit:
    """Say why on stderr and return what ends the command with *code*."""
    print(f"tracebaton: {printable(text)}", file=sys.stderr)
    return typer.Exit(code)


def duration(text: str) -> float:
    """Return the seconds that *text* means: ``90``, ``30s``, ``10m``, ``2h``, ``7d``."""
    match = re.fullmatch(_NUMBER + "([smhd]?)", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no time such as 30s, 10m, 2h or 7d.")
    return float(match[1]) * _UNITS[match[2]]


def rate(text: str) -> float:
    """Return how many a second *text* means: ``5``, ``5/s``, ``100/m``."""
    match = re.fullmatch(_NUMBER + "(?:/([smh]))?", text)
    if match is None or not float(match[1]):
        raise typer.BadParameter(f"{text!r} is no rate such as 5, 5/s or 100/m.")
    return float(match[1]) / _UNITS[match[2] or "s"]

"""A trace drawn for a terminal: a row a span, time from left to right, waiting drawn as waiting."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from rich.text import Text

from tracebaton import semconv
from tracebaton.terminal import printable, printable_lines
from tracebaton.traces import Row, Trace

__all__ = ["draw"]

#: Columns: of the durations on the right, and the least for the bars.
_DURATION, _LEAST_BARS = 10, 16
#: Names get this much of the width at most.
_NAMES: Final = 0.5
#: Eighths of a column, so that a short span still has its place.
_FULL, _WAIT, _POINT = "█", "░", "▏"
_COLOURS: Final = ("cyan", "magenta", "blue", "yellow", "green")
_LEVELS: Final = {"warning": "yellow", "error": "red", "critical": "red"}
#: Fields of a line that its place in the trace already says.
_KNOWN: Final = frozenset({*semconv.LOG_FIELDS, "exception", "stack"})
#: Characters of one value in a line.
_VALUE: Final = 200


def draw(trace: Trace, *, width: int, logs: bool = True) -> Iterator[Text]:
    """
    Yield the lines of the waterfall.

    Args:
        width: Columns of the terminal.
        logs: Show the log lines under the span that they were written in.
    """
    services = list(dict.fromkeys(row.span.service for row in trace.rows))
    colours = {name: _COLOURS[index % len(_COLOURS)] for index, name in enumerate(services)}
    longest = max(len(_label(row)) for row in trace.rows)
    names = max(8, min(longest, int(width * _NAMES), width - _DURATION - _LEAST_BARS - 2))
    bars = max(_LEAST_BARS, width - names - _DURATION - 2)
    yield _head(trace, services, colours)
    for row in trace.rows:
        yield _row(trace, row, names=names, bars=bars, colour=colours[row.span.service])
        yield from _below(row, logs=logs)
    if logs and trace.logs:
        yield Text("outside of these spans", style="dim")
        yield from (_log_line(line, "  ") for line in trace.logs)


def _head(trace: Trace, services: Sequence[str], colours: Mapping[str, str]) -> Text:
    failed = sum(row.span.failed for row in trace.rows)
    head = Text(f"trace {printable(trace.trace_id)}  {len(trace.rows)} spans  ", style="bold")
    head.append(_time(trace.end - trace.begin))
    for name in services:
        head.append("  ■ ", style=colours[name]).append(printable(name))
    if failed:
        head.append(f"  {failed} failed", style="red")
    return head


def _label(row: Row) -> str:
    receives = row.span.attributes.get(semconv.RECEIVE_COUNT)
    attempt = f" (attempt {receives})" if isinstance(receives, int) and receives > 1 else ""
    mark = "? " if row.orphan else ""
    return f"{'  ' * row.depth}{mark}{printable(row.span.name)}{attempt}"


def _row(trace: Trace, row: Row, *, names: int, bars: int, colour: str) -> Text:
    label = _label(row)
    shown = label if len(label) <= names else label[: names - 1] + "…"
    line = Text(f"{shown:<{names}} ", style="red" if row.span.failed else "")
    line.append_text(_bar(trace, row, bars, colour))
    line.append(f"{_time(row.span.duration):>{_DURATION}}")
    return line


def _bar(trace: Trace, row: Row, bars: int, colour: str) -> Text:
    scale = bars / max(1, trace.end - trace.begin)
    start = min(bars - 1, int((row.span.start - trace.begin) * scale))
    end = min(bars, max(start + 1, round((row.span.end - trace.begin) * scale)))
    since = start if row.waited_from is None else int((row.waited_from - trace.begin) * scale)
    block = _FULL if row.span.duration * scale >= 0.5 else _POINT
    bar = Text(" " * since)
    bar.append(_WAIT * (start - since), style="dim")
    bar.append(block * (end - start), style="red" if row.span.failed else colour)
    return bar.append(" " * (bars - end))


def _below(row: Row, *, logs: bool) -> Iterator[Text]:
    indent = "  " * (row.depth + 1)
    if row.waited_from is not None:
        waited = _time(row.span.start - row.waited_from)
        yield Text(f"{indent}waited {waited} in the queue", style="dim")
    if row.orphan:
        yield Text(f"{indent}its parent {printable(row.span.parent_id)} is not here", style="dim")
    if not (row.span.parent_id and row.span.links == (row.span.parent_id,)) and row.span.links:
        yield Text(f"{indent}links {', '.join(map(printable, row.span.links))}", style="dim")
    for kind, message in row.span.exceptions:
        lines = printable_lines(message).splitlines() or [""]
        yield Text(f"{indent}✗ {printable(kind)}: {lines[0]}", style="red")
    if row.span.failed and not row.span.exceptions:
        why = row.span.status_message or row.span.attributes.get(semconv.ERROR_TYPE) or "failed"
        yield Text(f"{indent}✗ {printable(why)}", style="red")
    if logs:
        yield from (_log_line(line, indent) for line in row.logs)


def _log_line(line: Mapping[str, Any], indent: str) -> Text:
    level = str(line.get("level") or "info")
    text = Text(indent).append(f"{str(line.get('timestamp'))[11:23]} ", style="dim")
    text.append(f"{printable(level)} ", style=_LEVELS.get(level, "dim"))
    text.append(printable(line.get("event")))
    for name, value in line.items():
        if name not in _KNOWN and value is not None:
            text.append(f" {printable(name)}={printable(value)[:_VALUE]}", style="dim")
    return text


def _time(nanoseconds: int) -> str:
    for unit, size in (("s", 1e9), ("ms", 1e6)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.2f} {unit}"
    return f"{nanoseconds / 1e3:.0f} µs"

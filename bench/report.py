"""
A bench's tables as Markdown for people, and as JSON for the next run.
"""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from rounds import ROOT, Goal, Round, Row, middle, over_rounds

RESULTS = ROOT / "bench" / "results"


def table(rows: Sequence[Row], rounds: Sequence[Round], figures: Mapping[str, str]) -> str:
    """
    Return one line a row: what it is told to be, then median [lowest..highest] of each figure.

    Args:
        figures: The column's title by the figure's name.
    """
    told = list(dict.fromkeys(key for row in rows for key in row.told))
    lines = [["row", *told, *figures.values()]]
    for row in rows:
        ran = any(row.name in one for one in rounds)
        found = [over_rounds(rounds, row.name, figure) for figure in figures]
        cells = [_cell(values) if values or not ran else "" for values in found]
        lines.append([row.name, *(row.told.get(key, "") for key in told), *cells])
    return _markdown(lines)


def goals_table(goals: Sequence[Goal], rounds: Sequence[Round]) -> str:
    """Return one line a goal that was measured: its value, its bound, whether it is reached."""
    lines = [["goal", "measured", "bound", "reached"]]
    for goal in goals:
        value = middle(rounds, goal.value)
        if value is not None:
            reached = "yes" if goal.reached(value) else "**no**"
            lines.append([goal.name, f"{value:.2f}", goal.bound, reached])
    return _markdown(lines) if len(lines) > 1 else ""


def document(
    rows: Sequence[Row], rounds: Sequence[Round], goals: Sequence[Goal] = ()
) -> dict[str, Any]:
    """Return all there is to know of a table, for JSON."""
    return {
        "rows": {row.name: dict(row.told) for row in rows},
        "rounds": [{name: dict(figures) for name, figures in one.items()} for one in rounds],
        "goals": {goal.name: middle(rounds, goal.value) for goal in goals},
    }


def head(versions: Mapping[str, str], *, rounds: int) -> str:
    """Return when, on what class of machine and with which versions this was measured."""
    named = ", ".join(f"{name} {number}" for name, number in versions.items())
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores ({_cpu()}),"
        f" Python {platform.python_version()}, medians of {rounds} alternating rounds"
        f" [lowest..highest].\n{named}."
    )


def save(name: str, text: str, data: Mapping[str, Any]) -> None:
    """Keep a run as the bench's latest result, as ``results/NAME.md`` and ``.json``."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text)
    (RESULTS / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "failed"
    low, mid, high = (_number(one) for one in (min(values), median(values), max(values)))
    return f"{mid} [{low}..{high}]"


def _number(value: float) -> str:
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f}"


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    titles, *rest = lines
    every = [titles, ["---"] * len(titles), *rest]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in every) + "\n"


def _cpu() -> str:
    """Return the processor's family as Linux knows it; elsewhere, the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()

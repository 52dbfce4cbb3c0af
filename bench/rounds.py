"""
Rows that are measured in alternating rounds, and what is compared between them.

A machine has slow minutes. So each round measures every row once, the next one in another order,
and a ratio is taken inside a round before the median is taken over the rounds.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

Figures = Mapping[str, float]
#: One round: the figures of each row that ran, by the row's name.
Round = Mapping[str, Figures]

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """
    One line of the table.

    Attributes:
        name: Unique in its table.
        told: What a reader has to know to compare it: traced or not, Sentry mode, rate, store.
        measure: Runs once and returns its figures; called once a round.
    """

    name: str
    told: Mapping[str, str] = field(default_factory=dict)
    measure: Callable[[], Figures]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A figure made of one round, mostly a ratio of two rows, and its bound."""

    name: str
    value: Callable[[Round], float]
    at_most: float | None = None
    at_least: float | None = None

    def reached(self, value: float) -> bool:
        """Tell whether *value* keeps the bound."""
        low = -float("inf") if self.at_least is None else self.at_least
        high = float("inf") if self.at_most is None else self.at_most
        return low <= value <= high

    @property
    def bound(self) -> str:
        """Return the bound as text."""
        return (
            f"at most {self.at_most:g}" if self.at_least is None else f"at least {self.at_least:g}"
        )


def alternate(
    rows: Sequence[Row], rounds: int, *, first: int = 0, seconds: float = float("inf")
) -> list[Round]:
    """
    Measure *rows* for that many *rounds*; a row that fails is told and left out of its round.

    Args:
        first: Rounds that there are already: the order goes on from there.
        seconds: No row is begun after them; what is left of the round is left out.
    """
    done: list[Round] = []
    until = time.monotonic() + seconds
    for number in range(first, first + rounds):
        turn = number % len(rows)
        # Every second round goes backwards, so that a row is not always behind the same one.
        order = [*rows[turn:], *rows[:turn]][:: -1 if number % 2 else 1]
        figures: dict[str, Figures] = {}
        for row in order:
            if time.monotonic() > until:
                say(f"no time left for {row.name}")
                continue
            say(f"round {number + 1} of {first + rounds}: {row.name}")
            try:
                with _terminable():
                    figures[row.name] = row.measure()
            except (subprocess.SubprocessError, OSError, ValueError) as exc:
                say(f"{row.name} failed: {exc}")
        done.append(figures)
    return done


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM, which ``timeout`` sends, end the servers of a row before it ends the bench."""
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(number: int, frame: Any) -> None:
    raise SystemExit(128 + number)


def over_rounds(rounds: Sequence[Round], row: str, figure: str) -> list[float]:
    """Return *figure* of *row* in each round that has it."""
    return [one[row][figure] for one in rounds if figure in one.get(row, {})]


def middle(rounds: Sequence[Round], value: Callable[[Round], float]) -> float | None:
    """Return the median of *value* over the rounds that have all its rows, None without one."""
    found = []
    for one in rounds:
        try:
            found.append(value(one))
        except (KeyError, ZeroDivisionError):
            continue
    return median(found) if found else None


def child(
    python: Path | str,
    script: Path,
    *args: str,
    env: Mapping[str, str] | None = None,
    timeout: float = 60,
) -> dict[str, float]:
    """
    Run *script* in a process of its own and return the JSON of its last line.

    Raises:
        subprocess.SubprocessError: It failed; its stderr was shown.
    """
    command = [str(python), str(script), *args]
    done = subprocess.run(
        command,
        env=clean_environment(env),
        stdout=subprocess.PIPE,
        text=True,
        timeout=timeout,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def clean_environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment without anybody's telemetry settings, plus *more*."""
    ours = ("OTEL_", "SENTRY_", "TRACEBATON_", "LOGFIRE_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    return {**kept, **(more or {})}


def say(text: str) -> None:
    """Tell what is going on, on stderr."""
    print(f"bench: {text}", file=sys.stderr, flush=True)

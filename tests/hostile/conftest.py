"""How many cases a suite runs, from which seed, and what they left behind."""

import gc
import os
import random
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

#: Cases of a suite where none are asked for: a few seconds in all.
BOUNDED = 400
#: Cases of one run of hypothesis, which remembers every choice it made until the run ends.
_RUN = 250


@dataclass
class Cases:
    """
    The share of one test in the cases of its suite.

    Attributes:
        wanted: Cases of the whole suite.
        seed: Of the first run; the next ones count up.
        long: Whether this is a search of its own and no bounded check.
        seconds: What the suite may take, however much it was asked for.
    """

    wanted: int
    seed: int
    long: bool
    seconds: float
    lines: list[str] = field(default_factory=list)

    def explore(
        self,
        name: str,
        strategy: SearchStrategy[Any],
        check: Callable[[Any], int | None],
        *,
        share: float = 1.0,
        least: int = 1,
        between: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Put examples of *strategy* through *check*, which returns how many cases one was (1).

        Args:
            share: Of the suite's cases.
            least: Cases that are run however few were asked for.
            between: Called after every few hundred examples, and at the end.
        """
        wanted = max(least, round(self.wanted * share))
        done, number, began, grown = 0, self.seed, time.monotonic(), Growth()
        while done < wanted and time.monotonic() - began < self.seconds * share + 10:
            done += _run(strategy, check, number=number, most=wanted - done)
            number += 1
            between()
            grown.note()
        seconds = time.monotonic() - began
        self.lines.append(
            f"{name}: {done} cases, {seconds:.1f} s, seed {self.seed}, memory {grown.report()}"
        )
        grown.check()


def _run(
    strategy: SearchStrategy[Any], check: Callable[[Any], int | None], *, number: int, most: int
) -> int:
    done = 0

    @seed(number)
    @settings(
        max_examples=min(_RUN, most),
        derandomize=False,  # the seed above is the same in every bounded run
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
        print_blob=False,
    )
    @given(strategy)
    def run(example: Any) -> None:
        nonlocal done
        random.seed()  # hypothesis seeds it alike for each example, and so every trace id
        if done < most:
            done += check(example) or 1

    run()
    return done


class Growth:
    """Resident memory, from the time that everything was used once."""

    #: Growth that is no leak: an allocator's arenas, a cache on its way to its bound.
    ALLOWED = 1.25
    _SLACK = 24 * 1024

    def __init__(self) -> None:
        self.first: int | None = None
        self.peak = 0
        self._notes = 0

    def note(self) -> None:
        """Take the measure now; the first two runs warm caches up."""
        self._notes += 1
        gc.collect()
        now = resident()
        if self._notes >= 3:
            self.first = self.first or now
            self.peak = max(self.peak, now)

    def report(self) -> str:
        """Say from where to where it went."""
        if self.first is None:
            return f"{resident() / 1024:.0f} MiB (too short for growth)"
        return f"{self.first / 1024:.0f} MiB, at most {(self.peak - self.first) / 1024:+.1f} MiB"

    def check(self) -> None:
        """Fail on what grows with the cases."""
        if self.first is not None:
            assert self.peak <= self.first * self.ALLOWED + self._SLACK, self.report()


def resident(process: int | str = "self") -> int:
    """Return the resident memory of *process* in KiB."""
    with open(f"/proc/{process}/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def open_files(process: int | str = "self") -> int:
    """Return how many file descriptors *process* has open."""
    return len(os.listdir(f"/proc/{process}/fd"))


def threads() -> set[str]:
    """Return the names of the running threads."""
    return {thread.name for thread in threading.enumerate()}


@pytest.fixture(scope="session")
def cases(request: pytest.FixtureRequest) -> Cases:
    """How many cases to run, and a seed: the same for every bounded run."""
    wanted = request.config.getoption("--cases")
    chosen = request.config.getoption("--hypothesis-seed", default=None)
    number = int(chosen) if chosen is not None else secrets.randbits(32) if wanted else 0
    seconds = 60 * request.config.getoption("--minutes") - 20
    made = Cases(wanted or BOUNDED, number, long=wanted is not None, seconds=seconds)
    request.config.stash[_LINES] = made.lines
    return made


_LINES = pytest.StashKey[list[str]]()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say how many cases ran, from which seed, and what they cost."""
    lines = config.stash.get(_LINES, [])
    if lines:
        terminalreporter.section("cases")
        for line in lines:
            terminalreporter.write_line(line)

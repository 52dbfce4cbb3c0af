"""
A journal of handler runs, written by the workers of a chaos run and read by its judge.

Each run of a handler leaves a line when it begins and one when it ends, in a file that any number
of processes append to. What a killed process began and never ended is seen, too.
"""

import functools
import inspect
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from pydantic_core import to_jsonable_python

from tracebaton.context import current
from tracebaton.errors import Reject, RetryLater
from tracebaton.tasks import Registry, TaskType

__all__ = ["Journal", "Run", "differing"]

#: Bytes of a line: a longer one would not be appended in one piece.
_LINE = 3500


@dataclass(frozen=True, slots=True)
class Run:
    """
    One run of a handler.

    Attributes:
        outcome: ``returned``, ``raised``, ``steered`` by `Reject` or `RetryLater`, or ``cut``: it
            never ended.
        said: The result as JSON, or the exception's class.
    """

    task_id: str
    attempt: int
    outcome: str
    said: str = ""


class Journal:
    """The runs of one chaos run, in the file at *path*."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def recorded(self, registry: Registry, *, lose: float, seed: int) -> Registry:
        """
        Return the task types of *registry* with handlers that keep this journal.

        Args:
            lose: Share of the runs that return whose result is thrown away: the worker might have
                been killed between the last effect and the commit.
        """
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        wrapped, random = Registry(), Random(seed)
        for kind in registry:
            if kind.batch is not None:  # one call is for many tasks: its runs are not written down
                wrapped.add(kind)
                continue
            wrapped.add(replace(kind, handler=self._wrapped(kind, file, lose, random)))
        return wrapped

    def runs(self) -> dict[str, list[Run]]:
        """Return the runs of each task, in the order in which they began."""
        runs: dict[str, list[Run]] = defaultdict(list)
        open_: dict[tuple[str, int], int] = {}
        for line in self._lines():
            task_id, number = line["task"], line["run"]
            if "outcome" not in line:
                open_[task_id, number] = len(runs[task_id])
                runs[task_id].append(Run(task_id, line["attempt"], "cut"))
                continue
            at = open_[task_id, number]
            begun = runs[task_id][at]
            runs[task_id][at] = replace(begun, outcome=line["outcome"], said=line["said"])
        return dict(runs)

    def begun(self) -> Iterator[str]:
        """Yield the task of each run, in the order in which the runs of all processes began."""
        return (line["task"] for line in self._lines() if "outcome" not in line)

    def peaks(self) -> dict[int, int]:
        """Return how many handlers ran at the same time at most, by process."""
        running: Counter[int] = Counter()
        peaks: Counter[int] = Counter()
        for line in self._lines():
            pid = line["pid"]
            running[pid] += -1 if "outcome" in line else 1
            peaks[pid] = max(peaks[pid], running[pid])
        return dict(peaks)

    def _lines(self) -> Iterator[dict[str, Any]]:
        if self._path.exists():
            for line in self._path.read_text().splitlines():
                yield json.loads(line)

    def _wrapped(self, kind: TaskType, file: int, lose: float, random: Random) -> Any:
        handler = kind.handler
        if inspect.iscoroutinefunction(handler):

            @functools.wraps(handler)
            async def run(data: Any) -> Any:
                with _Line(file) as line:
                    result = await handler(data)
                    line.returned(result)
                return _kept(result, lose=random.random() < lose)

            return run

        @functools.wraps(handler)
        def run_in_thread(data: Any) -> Any:
            with _Line(file) as line:
                result = handler(data)
                line.returned(result)
            return _kept(result, lose=random.random() < lose)

        return run_in_thread


def _kept(result: Any, *, lose: bool) -> Any:
    if lose:
        raise RetryLater(0, "The result of this run was thrown away, as by a kill.")
    return result


class _Line:
    """One run while it lasts."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._number = int.from_bytes(os.urandom(6), "big")
        self._ended = False

    def __enter__(self) -> "_Line":
        self._write({"attempt": current().attempt})
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            steering = issubclass(kind, Reject | RetryLater)
            outcome = "steered" if steering else "raised"
            # Cancelled: its lease was lost, or the worker stops.
            outcome = outcome if issubclass(kind, Exception) else "cut"
            self._write({"outcome": outcome, "said": kind.__qualname__})

    def returned(self, result: Any) -> None:
        said = json.dumps(to_jsonable_python(result), sort_keys=True)[:_LINE]
        self._write({"outcome": "returned", "said": said})

    def _write(self, more: dict[str, Any]) -> None:
        line = {"task": current().task_id, "run": self._number, "pid": os.getpid(), **more}
        os.write(self._file, json.dumps(line).encode() + b"\n")


def differing(runs: Sequence[Run]) -> str | None:
    """Return how *runs* of one task contradict each other, None where they do not."""
    returned = [run for run in runs if run.outcome == "returned"]
    if not returned:
        return None
    first = returned[0]
    for run in runs[runs.index(first) + 1 :]:
        # An earlier attempt that comes late may fail as it would have: handlers look at the count.
        if run.outcome == "raised" and run.attempt > first.attempt:
            return f"attempt {run.attempt} raised {run.said} after another one had returned"
        if run.outcome == "returned" and run.said != first.said:
            return f"attempts returned {first.said[:80]} and {run.said[:80]}"
    return None

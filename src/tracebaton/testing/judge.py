"""
The judge of a chaos run: what has to hold whatever went wrong, and what did not.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tracebaton.queue.letters import Letters
from tracebaton.queue.sqs import Queue, Sqs
from tracebaton.queue.walk import Walk
from tracebaton.tasks import ENDED, Task, TaskStatus, TaskStore
from tracebaton.testing.journal import Journal, Run, differing

__all__ = ["Judge", "Verdict"]

#: Findings of one kind that are told one by one.
_TOLD = 5
#: Files that a process may hold more at its end than in its first third: pooled connections. A
#: FIFO queue has eight for polls and as many for other calls, and a slow start opens them late.
_FILES = 24
#: Seconds that an event may be under way before it is sent.
_UNDER_WAY = 1.0
#: Seconds that a walk of the DLQ hides messages at most, with some to spare, and between two looks.
_HIDDEN, _LOOK = 40.0, 0.25
#: Samples that make a process old enough to be judged by its files.
_SAMPLES = 20


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    What a chaos run found.

    Attributes:
        findings: What does not hold, in sentences; empty where everything does.
        figures: What happened: tasks by status, runs, kills, faults, calls.
    """

    findings: Sequence[str]
    figures: Mapping[str, Any]

    @property
    def good(self) -> bool:
        """Tell whether everything holds."""
        return not self.findings


class Judge:
    """Looks at what a run left behind."""

    def __init__(self, store: TaskStore, journal: Journal) -> None:
        self._store = store
        self._journal = journal
        self._kinds: Counter[str] = Counter()
        self._findings: list[str] = []
        self._statuses: Counter[str] = Counter()
        self._tasks: list[Task] = []
        self._dead: set[str] = set()
        self._figures: dict[str, Any] = {}

    async def tasks(self, ids: Sequence[str]) -> None:
        """Every accepted task has ended, once, and its result was committed once."""
        for task_id in ids:
            task = await self._store.get(task_id)
            if task is None:
                self._find("lost", f"task {task_id} is not in the store")
                continue
            self._tasks.append(task)
            self._statuses[task.status.value] += 1
            if task.status not in ENDED:
                self._find("stuck", f"task {task_id} ({task.type}) is still {task.status.value}")
            if task.status is TaskStatus.DEAD:
                self._dead.add(task_id)
            await self._once(task_id)
        for task_id, runs in self._journal.runs().items():
            if (wrong := differing(runs)) is not None:
                self._find("not idempotent", f"task {task_id}: {wrong}")

    async def _once(self, task_id: str) -> None:
        history = await self._store.history(task_id, limit=1000)
        ends = [one.task.status for one in history if one.kind == "status"]
        ended = [status.value for status in ends if status in ENDED]
        if len(ended) > 1:
            self._find("ended twice", f"task {task_id} ended as {' and '.join(ended)}")

    def listen(self, check: Callable[[Sequence[Task]], object] | None) -> None:
        """Hear what the application's own check has to say of the tasks."""
        if check is None:
            return
        try:
            check(self._tasks)
        except AssertionError as exc:
            self._find("check", str(exc) or "the application's check failed")

    async def dead(self, sqs: Sqs, dlq: Queue) -> None:
        """Every dead task's message is in the DLQ, and every message there has an ended task."""
        letters = Letters("dlq", queue_name="", store=self._store)
        await _all_visible(dlq)
        async with Walk(sqs, dlq) as walk:
            found = [letter async for batch in letters.of(walk) for letter in batch]
        for letter in found:
            if letter.task is not None and letter.task.status not in ENDED:
                self._find("forgotten", f"task {letter.task_id} is in the DLQ, not dead")
        ids = {letter.task_id or "" for letter in found}
        for task_id in self._dead - ids:
            self._find("lost", f"task {task_id} is dead, its message is not in the DLQ")
        self._figures["dlq"] = len(ids)

    def order(self, groups: Mapping[str, Sequence[str]]) -> None:
        """No run of a task begins once one of a later task of its group has begun."""
        places = {
            task_id: (group, place)
            for group, ids in groups.items()
            for place, task_id in enumerate(ids)
        }
        latest: dict[str, int] = {}
        for task_id in self._journal.begun():
            if task_id not in places:
                continue
            group, place = places[task_id]
            if place < latest.get(group, 0):
                self._find("out of order", f"task {task_id} ran after a later one of {group}")
            latest[group] = max(place, latest.get(group, 0))

    def reports(self, heard: Mapping[str, Collection[str]], *, killed_at: Sequence[float]) -> None:
        """
        Every finally failed task is one error event, and no other task is any.

        Args:
            heard: The error events of each task.
            killed_at: When processes were killed: what one had not sent yet went with it.
        """
        runs, counts = self._journal.runs(), Counter[str]()
        for task in self._tasks:
            events = len(heard.get(task.id, ()))
            expected = int(_reported(task, runs.get(task.id, ())))
            if events < expected and _lost(task, killed_at):
                counts["lost with a killed worker"] += 1
            elif events != expected:
                said = f"task {task.id} is {task.status.value} and {events} error events"
                self._find("reports", f"{said}, not {expected}")
            counts["heard"] += events
        self._figures["error events"] = dict(counts)

    def queues(
        self, stats: Mapping[str, Mapping[str, int]], *, queue: str, quarantine: str
    ) -> None:
        """Nothing is left in the queue, nothing was taken for unreadable."""
        left = sum(stats[queue][where] for where in ("visible", "in_flight", "delayed"))
        if left:
            self._find("stuck", f"{left} messages are still in the queue")
        if stats[quarantine]["visible"]:
            self._find("quarantined", f"{stats[quarantine]['visible']} messages in quarantine")

    def processes(self, codes: Sequence[int], files: Mapping[int, Sequence[int]]) -> None:
        """Every worker drained and exited with 0, and none holds ever more files."""
        if any(codes):
            self._find("no clean stop", f"workers exited with {list(codes)}")
        for pid, counts in files.items():
            if len(counts) < _SAMPLES:
                continue
            early = max(counts[: len(counts) // 3])
            if counts[-1] > early + _FILES:
                self._find("files", f"process {pid} held {early} files, then {counts[-1]}")

    def verdict(self, figures: Mapping[str, Any]) -> Verdict:
        """Return what was found."""
        runs = [run for runs in self._journal.runs().values() for run in runs]
        hidden = [
            f"{count - _TOLD} more: {kind}" for kind, count in self._kinds.items() if count > _TOLD
        ]
        known = {
            "tasks": dict(self._statuses),
            "runs": dict(Counter(run.outcome for run in runs)),
            **self._figures,
        }
        return Verdict(self._findings + hidden, known | dict(figures))

    def _find(self, kind: str, text: str) -> None:
        self._kinds[kind] += 1
        if self._kinds[kind] <= _TOLD:
            self._findings.append(f"{kind}: {text}")


async def _all_visible(queue: Queue) -> None:
    """Wait while a walk that was cut, or whose receive lost its answer, hides messages."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_HIDDEN):
            while await _hidden(queue):  # noqa: ASYNC110  # SQS has no event to wait for
                await asyncio.sleep(_LOOK)


async def _hidden(queue: Queue) -> int:
    return int((await queue.attributes())["ApproximateNumberOfMessagesNotVisible"])


def _reported(task: Task, runs: Sequence[Run]) -> bool:
    """Tell whether the end of *task* is an error: one that its handler refused is none."""
    if task.status is TaskStatus.FAILED:
        return not any(run.outcome == "steered" and run.said == "Reject" for run in runs)
    return task.status is TaskStatus.DEAD


def _lost(task: Task, killed_at: Sequence[float]) -> bool:
    """Tell whether a process was killed so soon after the end of *task* that it may be its own."""
    ended_at = task.ended_at or task.updated_at
    return any(0 <= moment - ended_at <= _UNDER_WAY for moment in killed_at)

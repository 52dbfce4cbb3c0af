"""What the fault tests send to the harbour, and how it has to end."""

from collections.abc import Sequence
from typing import Any

from tracebaton.tasks import Task, TaskStatus

Items = list[tuple[str, dict[str, Any]]]

#: Half of them plain work; the others end in every other way.
KINDS = (*["sail"] * 6, *["row"] * 2, "drift", "wait", "refuse", "late")
#: How the tasks of each type may end: faults use up attempts, so that any may be dead.
ENDS = {"refuse": TaskStatus.FAILED, "leak": TaskStatus.DEAD, "mine": TaskStatus.DEAD}


def voyages(count: int, *, leaks: int = 1, mines: int = 0) -> Items:
    """Return *count* tasks, some longer than the lease, with some that die."""
    items: Items = []
    for number in range(count):
        seconds = 8.0 if number % 97 == 0 else 0.05 * (number % 3)
        data = {"number": number, "seconds": seconds, "times": number % 3}
        items.append((KINDS[number % len(KINDS)], data))
    return items + [("leak", {})] * leaks + [("mine", {})] * mines


def naps(count: int) -> Items:
    """Return tasks that fill every free place of every worker."""
    return [("sail", {"seconds": 1.5})] * count


def rightly_ended(tasks: Sequence[Task]) -> None:
    """Assert that each task ended as its type does, or is dead."""
    wrong = [
        (task.id, task.type, task.status.value)
        for task in tasks
        if task.status not in {ENDS.get(task.type, TaskStatus.SUCCEEDED), TaskStatus.DEAD}
    ]
    assert wrong == []
    spoilt = [task.id for task in tasks if task.status == "dead" and task.type not in ENDS]
    assert len(spoilt) <= max(3, len(tasks) // 50), f"{len(spoilt)} tasks used up their attempts"

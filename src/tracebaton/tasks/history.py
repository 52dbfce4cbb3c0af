"""
What a task's history keeps, alike in every store.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from tracebaton.tasks.store import Change, ChangeKind
from tracebaton.tasks.task import FIELDS, STATUSES, Task, TaskStatus, restored

__all__ = ["OUTCOMES", "change_of", "snapshot_of"]

#: What each end adds to the history after its status.
OUTCOMES: Final[Mapping[TaskStatus, tuple[ChangeKind, ...]]] = {
    TaskStatus.SUCCEEDED: ("result",),
    TaskStatus.FAILED: ("error",),
    TaskStatus.DEAD: ("error",),
    TaskStatus.CANCELLED: (),
}
#: What of a task its history keeps; the rest never changes, or is nobody's to see.
_KEPT: Final = (
    "status",
    "attempt",
    "progress",
    "progress_message",
    "error",
    "updated_at",
    "started_at",
    "ended_at",
)


def snapshot_of(task: Task) -> str:
    """Return what the history keeps of *task* as it is now."""
    return json.dumps({name: getattr(task, name) for name in _KEPT})


def change_of(task: Task, number: int, kind: ChangeKind, snapshot: str) -> Change:
    """Return the entry of the history of *task* that was kept as *snapshot*."""
    kept: dict[str, Any] = json.loads(snapshot)
    status = STATUSES[kept["status"]]
    # A result is written once, with the state that no task leaves.
    result = task.result if status is TaskStatus.SUCCEEDED else None
    then = {name: getattr(task, name) for name in FIELDS} | kept
    then |= {"status": status, "result": result, "changes": number}
    return Change(number, kind, restored(then.values()))

"""
Rows and what they stand for: tasks, and the entries of their history.
"""

import json
import sqlite3
from typing import Any, Final

from tracebaton.tasks.history import snapshot_of
from tracebaton.tasks.store import ChangeKind
from tracebaton.tasks.task import FIELDS, STATUSES, Task, restored

__all__ = ["COLUMNS", "note", "noted", "task_of"]

#: One for each field, by its name.
COLUMNS: Final = ", ".join(FIELDS)
_STATUS, _RESULT, _ERROR, _FAILURES = map(FIELDS.index, ("status", "result", "error", "failures"))


def task_of(row: sqlite3.Row) -> Task:
    """Return the task of a row of `COLUMNS`."""
    values: list[Any] = list(row)
    values[_STATUS] = STATUSES[values[_STATUS]]
    failures = values[_FAILURES]
    values[_FAILURES] = () if failures == "[]" else tuple(json.loads(failures))
    for column in (_RESULT, _ERROR):
        if values[column] is not None:
            values[column] = json.loads(values[column])
    return restored(values)


def noted(
    connection: sqlite3.Connection, row: sqlite3.Row | None, *kinds: ChangeKind
) -> Task | None:
    """
    Add what an UPDATE returned as *row* to the history, and return its task; None without a row.

    The UPDATE has counted ``changes`` up by as many as there are *kinds*.
    """
    if row is None:
        return None
    task = task_of(row)
    snapshot = snapshot_of(task)
    for number, kind in enumerate(kinds, start=task.changes - len(kinds) + 1):
        note(connection, task.id, kind, number=number, snapshot=snapshot)
    return task


def note(
    connection: sqlite3.Connection, task_id: str, kind: ChangeKind, *, number: int, snapshot: str
) -> None:
    """Add what a task was to its history."""
    connection.execute(
        "INSERT INTO changes (task_id, number, kind, snapshot) VALUES (?, ?, ?, ?)",
        (task_id, number, kind, snapshot),
    )

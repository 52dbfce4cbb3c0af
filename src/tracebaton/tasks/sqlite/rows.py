"""
Rows and what they stand for: tasks, and the entries of their history.
"""

import json
import sqlite3
from typing import Final

from tracebaton.tasks.history import snapshot_of
from tracebaton.tasks.store import ChangeKind
from tracebaton.tasks.task import Task, TaskStatus

__all__ = ["COLUMNS", "note", "noted", "task_of"]

COLUMNS: Final = (
    "id, type, status, user_id, correlation_id, trace_id, parent_task_id, attempt, progress,"
    " progress_message, result, error, failures, created_at, updated_at, started_at, ended_at,"
    " owner, lease_until, traceparent, previous, changes"
)


def task_of(row: sqlite3.Row) -> Task:
    """Return the task of a row of `COLUMNS`."""
    fields = dict(row)
    fields["status"] = TaskStatus(fields["status"])
    fields["failures"] = tuple(json.loads(fields["failures"]))
    for name in ("result", "error"):
        if fields[name] is not None:
            fields[name] = json.loads(fields[name])
    return Task(**fields)


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

"""
What changes a task: each a conditional UPDATE, and an entry of the history in the same transaction.
"""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tracebaton.tasks.history import OUTCOMES
from tracebaton.tasks.sqlite.reading import get
from tracebaton.tasks.sqlite.rows import COLUMNS, noted
from tracebaton.tasks.store import HISTORY_LIMIT, ChangeKind
from tracebaton.tasks.task import TRANSITIONS, Task, TaskStatus

__all__ = [
    "abandon",
    "cancel",
    "finish",
    "progress",
    "reap",
    "renew",
    "reopen",
    "retry",
    "start",
]

#: Rows that one call changes at most: others want the lock too.
_BATCH: Final = 500


def start(
    connection: sqlite3.Connection,
    task_id: str,
    *,
    attempt: int,
    owner: str | None,
    lease_until: float | None,
    traceparent: str | None,
    sent_at: float | None,
    now: float,
) -> Task | None:
    """Enter ``running``, or return the task as it is where it does not allow that."""
    row = connection.execute(
        "UPDATE tasks SET status = 'running', attempt = ?, owner = ?, lease_until = ?,"
        " previous = traceparent, traceparent = ?, error = NULL, ended_at = NULL, progress = 0,"
        " progress_message = NULL, updated_at = ?, started_at = coalesce(started_at, ?),"
        " changes = changes + 1 WHERE id = ?"
        " AND (status = 'queued'"
        " OR status = 'dead' AND (owner IS NULL OR coalesce(? > ended_at, FALSE))"
        " OR status = 'running'"
        " AND (owner IS NULL OR owner = ? OR coalesce(lease_until, 0) <= ?))"
        f" RETURNING {COLUMNS}",
        (
            *(attempt, owner, lease_until, traceparent, now, now, task_id),
            *(sent_at, owner, now),
        ),
    ).fetchone()
    return noted(connection, row, "status") or get(connection, task_id, forgotten=True)


def reopen(connection: sqlite3.Connection, task_id: str, *, now: float) -> bool:
    """Go from ``failed`` or ``dead`` back to ``queued``."""
    row = connection.execute(
        "UPDATE tasks SET status = 'queued', error = NULL, ended_at = NULL, updated_at = ?,"
        " owner = NULL, lease_until = NULL,"
        f" changes = changes + 1 WHERE id = ? AND status IN ('failed', 'dead') RETURNING {COLUMNS}",
        (now, task_id),
    ).fetchone()
    return noted(connection, row, "status") is not None


def renew(connection: sqlite3.Connection, owners: Mapping[str, str], *, lease_until: float) -> None:
    """Extend the leases; nothing that anybody sees, so no entry of the history."""
    connection.executemany(
        "UPDATE tasks SET lease_until = ? WHERE id = ? AND owner = ? AND status = 'running'",
        [(lease_until, task_id, owner) for task_id, owner in owners.items()],
    )


def progress(
    connection: sqlite3.Connection,
    task_id: str,
    *,
    attempt: int,
    percent: int,
    message: str | None,
    now: float,
) -> None:
    """Raise the progress of the running *attempt*."""
    found = connection.execute(
        "SELECT changes FROM tasks WHERE id = ? AND attempt = ? AND status = 'running'"
        " AND (progress < ? OR progress = ? AND progress_message IS NOT ?)",
        (task_id, attempt, percent, percent, message),
    ).fetchone()
    if found is None:
        return
    kinds: tuple[ChangeKind, ...] = ("progress",) if found["changes"] < HISTORY_LIMIT else ()
    row = connection.execute(
        "UPDATE tasks SET progress = ?, progress_message = ?, updated_at = ?,"
        f" changes = changes + ? WHERE id = ? RETURNING {COLUMNS}",
        (percent, message, now, len(kinds), task_id),
    ).fetchone()
    noted(connection, row, *kinds)


def retry(
    connection: sqlite3.Connection,
    task_id: str,
    *,
    attempt: int,
    failure: Mapping[str, Any] | None,
    now: float,
) -> bool:
    """Go back to ``queued``."""
    more = "" if failure is None else " failures = json_insert(failures, '$[#]', json(?)),"
    values = () if failure is None else (json.dumps(failure),)
    row = connection.execute(
        f"UPDATE tasks SET status = 'queued',{more} updated_at = ?, changes = changes + 1"
        f" WHERE id = ? AND attempt = ? AND status = 'running' RETURNING {COLUMNS}",
        (*values, now, task_id, attempt),
    ).fetchone()
    return noted(connection, row, "status") is not None


def finish(
    connection: sqlite3.Connection,
    task_id: str,
    status: TaskStatus,
    *,
    attempt: int,
    result: str | None,
    error: str | None,
    now: float,
) -> bool:
    """End the task as *status*."""
    sources = [source.value for source in TRANSITIONS[status]]
    kinds: tuple[ChangeKind, ...] = ("status", *OUTCOMES[status])
    row = connection.execute(
        "UPDATE tasks SET status = ?, result = ?, error = ?, updated_at = ?, ended_at = ?,"
        " progress = CASE WHEN ? = 'succeeded' THEN 100 ELSE progress END, changes = changes + ?"
        f" WHERE id = ? AND attempt = ? AND status IN ({', '.join('?' * len(sources))})"
        f" RETURNING {COLUMNS}",
        (
            *(status.value, result, error, now, now, status.value, len(kinds)),
            *(task_id, attempt, *sources),
        ),
    ).fetchone()
    return noted(connection, row, *kinds) is not None


def cancel(connection: sqlite3.Connection, task_id: str, *, now: float) -> bool:
    """End the task as ``cancelled``, whoever runs it."""
    row = connection.execute(
        "UPDATE tasks SET status = 'cancelled', updated_at = ?, ended_at = ?,"
        " changes = changes + 1 WHERE id = ? AND status IN ('queued', 'running')"
        f" RETURNING {COLUMNS}",
        (now, now, task_id),
    ).fetchone()
    return noted(connection, row, "status") is not None


def reap(connection: sqlite3.Connection, *, lease_before: float, now: float) -> Sequence[Task]:
    """Let running tasks wait again whose lease ended before *lease_before*."""
    rows = connection.execute(
        "UPDATE tasks SET status = 'queued', owner = NULL, lease_until = NULL, updated_at = ?,"
        " changes = changes + 1 WHERE id IN (SELECT id FROM tasks"
        " WHERE status = 'running' AND lease_until < ? ORDER BY lease_until LIMIT ?)"
        f" RETURNING {COLUMNS}",
        (now, lease_before, _BATCH),
    ).fetchall()
    return [task for row in rows if (task := noted(connection, row, "status"))]


def abandon(
    connection: sqlite3.Connection, *, untouched_since: float, error: str, now: float
) -> Sequence[Task]:
    """End queued tasks as ``dead`` that nothing happened to since *untouched_since*."""
    rows = connection.execute(
        "UPDATE tasks SET status = 'dead', error = ?, updated_at = ?, ended_at = ?,"
        " changes = changes + 2 WHERE id IN (SELECT id FROM tasks"
        " WHERE status = 'queued' AND created_at < ? AND updated_at < ?"
        " ORDER BY created_at LIMIT ?)"
        f" RETURNING {COLUMNS}",
        (error, now, now, untouched_since, untouched_since, _BATCH),
    ).fetchall()
    return [task for row in rows if (task := noted(connection, row, "status", "error"))]

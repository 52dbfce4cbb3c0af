"""
Tasks from their creation until their message is known to be sent, and what is left of them at last.
"""

import json
import sqlite3
from collections.abc import Collection, Sequence
from typing import Final

from tracebaton.tasks.claiming import Claim
from tracebaton.tasks.history import snapshot_of
from tracebaton.tasks.sqlite import claims
from tracebaton.tasks.sqlite.rows import COLUMNS, note, task_of
from tracebaton.tasks.store import Unsent
from tracebaton.tasks.task import Task

__all__ = ["create", "forget", "purge", "sent", "unsent"]

#: Rows that one call removes at most: others want the lock too.
_BATCH: Final = 500


def create(
    connection: sqlite3.Connection,
    task: Task,
    *,
    message: str | None,
    claim: Claim | None,
    exist_ok: bool,
    now: float,
) -> None:
    """Save *task*, its message, and whose idempotency key led to it."""
    made = connection.execute(
        "INSERT INTO tasks (id, type, status, user_id, correlation_id, trace_id, parent_task_id,"
        " created_at, updated_at, changes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 1)"
        f"{' ON CONFLICT DO NOTHING' if exist_ok else ''}",
        (
            *(task.id, task.type, task.status.value, task.user_id, task.correlation_id),
            *(task.trace_id, task.parent_task_id, task.created_at, task.updated_at),
        ),
    )
    if not made.rowcount:
        return
    note(connection, task.id, "status", number=1, snapshot=snapshot_of(task))
    if message is not None:
        connection.execute(
            "INSERT INTO unsent (task_id, message, touched_at) VALUES (?, ?, ?)",
            (task.id, message, now),
        )
    if claim is not None:
        claims.bind(connection, claim, task.id)


def sent(connection: sqlite3.Connection, task_ids: Collection[str]) -> None:
    """Forget the messages of these tasks."""
    connection.executemany(
        "DELETE FROM unsent WHERE task_id = ?", [(task_id,) for task_id in task_ids]
    )


def forget(connection: sqlite3.Connection, task_id: str, *, now: float) -> bool:
    """Hide a task that never ran; its row answers a message that comes all the same."""
    hidden = connection.execute(
        "UPDATE tasks SET forgotten = 1, status = 'cancelled', ended_at = ?"
        " WHERE id = ? AND status = 'queued' AND attempt = 0",
        (now, task_id),
    ).rowcount
    if hidden:
        connection.execute("DELETE FROM unsent WHERE task_id = ?", (task_id,))
        connection.execute("UPDATE claims SET task_id = NULL WHERE task_id = ?", (task_id,))
    return bool(hidden)


def unsent(
    connection: sqlite3.Connection, *, older_than: float, limit: int, now: float
) -> Sequence[Unsent]:
    """Touch and return the messages that wait longest; drop those that are not needed any more."""
    before = now - older_than
    connection.execute(
        "DELETE FROM unsent WHERE touched_at <= ? AND task_id NOT IN"
        " (SELECT id FROM tasks WHERE status = 'queued' AND attempt = 0)",
        (before,),
    )
    messages = connection.execute(
        "UPDATE unsent SET touched_at = ? WHERE task_id IN (SELECT task_id FROM unsent"
        " WHERE touched_at <= ? ORDER BY touched_at LIMIT ?) RETURNING task_id, message",
        (now, before, limit),
    ).fetchall()
    found = {row["task_id"]: row["message"] for row in messages}
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM tasks WHERE id IN (SELECT value FROM json_each(?))"
        " ORDER BY created_at, id",
        (json.dumps(list(found)),),
    )
    return [Unsent(task, found[task.id]) for task in map(task_of, rows)]


def purge(connection: sqlite3.Connection, *, ended_before: float, now: float) -> int:
    """Remove what ended before, all that belongs to it, and keys that have expired."""
    ended = connection.execute(
        "SELECT id FROM tasks WHERE ended_at < ? LIMIT ?", (ended_before, _BATCH)
    ).fetchall()
    ids = [(row["id"],) for row in ended]
    for table, column in (("changes", "task_id"), ("unsent", "task_id"), ("tasks", "id")):
        connection.executemany(f"DELETE FROM {table} WHERE {column} = ?", ids)
    expired = connection.execute(
        "DELETE FROM claims WHERE (scope, key) IN"
        " (SELECT scope, key FROM claims WHERE expires_at <= ? LIMIT ?)",
        (now, _BATCH),
    ).rowcount
    return len(ids) + expired

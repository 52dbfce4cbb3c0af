"""
Tasks from their creation until their message is known to be sent, and what is left of them at last.
"""

import json
import sqlite3
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any, Final

from tracebaton.tasks.claiming import Claim
from tracebaton.tasks.history import snapshot_of
from tracebaton.tasks.sqlite import claims
from tracebaton.tasks.sqlite.rows import COLUMNS, note, task_of
from tracebaton.tasks.store import Unsent
from tracebaton.tasks.task import Task

__all__ = ["create", "create_all", "forget", "purge", "sent", "unsent"]

#: Rows that one call removes at most: others want the lock too.
_BATCH: Final = 500
#: Tasks that one statement saves at most.
_ROWS: Final = 16
_TASKS: Final = (
    "INSERT INTO tasks (id, type, status, user_id, correlation_id, trace_id, parent_task_id,"
    " created_at, updated_at, changes)"
)
_CHANGES: Final = "INSERT INTO changes (task_id, number, kind, snapshot)"
_MESSAGES: Final = "INSERT INTO unsent (task_id, message, touched_at)"

#: A task, its message, and when it was saved.
New = tuple[Task, str | None, float]


def create_all(connection: sqlite3.Connection, news: Sequence[New]) -> None:
    """
    Save many tasks with their messages by one statement for each table.

    Each step of a statement gives up Python's lock and asks for it again, which takes a busy event
    loop's turn each time.
    """
    for number in range(0, len(news), _ROWS):
        _insert(connection, news[number : number + _ROWS])


def _insert(connection: sqlite3.Connection, news: Sequence[New]) -> None:
    rows: list[Any] = []
    notes: list[Any] = []
    messages: list[Any] = []
    for task, message, now in news:
        rows += _row(task)
        notes += (task.id, snapshot_of(task))
        if message is not None:
            messages += (task.id, message, now)
    connection.execute(_statement(_TASKS, "(?, ?, ?, ?, ?, ?, ?, ?, ?, 1)", len(news)), rows)
    connection.execute(_statement(_CHANGES, "(?, 1, 'status', ?)", len(news)), notes)
    if messages:
        connection.execute(_statement(_MESSAGES, "(?, ?, ?)", len(messages) // 3), messages)


@lru_cache(maxsize=3 * _ROWS)
def _statement(head: str, row: str, count: int) -> str:
    return f"{head} VALUES {', '.join([row] * count)}"


def _row(task: Task) -> tuple[Any, ...]:
    return (
        *(task.id, task.type, task.status.value, task.user_id, task.correlation_id),
        *(task.trace_id, task.parent_task_id, task.created_at, task.updated_at),
    )


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
        f"{_TASKS} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 1)"
        f"{' ON CONFLICT DO NOTHING' if exist_ok else ''}",
        _row(task),
    )
    if not made.rowcount:
        return
    note(connection, task.id, "status", number=1, snapshot=snapshot_of(task))
    if message is not None:
        connection.execute(
            f"{_MESSAGES} VALUES (?, ?, ?)",
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

"""
What is asked of the tasks: one, a page, whether there is news, a history.
"""

import json
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from tracebaton.tasks.history import change_of
from tracebaton.tasks.lists import Page, TaskQuery, decode_cursor, encode_cursor
from tracebaton.tasks.sqlite.rows import COLUMNS, task_of
from tracebaton.tasks.store import Change, Glimpse
from tracebaton.tasks.task import STATUSES, Task

__all__ = ["get", "glimpse", "history", "page"]

#: Bytes of results from which on a page ends although there is room for more tasks.
_PAGE_BYTES: Final = 4 * 1024 * 1024


def get(connection: sqlite3.Connection, task_id: str, *, forgotten: bool = False) -> Task | None:
    """Return a task; with *forgotten* also one that was taken back."""
    row = connection.execute(
        f"SELECT {COLUMNS} FROM tasks WHERE id = ? AND forgotten <= ?", (task_id, forgotten)
    ).fetchone()
    return None if row is None else task_of(row)


def page(connection: sqlite3.Connection, query: TaskQuery) -> Page:
    """Return a page of tasks, newest first."""
    where, values = _conditions(query)
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM tasks WHERE {' AND '.join(where)}"
        " ORDER BY created_at DESC, id DESC LIMIT ?",
        (*values, query.limit + 1),
    )
    tasks: list[Task] = []
    size = 0
    for row in rows:
        if len(tasks) == query.limit or size > _PAGE_BYTES:
            return Page(tasks, encode_cursor(tasks[-1].created_at, tasks[-1].id))
        tasks.append(task_of(row))
        size += len(row["result"] or "")
    return Page(tasks)


def _conditions(query: TaskQuery) -> tuple[list[str], list[Any]]:
    where, values = ["NOT forgotten"], list[Any]()
    for column, value in (
        ("user_id", query.user_id),
        ("status", query.status),
        ("type", query.type),
    ):
        if value is not None:
            where.append(f"{column} = ?")
            values.append(value)
    if query.cursor is not None:
        where.append("(created_at, id) < (?, ?)")
        values.extend(decode_cursor(query.cursor))
    return where, values


def glimpse(connection: sqlite3.Connection, task_ids: Collection[str]) -> Mapping[str, Glimpse]:
    """Return status and newest change of each task that is there."""
    rows = connection.execute(
        "SELECT id, status, changes FROM tasks WHERE NOT forgotten"
        " AND id IN (SELECT value FROM json_each(?))",
        (json.dumps(list(task_ids)),),
    )
    return {row["id"]: Glimpse(STATUSES[row["status"]], row["changes"]) for row in rows}


def history(
    connection: sqlite3.Connection, task_id: str, *, after: int, limit: int
) -> Sequence[Change]:
    """Return the changes after number *after*, in order."""
    task = get(connection, task_id)
    if task is None:
        return ()
    rows = connection.execute(
        "SELECT number, kind, snapshot FROM changes WHERE task_id = ? AND number > ?"
        " ORDER BY number LIMIT ?",
        (task_id, after, limit),
    )
    return [change_of(task, row["number"], row["kind"], row["snapshot"]) for row in rows]

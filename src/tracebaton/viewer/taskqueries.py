"""The reading side of the task table: the list of tasks, and one task with its attempts."""

import sqlite3
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tracebaton.viewer.attempts import attempts
from tracebaton.viewer.loglines import rfc3339
from tracebaton.viewer.queries import lines_of, trace_version
from tracebaton.viewer.rows import MAX_TEXT

__all__ = ["ENDED", "TaskQuery", "find_tasks", "task_document", "task_types", "task_version"]

#: Statuses after which nothing comes, but for a redrive.
ENDED: Final = frozenset({"succeeded", "failed", "dead", "cancelled"})

COLUMNS: Final = (
    "task.id, task.first, task.task_id, task.type, task.status, task.status_time, task.attempt,"
    " task.percent, task.message, task.progress_time, task.trace_id, trace.correlation_id,"
    " trace.user_id, (SELECT min(first) FROM task one WHERE one.task_id = task.task_id)"
)
TABLES: Final = "task LEFT JOIN trace ON trace.trace_id = task.trace_id"
#: A task that went into a trace of its own is told of in two: the later news stands for it.
LATEST: Final = """NOT EXISTS (SELECT 1 FROM task other WHERE other.task_id = task.task_id
    AND (other.status_time, other.id) > (task.status_time, task.id))"""
#: One box for every id: what begins with the text, and a type or message that contains it.
SEARCHED: Final = """(
    (task.task_id >= :text AND task.task_id < :end)
    OR trace.id IN (SELECT trace FROM label WHERE value >= :text AND value < :end)
    OR substr(lower(hex(task.trace_id)), 1, length(:lower)) = :lower
    OR instr(lower(coalesce(task.type, '')), :lower) > 0
    OR instr(lower(coalesce(task.message, '')), :lower) > 0)"""


#: The types there are, each by one step through the index, whatever the number of tasks.
TYPES: Final = """WITH RECURSIVE known (type) AS (
    SELECT min(type) FROM task
    UNION ALL SELECT (SELECT min(task.type) FROM task WHERE task.type > known.type)
    FROM known WHERE known.type IS NOT NULL)
    SELECT type FROM known WHERE type IS NOT NULL LIMIT ?"""
#: More types than this are not offered to choose from.
MAX_TYPES: Final = 200


@dataclass(frozen=True, slots=True)
class TaskQuery:
    """
    What a list of tasks is narrowed to; None asks for everything.

    Attributes:
        text: The beginning of any id, or a part of the type or of the progress message.
        after: First seen and row id of the last task of the page before.
    """

    status: str | None = None
    type: str | None = None
    text: str | None = None
    limit: int = 100
    after: tuple[int, int] | None = None


def find_tasks(
    connection: sqlite3.Connection, query: TaskQuery
) -> tuple[list[dict[str, Any]], tuple[int, int] | None]:
    """Return tasks, newest first, and where the next page starts."""
    where, values = [LATEST], dict[str, object](limit=query.limit + 1)
    for name in ("status", "type"):
        if wanted := getattr(query, name):
            where.append(f"task.{name} = :{name}")
            values[name] = wanted[:MAX_TEXT]
    if query.text:
        text = query.text[:MAX_TEXT]
        where.append(SEARCHED)
        values |= {"text": text, "end": text + "\U0010ffff", "lower": text.lower()}
    if query.after:
        where.append("(task.first, task.id) < (:first, :id)")
        values |= {"first": query.after[0], "id": query.after[1]}
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM {TABLES} WHERE {' AND '.join(where)}"
        " ORDER BY task.first DESC, task.id DESC LIMIT :limit",
        values,
    ).fetchall()
    page = rows[: query.limit]
    last = (page[-1][1], page[-1][0]) if len(rows) > query.limit else None
    return [_task(row) for row in page], last


def task_types(connection: sqlite3.Connection) -> list[str]:
    """Return the types of all tasks, in order."""
    return [kind for (kind,) in connection.execute(TYPES, (MAX_TYPES,))]


def task_document(connection: sqlite3.Connection, task_id: str) -> dict[str, Any] | None:
    """Return a task with its attempts, None if it is unknown."""
    rows = _rows(connection, task_id)
    if not rows:
        return None
    traces = [row[10] for row in rows]
    lines = [line for trace in traces for line in lines_of(connection, trace, naming=task_id)]
    lines.sort(key=itemgetter("timestamp"))
    spans = [span for trace in traces for span in _spans(connection, trace, task_id)]
    made = attempts(task_id, spans, lines)
    return _task(rows[0]) | {
        "started_at": made[0]["started_at"] if made else None,
        "traces": [trace.hex() for trace in traces],
        "attempts": made,
    }


def task_version(connection: sqlite3.Connection, task_id: str) -> tuple[object, ...]:
    """Return what changes with every write to the task's traces, and to the task itself."""
    parts: list[object] = []
    for row in _rows(connection, task_id):
        parts += [*trace_version(connection, row[10]), row[5], row[9]]
    return tuple(parts)


def _rows(connection: sqlite3.Connection, task_id: str) -> list[tuple[Any, ...]]:
    return connection.execute(
        f"SELECT {COLUMNS} FROM {TABLES} WHERE task.task_id = ?"
        " ORDER BY task.status_time DESC, task.id DESC LIMIT 10",
        (task_id[:MAX_TEXT],),
    ).fetchall()


def _spans(connection: sqlite3.Connection, trace_id: bytes, task_id: str) -> list[Span]:
    """Return the spans that mention the task; SQLite looks through 10,000 in a moment."""
    rows = connection.execute(
        "SELECT span.body FROM span JOIN trace ON trace.id = span.trace"
        " WHERE trace.trace_id = ? AND instr(span.body, ?) > 0",
        (trace_id, task_id.encode()),
    )
    return [Span.FromString(body) for (body,) in rows]


def _task(row: tuple[Any, ...]) -> dict[str, Any]:
    _, _, task_id, kind, status, status_time, attempt, percent, message, told, *rest = row
    trace_id, correlation_id, user_id, created = rest
    return {
        "task_id": task_id,
        "type": kind,
        "status": status,
        "attempt": attempt,
        "progress": percent,
        "message": message,
        "created_at": rfc3339(created),
        "updated_at": rfc3339(max(created, status_time, told)),
        "ended_at": rfc3339(status_time) if status in ENDED else None,
        "trace_id": trace_id.hex(),
        "correlation_id": correlation_id,
        "user_id": user_id,
    }

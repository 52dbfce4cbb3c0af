"""
The tasks that spans and log lines tell of: one row for each task of each trace.

A row may come before its trace, or without it where the trace is not sampled, so that the table has
a bound of its own.
"""

import sqlite3
from collections.abc import Iterable
from typing import Final

from tracebaton.viewer.news import NEVER, TaskNews, folded

__all__ = ["TASK_SCHEMA", "TaskTable", "migrate_tasks"]

TASK_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS task (
    id INTEGER PRIMARY KEY, trace_id BLOB NOT NULL, task_id TEXT NOT NULL,
    first INTEGER NOT NULL, type TEXT, status TEXT, status_time INTEGER NOT NULL,
    attempt INTEGER, percent INTEGER, message TEXT, progress_time INTEGER NOT NULL,
    UNIQUE (trace_id, task_id));
CREATE INDEX IF NOT EXISTS task_latest ON task (task_id, status_time);
CREATE INDEX IF NOT EXISTS task_type ON task (type);
CREATE INDEX IF NOT EXISTS task_newest ON task (first DESC, id DESC);
"""

#: A file of the versions that had no task list: their rows belong to a trace's row.
MIGRATION: Final = f"""
BEGIN IMMEDIATE;
DROP INDEX IF EXISTS task_key;
ALTER TABLE task RENAME TO task_of_spans;
{TASK_SCHEMA}
INSERT INTO task (trace_id, task_id, first, type, status, status_time, progress_time)
    SELECT trace.trace_id, old.task_id, old.first, old.type, old.status, old.status_time, {NEVER}
    FROM task_of_spans old JOIN trace ON trace.id = old.trace;
DROP TABLE task_of_spans;
COMMIT;
"""

UPSERT: Final = """
INSERT INTO task (trace_id, task_id, first, type, status, status_time, attempt, percent, message,
    progress_time)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (trace_id, task_id) DO UPDATE SET
    first = min(first, excluded.first), type = coalesce(type, excluded.type),
    status = CASE WHEN excluded.status_time >= status_time THEN excluded.status ELSE status END,
    attempt = CASE WHEN excluded.status_time >= status_time
        THEN coalesce(excluded.attempt, attempt) ELSE attempt END,
    status_time = max(status_time, excluded.status_time),
    percent = CASE WHEN excluded.progress_time >= progress_time AND excluded.progress_time >= 0
        THEN excluded.percent ELSE percent END,
    message = CASE WHEN excluded.progress_time >= progress_time AND excluded.progress_time >= 0
        THEN excluded.message ELSE message END,
    progress_time = max(progress_time, excluded.progress_time)
"""


def migrate_tasks(connection: sqlite3.Connection) -> None:
    """Bring the table of an earlier version into the form of this one, rows and all."""
    known = {name for _, name, *_ in connection.execute("PRAGMA table_info(task)")}
    if known and "trace_id" not in known:
        connection.executescript(MIGRATION)


class TaskTable:
    """Writes what is told of tasks, inside its caller's transaction, and bounds the table."""

    def __init__(self, connection: sqlite3.Connection, limit: int) -> None:
        """Keep up to *limit* rows."""
        self._db = connection
        self._limit = limit
        #: Never too low: rows that went with their trace are still in it.
        self._at_most = self._count()

    def write(self, news: Iterable[TaskNews]) -> None:
        """Take *news* into account and evict what was heard of longest ago."""
        # Sorted, because a tree is filled from left to right three times as fast.
        rows = sorted(folded(news), key=lambda one: (one.trace_id, one.task_id))
        self._db.executemany(UPSERT, rows)
        self._at_most += len(rows)
        if self._at_most > self._limit:
            self._evict()

    def _evict(self) -> None:
        self._at_most = self._count()
        over = self._at_most - self._limit
        if over <= 0:
            return
        # A hundredth more than it has to be, so that a full table is not sorted at each write.
        self._db.execute(
            "DELETE FROM task WHERE id IN (SELECT id FROM task"
            " ORDER BY max(first, status_time, progress_time), id LIMIT ?)",
            (over + self._limit // 100,),
        )
        self._at_most = self._count()

    def _count(self) -> int:
        number: int = self._db.execute("SELECT count(*) FROM task").fetchone()[0]
        return number

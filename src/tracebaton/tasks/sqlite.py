"""
The task store in one SQLite file: one machine, local disk, any number of processes.

Every statement runs on one thread that owns the connection, so the event loop never waits for the
disk and a process never races itself. Between processes SQLite's own lock decides; WAL lets readers
go on while one writes (https://sqlite.org/wal.html).
"""

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from tracebaton.errors import ResultTooLarge, StoreUnavailable
from tracebaton.tasks.migrations import MIGRATIONS
from tracebaton.tasks.task import TRANSITIONS, Task, TaskStatus

__all__ = ["RESULT_LIMIT", "SqliteTaskStore"]

#: Bytes of JSON a result may have inline (SPEC 8).
RESULT_LIMIT = 256 * 1024
#: Milliseconds a statement waits for another process's write lock before the store counts as away.
_BUSY_MS = 5_000

_COLUMNS = (
    "id, type, status, user_id, correlation_id, trace_id, parent_task_id, attempt, progress,"
    " result, error, failures, created_at, updated_at, started_at, ended_at,"
    " owner, lease_until, traceparent, previous"
)

Result = TypeVar("Result")


class SqliteTaskStore:
    """A `TaskStore` in the SQLite file at *path*; its folder is made where it is missing."""

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time) -> None:
        self._path = path
        self._now = now
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tracebaton-tasks")
        self._connection: sqlite3.Connection | None = None

    async def create(self, task: Task, *, exist_ok: bool = False) -> None:
        """Save a new task; with *exist_ok* one that is there already stays as it is."""
        await self._run(self._insert, task, exist_ok)

    async def get(self, task_id: str) -> Task | None:
        """Return the task, None if there is none."""
        return await self._run(self._select, task_id)

    async def start(
        self,
        task_id: str,
        *,
        attempt: int,
        owner: str | None = None,
        lease_until: float | None = None,
        traceparent: str | None = None,
    ) -> Task | None:
        """Enter ``running``; an ended task, or one that another owner runs, stays unchanged."""
        return await self._run(self._start, task_id, attempt, owner, lease_until, traceparent)

    async def reopen(self, task_id: str) -> bool:
        """Let a ``failed`` or ``dead`` task wait for its message again; False for any other."""
        return await self._run(
            self._update,
            "UPDATE tasks SET status = 'queued', error = NULL, ended_at = NULL, updated_at = ?"
            " WHERE id = ? AND status IN ('failed', 'dead')",
            (self._now(), task_id),
        )

    async def renew(self, owners: Mapping[str, str], *, lease_until: float) -> None:
        """Let the leases of running tasks, each with its owner, end at *lease_until*."""
        await self._run(self._renew, owners, lease_until)

    async def progress(self, task_id: str, *, attempt: int, percent: int) -> None:
        """Raise the progress of the running *attempt*; a lower value is ignored."""
        await self._run(
            self._update,
            "UPDATE tasks SET progress = ?, updated_at = ?"
            " WHERE id = ? AND attempt = ? AND status = 'running' AND progress < ?",
            (percent, self._now(), task_id, attempt, percent),
        )

    async def retry(self, task_id: str, *, attempt: int, failure: Mapping[str, Any] | None) -> bool:
        """Go back to ``queued`` after *attempt* failed; False if it is no longer ours."""
        more = "" if failure is None else " failures = json_insert(failures, '$[#]', json(?)),"
        values = () if failure is None else (json.dumps(failure),)
        return await self._run(
            self._update,
            f"UPDATE tasks SET status = 'queued',{more} updated_at = ?"
            " WHERE id = ? AND attempt = ? AND status = 'running'",
            (*values, self._now(), task_id, attempt),
        )

    async def finish(
        self,
        task_id: str,
        status: TaskStatus,
        *,
        attempt: int,
        result: Any = None,
        error: Mapping[str, Any] | None = None,
    ) -> bool:
        """End the task, once; False if it had ended or a newer attempt runs it."""
        encoded = None if result is None else json.dumps(result, allow_nan=False)
        if encoded is not None and len(encoded) > RESULT_LIMIT:
            raise ResultTooLarge(
                f"The result of task {task_id} has {len(encoded)} bytes, the limit is"
                f" {RESULT_LIMIT}. Return a reference instead."
            )
        now = self._now()
        sources = [source.value for source in TRANSITIONS[status]]
        return await self._run(
            self._update,
            "UPDATE tasks SET status = ?, result = ?, error = ?, updated_at = ?, ended_at = ?,"
            " progress = CASE WHEN ? = 'succeeded' THEN 100 ELSE progress END"
            f" WHERE id = ? AND attempt = ? AND status IN ({', '.join('?' * len(sources))})",
            (
                status.value,
                encoded,
                None if error is None else json.dumps(error),
                now,
                now,
                status.value,
                task_id,
                attempt,
                *sources,
            ),
        )

    async def forget(self, task_id: str) -> None:
        """Remove a queued task whose message was never sent."""
        await self._run(
            self._update,
            "DELETE FROM tasks WHERE id = ? AND status = 'queued' AND attempt = 0",
            (task_id,),
        )

    async def check(self) -> None:
        """Raise ``StoreUnavailable`` unless a read works."""
        await self._run(self._select, "")

    async def close(self) -> None:
        """Close the connection and end the thread."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown()

    async def _run(self, work: Callable[..., Result], *arguments: Any) -> Result:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._guarded, work, *arguments)

    def _guarded(self, work: Callable[..., Result], *arguments: Any) -> Result:
        try:
            return work(self._connected(), *arguments)
        except (sqlite3.Error, OSError) as exc:
            self._disconnect()  # the next call starts afresh, so that a repaired file is found
            raise StoreUnavailable(
                "The task store cannot be reached. Try again in a moment."
            ) from exc

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            try:
                _prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _insert(self, connection: sqlite3.Connection, task: Task, exist_ok: bool) -> None:
        connection.execute(
            "INSERT INTO tasks (id, type, status, user_id, correlation_id, trace_id,"
            " parent_task_id, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
            + (" ON CONFLICT DO NOTHING" if exist_ok else ""),
            (
                task.id,
                task.type,
                task.status.value,
                task.user_id,
                task.correlation_id,
                task.trace_id,
                task.parent_task_id,
                task.created_at,
                task.updated_at,
            ),
        )

    def _select(self, connection: sqlite3.Connection, task_id: str) -> Task | None:
        row = connection.execute(
            f"SELECT {_COLUMNS} FROM tasks WHERE id = ?", (task_id,)
        ).fetchone()
        return None if row is None else _task(row)

    def _start(
        self,
        connection: sqlite3.Connection,
        task_id: str,
        attempt: int,
        owner: str | None,
        lease_until: float | None,
        traceparent: str | None,
    ) -> Task | None:
        now = self._now()
        row = connection.execute(
            "UPDATE tasks SET status = 'running', attempt = ?, owner = ?, lease_until = ?,"
            " previous = traceparent, traceparent = ?, error = NULL, ended_at = NULL,"
            " updated_at = ?, started_at = coalesce(started_at, ?) WHERE id = ?"
            " AND (status = 'queued'"
            " OR status = 'dead' AND NOT (owner IS ? AND attempt < ?)"
            " OR status = 'running'"
            " AND (owner IS NULL OR owner = ? OR coalesce(lease_until, 0) <= ?))"
            f" RETURNING {_COLUMNS}",
            (
                *(attempt, owner, lease_until, traceparent, now, now, task_id),
                *(owner, attempt, owner, now),
            ),
        ).fetchone()
        return _task(row) if row else self._select(connection, task_id)

    def _renew(
        self, connection: sqlite3.Connection, owners: Mapping[str, str], lease_until: float
    ) -> None:
        connection.executemany(
            "UPDATE tasks SET lease_until = ? WHERE id = ? AND owner = ? AND status = 'running'",
            [(lease_until, task_id, owner) for task_id, owner in owners.items()],
        )

    def _update(
        self, connection: sqlite3.Connection, statement: str, values: tuple[Any, ...]
    ) -> bool:
        return connection.execute(statement, values).rowcount == 1


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
    connection.execute("PRAGMA journal_mode = WAL")
    # NORMAL loses no committed write when a process dies, only on loss of power (sqlite.org/wal).
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("BEGIN IMMEDIATE")  # two processes may start at once: one migrates
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.execute(script)
        connection.execute(f"PRAGMA user_version = {number}")
    connection.execute("COMMIT")


def _task(row: tuple[Any, ...]) -> Task:
    return Task(
        id=row[0],
        type=row[1],
        status=TaskStatus(row[2]),
        user_id=row[3],
        correlation_id=row[4],
        trace_id=row[5],
        parent_task_id=row[6],
        attempt=row[7],
        progress=row[8],
        result=None if row[9] is None else json.loads(row[9]),
        error=None if row[10] is None else json.loads(row[10]),
        failures=tuple(json.loads(row[11])),
        created_at=row[12],
        updated_at=row[13],
        started_at=row[14],
        ended_at=row[15],
        owner=row[16],
        lease_until=row[17],
        traceparent=row[18],
        previous=row[19],
    )

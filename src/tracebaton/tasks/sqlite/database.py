"""
One SQLite file, the one thread that speaks to it, and its transactions.

Every statement runs on one thread that owns the connection, so the event loop never waits for the
disk and a process never races itself. Between processes SQLite's own lock decides; WAL lets readers
go on while one writes (https://sqlite.org/wal.html).
"""

import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from tracebaton.errors import StoreUnavailable
from tracebaton.tasks.sqlite.migrations import MIGRATIONS
from tracebaton.tasks.sqlite.turns import Job, Outcome, Turns

__all__ = ["Database"]

#: Pages of 4 KiB that the log may have before a commit moves them into the file. SQLite's own 1,000
#: make that every hundredth task, with two waits of some 3 ms for the disk, and move pages that the
#: next task changes again.
_LOG_PAGES: Final = 8_000
#: Milliseconds a statement waits for another process's write lock before the store counts as away.
_BUSY_MS: Final = 5_000

Params = ParamSpec("Params")
Result = TypeVar("Result")
Item = TypeVar("Item")
Work = Callable[Concatenate[sqlite3.Connection, Params], Result]


class Database:
    """The file at *path*, opened when it is first needed and again after every failure."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turns = Turns("tracebaton-tasks", self._done)
        self._connection: sqlite3.Connection | None = None

    async def read(
        self, work: Work[Params, Result], *args: Params.args, **kwargs: Params.kwargs
    ) -> Result:
        """Run *work* on the connection."""
        call = partial(self._call, work, *args, **kwargs)
        result: Result = await self._turns.run(call, writes=False)
        return result

    async def write(
        self, work: Work[Params, Result], *args: Params.args, **kwargs: Params.kwargs
    ) -> Result:
        """
        Run *work* in a transaction: all of it happens, or nothing.

        The transaction may be shared with other writes that wait; each happens whole or not at all.
        """
        call = partial(self._call, work, *args, **kwargs)
        result: Result = await self._turns.run(call, writes=True)
        return result

    async def add(
        self, work: Callable[[sqlite3.Connection, Sequence[Item]], None], item: Item
    ) -> None:
        """Run *work* in a transaction as `write()` does, with all the items that wait for it."""
        call = partial(self._call, work, [item])
        await self._turns.run(call, writes=True, joins=(work, item))

    async def close(self) -> None:
        """Close the connection and end the thread."""
        await self._turns.close(self._disconnect)

    def _call(
        self, work: Work[Params, Result], *args: Params.args, **kwargs: Params.kwargs
    ) -> Result:
        return work(self._connected(), *args, **kwargs)

    def _done(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Do *jobs*, the writes first and by one commit, and return their outcomes."""
        writes = [job for job in jobs if job.writes]
        told: dict[Job, Outcome] = {}
        if len(writes) > 1:
            told = self._together(writes)
        for job in sorted(jobs, key=lambda job: not job.writes):
            if job not in told:
                told[job] = self._alone(job)
        return [told[job] for job in jobs]

    def _together(self, writes: Sequence[Job]) -> dict[Job, Outcome]:
        """Return the outcomes of *writes*; none where one of them failed, and nothing is done."""
        try:
            results = self._transaction(lambda: self._each(writes))
        except (sqlite3.OperationalError, OSError) as exc:  # not one by one: each would wait again
            return {job: self._away(exc) for job in writes}
        except Exception:  # whose fault it is shows when each is done alone
            return {}
        return {job: (result, None) for job, result in zip(writes, results, strict=True)}

    def _each(self, writes: Sequence[Job]) -> list[Any]:
        """Do *writes*, and at once what can be done together; that returns nothing."""
        together: dict[Any, list[Any]] = {}
        for job in writes:
            if job.joins is not None:
                work, item = job.joins
                together.setdefault(work, []).append(item)
        for work, items in together.items():
            self._call(work, items)
        return [job.work() if job.joins is None else None for job in writes]

    def _alone(self, job: Job) -> Outcome:
        try:
            return (self._transaction(job.work) if job.writes else job.work()), None
        except (sqlite3.Error, OSError) as exc:
            return self._away(exc)
        except Exception as exc:
            return None, exc

    def _away(self, exc: Exception) -> Outcome:
        if not _is_busy(exc):
            self._disconnect()  # the next call starts afresh, so that a repaired file is found
        away = StoreUnavailable("The task store cannot be reached. Try again in a moment.")
        away.__cause__ = exc
        return None, away

    def _transaction(self, work: Callable[[], Result]) -> Result:
        connection = self._connected()
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = work()
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return result

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


def _prepare(connection: sqlite3.Connection) -> None:
    connection.row_factory = sqlite3.Row
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
    connection.execute("PRAGMA journal_mode = WAL")
    # NORMAL loses no committed write when a process dies, only on loss of power (sqlite.org/wal).
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
    if _version(connection) != len(MIGRATIONS):  # else a reader need not wait for the lock
        connection.execute("BEGIN IMMEDIATE")  # two processes may start at once: one migrates
        _migrate(connection)
        connection.execute("COMMIT")


def _is_busy(exc: Exception) -> bool:
    """Tell whether another process held the lock for too long, which harms no connection."""
    code: int = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & 0xFF == sqlite3.SQLITE_BUSY  # of an extended code the last byte is the plain one


def _version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def _migrate(connection: sqlite3.Connection) -> None:
    version = _version(connection)
    if version > len(MIGRATIONS):
        raise sqlite3.DatabaseError(
            f"The file has version {version}, this tracebaton knows up to {len(MIGRATIONS)}:"
            " a newer one wrote it, and migrations go forward only."
        )
    for number, step in enumerate(MIGRATIONS[version:], start=version + 1):
        for statement in (step,) if isinstance(step, str) else step:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {number}")

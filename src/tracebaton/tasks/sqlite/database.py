"""
One SQLite file, the one thread that speaks to it, and its transactions.

Every statement runs on one thread that owns the connection, so the event loop never waits for the
disk and a process never races itself. Between processes SQLite's own lock decides; WAL lets readers
go on while one writes (https://sqlite.org/wal.html).
"""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from tracebaton.errors import StoreUnavailable
from tracebaton.tasks.sqlite.migrations import MIGRATIONS

__all__ = ["Database"]

#: Milliseconds a statement waits for another process's write lock before the store counts as away.
_BUSY_MS: Final = 5_000

Params = ParamSpec("Params")
Result = TypeVar("Result")
Work = Callable[Concatenate[sqlite3.Connection, Params], Result]


class Database:
    """The file at *path*, opened when it is first needed and again after every failure."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tracebaton-tasks")
        self._connection: sqlite3.Connection | None = None

    async def read(
        self, work: Work[Params, Result], *args: Params.args, **kwargs: Params.kwargs
    ) -> Result:
        """Run *work* on the connection."""
        return await self._run(lambda: work(self._connected(), *args, **kwargs))

    async def write(
        self, work: Work[Params, Result], *args: Params.args, **kwargs: Params.kwargs
    ) -> Result:
        """Run *work* in a transaction: all of it happens, or nothing."""

        def transaction() -> Result:
            connection = self._connected()
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = work(connection, *args, **kwargs)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            return result

        return await self._run(transaction)

    async def close(self) -> None:
        """Close the connection and end the thread."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown()

    async def _run(self, call: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, call)

    def _guarded(self, call: Callable[[], Result]) -> Result:
        try:
            return call()
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


def _prepare(connection: sqlite3.Connection) -> None:
    connection.row_factory = sqlite3.Row
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
    connection.execute("PRAGMA journal_mode = WAL")
    # NORMAL loses no committed write when a process dies, only on loss of power (sqlite.org/wal).
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("BEGIN IMMEDIATE")  # two processes may start at once: one migrates
    _migrate(connection)
    connection.execute("COMMIT")


def _migrate(connection: sqlite3.Connection) -> None:
    version: Any = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise sqlite3.DatabaseError(
            f"The file has version {version}, this tracebaton knows up to {len(MIGRATIONS)}:"
            " a newer one wrote it, and migrations go forward only."
        )
    for number, step in enumerate(MIGRATIONS[version:], start=version + 1):
        for statement in (step,) if isinstance(step, str) else step:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {number}")

"""
The bounded span store: fed from the intake, read by the page, kept in SQLite.

Rows are written by one thread, as many at once as have piled up, so that a POST is answered before
the disk is touched. A read waits for what was accepted before it.
"""

import logging
import secrets
import sqlite3
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from tracebaton.errors import ConfigurationError, StoreUnavailable
from tracebaton.viewer import queries, taskqueries
from tracebaton.viewer.database import Limits, TraceWriter, create_tables
from tracebaton.viewer.queries import TraceQuery
from tracebaton.viewer.rows import LogRow, SpanRow
from tracebaton.viewer.taskqueries import TaskQuery

__all__ = ["Limits", "SpanStore", "TaskQuery", "TraceQuery"]

logger: Final = logging.getLogger(__name__)

#: Seconds a read waits for what was accepted before it.
SETTLE_SECONDS: Final = 1.0
#: Seconds that `SpanStore.close()` waits for the last group.
CLOSE_SECONDS: Final = 5.0
#: Rows of one transaction: large enough to pay for the commit, small enough for a read in between.
GROUP_ROWS: Final = 5_000
#: Seconds that SQLite waits for another process with the same file.
BUSY_SECONDS: Final = 5.0
#: Bytes that the write-ahead log keeps on disk after a burst.
WAL_BYTES: Final = 64 << 20


class Batch(NamedTuple):
    """What one POST brought."""

    spans: Sequence[SpanRow]
    lines: Sequence[LogRow]
    size: int


class SpanStore:
    """
    Spans and log lines of the last traces.

    Whoever creates a store closes it, or uses it as a context manager. Every method may be called
    from any thread, and blocks: call it from a worker thread, not from the event loop.
    """

    def __init__(self, path: str | Path | None = None, *, limits: Limits | None = None) -> None:
        """
        Open the store and start its writer.

        Args:
            path: The SQLite file, in memory where absent.
            limits: The bounds.

        Raises:
            ConfigurationError: The file cannot be used.
        """
        self._limits = limits or Limits()
        self._pending: deque[Batch] = deque()
        self._pending_bytes = self._accepted = self._written = 0
        self._closed = False
        self._changed = threading.Condition()
        self._epoch = secrets.token_hex(4)
        self._reading = threading.Lock()
        try:
            self._database = _connect(path)
            create_tables(self._database)
            # A database in memory belongs to one connection, so its reads and writes take turns.
            self._reader = _connect(path) if path is not None else self._database
            self._writing: AbstractContextManager[object] = (
                nullcontext() if path is not None else self._reading
            )
            self._writer = TraceWriter(self._database, self._limits)
        except sqlite3.Error as exc:
            raise ConfigurationError(
                f"the viewer cannot keep its spans in {path}: {exc}. Name another file or delete it"
            ) from exc
        self._thread = threading.Thread(target=self._run, name="tracebaton-viewer", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def submit(self, *, spans: Sequence[SpanRow] = (), lines: Sequence[LogRow] = ()) -> None:
        """
        Accept rows; they are written soon, and every read from now on sees them.

        Raises:
            StoreUnavailable: The disk does not keep up, or the store is closed; nothing was taken.
        """
        weight = sum(len(row.body) for row in spans) + sum(len(row.body) for row in lines)
        with self._changed:
            full = self._pending_bytes + weight > self._limits.pending_bytes
            if self._closed or (full and self._pending):
                raise StoreUnavailable(
                    "the viewer cannot write as fast as it is fed", retry_after=1
                )
            self._pending.append(Batch(spans, lines, weight))
            self._pending_bytes += weight
            self._accepted += 1
            self._changed.notify_all()

    def settle(self, timeout: float = SETTLE_SECONDS) -> bool:
        """Wait for what was accepted so far; return False if *timeout* was too short."""
        with self._changed:
            wanted = self._accepted
            return self._changed.wait_for(lambda: self._written >= wanted, timeout)

    def version(self) -> str:
        """Return a token that changes with every write."""
        self.settle()
        return f"{self._epoch}-{self._written}"

    def trace_version(self, trace_id: bytes) -> str:
        """Return a token that changes with every write to one trace or its log lines."""
        with self._snapshot() as connection:
            parts = queries.trace_version(connection, trace_id)
        return "-".join(str(part) for part in (self._epoch, *parts))

    def traces(self, query: TraceQuery) -> tuple[list[dict[str, Any]], tuple[int, int] | None]:
        """Return summaries of traces, newest first, and `TraceQuery.after` of the next page."""
        with self._snapshot() as connection:
            return queries.find_traces(connection, query)

    def trace(self, trace_id: bytes) -> dict[str, Any] | None:
        """Return a trace as OTLP JSON, None if it is unknown."""
        with self._snapshot() as connection:
            return queries.trace_document(connection, trace_id)

    def logs(self, trace_id: bytes) -> list[dict[str, Any]] | None:
        """Return the log lines of a trace, oldest first; None if nothing is known of it."""
        with self._snapshot() as connection:
            return queries.log_lines(connection, trace_id)

    def tasks(self, query: TaskQuery) -> tuple[list[dict[str, Any]], tuple[int, int] | None]:
        """Return tasks, newest first, and `TaskQuery.after` of the next page."""
        with self._snapshot() as connection:
            return taskqueries.find_tasks(connection, query)

    def task_types(self) -> list[str]:
        """Return the types of all tasks, in order."""
        with self._snapshot() as connection:
            return taskqueries.task_types(connection)

    def task(self, task_id: str) -> dict[str, Any] | None:
        """Return a task with its attempts, None if it is unknown."""
        with self._snapshot() as connection:
            return taskqueries.task_document(connection, task_id)

    def task_version(self, task_id: str) -> str:
        """Return a token that changes with every write to a task or its traces."""
        with self._snapshot() as connection:
            parts = taskqueries.task_version(connection, task_id)
        return "-".join(str(part) for part in (self._epoch, *parts))

    def close(self, timeout: float = CLOSE_SECONDS) -> None:
        """Write what was accepted and close the database; calling it again changes nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout)
        if self._thread.is_alive():
            return  # a disk that hangs: the connections end with the process
        with self._reading:
            self._reader.close()
            self._database.close()

    @contextmanager
    def _snapshot(self) -> Iterator[sqlite3.Connection]:
        self.settle()
        with self._reading:
            self._reader.execute(
                "BEGIN"
            )  # an eviction in between would tear a trace from its origins
            try:
                yield self._reader
            finally:
                self._reader.execute("COMMIT")

    def _run(self) -> None:
        while batches := self._next_group():
            self._write(batches)
            with self._changed:
                self._written += len(batches)
                self._pending_bytes -= sum(batch.size for batch in batches)
                self._changed.notify_all()

    def _next_group(self) -> list[Batch]:
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._closed)
            group: list[Batch] = []
            rows = 0
            while self._pending and rows < GROUP_ROWS:
                group.append(self._pending.popleft())
                rows += len(group[-1].spans) + len(group[-1].lines)
            return group

    def _write(self, batches: list[Batch]) -> None:
        spans = [row for batch in batches for row in batch.spans]
        lines = [row for batch in batches for row in batch.lines]
        try:
            with self._writing:
                self._writer.write(spans, lines)
        except Exception as exc:  # the one edge of the writer: whatever happens, it goes on
            if len(batches) > 1:  # one bad batch takes no other with it
                for batch in batches:
                    self._write([batch])
                return
            fields = {"spans": len(spans), "lines": len(lines), "error": str(exc)}
            logger.warning("viewer.batch_lost", extra={"fields": fields})


def _connect(path: str | Path | None) -> sqlite3.Connection:
    target = ":memory:" if path is None else str(path)
    connection = sqlite3.connect(
        target, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA journal_mode = WAL")
    # A power cut may cost the last traces, never the file.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
    return connection

"""
The SQLite side of the span store: its tables, and the one writer that keeps them within bounds.

A trace is one row that sums up its spans, so that a list of traces touches no span. What is evicted
is the trace that was fed longest ago, with its log lines.
"""

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count as counted
from itertools import groupby
from operator import attrgetter
from typing import Final, NamedTuple

from tracebaton.viewer.news import of_span
from tracebaton.viewer.rows import LogRow, SpanRow
from tracebaton.viewer.summary import Summary, http_status, labels
from tracebaton.viewer.tasktable import TASK_SCHEMA, TaskTable, migrate_tasks

__all__ = ["Limits", "TraceWriter", "create_tables"]

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS trace (
    id INTEGER PRIMARY KEY, trace_id BLOB NOT NULL UNIQUE, seq INTEGER NOT NULL,
    start INTEGER NOT NULL, end INTEGER NOT NULL, name TEXT NOT NULL,
    rootless INTEGER NOT NULL, name_start INTEGER NOT NULL, error INTEGER NOT NULL,
    services TEXT NOT NULL, correlation_id TEXT, user_id TEXT,
    spans INTEGER NOT NULL, dropped INTEGER NOT NULL, bytes INTEGER NOT NULL,
    http_status INTEGER);
CREATE INDEX IF NOT EXISTS trace_newest ON trace (start DESC, id DESC);
CREATE INDEX IF NOT EXISTS trace_oldest ON trace (seq, id);
CREATE TABLE IF NOT EXISTS span (
    trace INTEGER NOT NULL, span_id BLOB NOT NULL, start INTEGER NOT NULL,
    origin INTEGER NOT NULL, body BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS span_key ON span (trace, span_id);
CREATE TABLE IF NOT EXISTS label (
    key TEXT NOT NULL, value TEXT NOT NULL, trace INTEGER NOT NULL,
    PRIMARY KEY (key, value, trace)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS label_trace ON label (trace);
CREATE TABLE IF NOT EXISTS log (
    id INTEGER PRIMARY KEY, trace_id BLOB NOT NULL, time INTEGER NOT NULL,
    origin INTEGER NOT NULL, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS log_trace ON log (trace_id, time);
CREATE TABLE IF NOT EXISTS origin (id INTEGER PRIMARY KEY, body BLOB NOT NULL);
"""

#: Bytes of resources and scopes at which those of evicted traces are looked for.
PRUNE_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """
    How much the store keeps.

    Attributes:
        traces: Traces; the one fed longest ago goes first.
        spans_per_trace: Spans of one trace. Spans that cross a process (server, producer, consumer)
            have a tenth more, so that a chatty task does not lose the span that says how it ended.
        span_bytes: Bytes of all spans together.
        tasks: Tasks of all traces together, those included that only log lines tell of.
        log_lines: Log lines of all traces together.
        log_bytes: Bytes of all log lines together.
        pending_bytes: Bytes that may wait for the disk before the intake answers 503.
    """

    traces: int = 10_000
    spans_per_trace: int = 10_000
    span_bytes: int = 384 << 20
    tasks: int = 100_000
    log_lines: int = 100_000
    log_bytes: int = 128 << 20
    pending_bytes: int = 32 << 20


@dataclass(slots=True)
class Totals:
    """What the tables hold, so that no bound needs a scan."""

    traces: int
    span_bytes: int
    lines: int
    log_bytes: int
    origin_bytes: int


class Fed(NamedTuple):
    """A trace, its row, and which of the spans that have come for it are kept."""

    key: int
    summary: Summary
    rows: Sequence[SpanRow]


def create_tables(connection: sqlite3.Connection) -> None:
    """Create what is missing, and bring the tables of an earlier version up to date."""
    migrate_tasks(connection)
    connection.executescript(SCHEMA + TASK_SCHEMA)
    known = {name for _, name, *_ in connection.execute("PRAGMA table_info(trace)")}
    if "http_status" not in known:  # a file of the first version
        connection.execute("ALTER TABLE trace ADD COLUMN http_status INTEGER")


class TraceWriter:
    """Writes groups of rows, each group whole or not at all, and evicts what is over the limits."""

    def __init__(self, connection: sqlite3.Connection, limits: Limits) -> None:
        """Take over *connection*, which nobody else writes with."""
        self._db = connection
        self._limits = limits
        self._totals = self._count()
        self._tasks = TaskTable(connection, limits.tasks)
        self._origins: dict[bytes, int] = dict(connection.execute("SELECT body, id FROM origin"))
        self._seq: int = self._value("SELECT coalesce(max(seq), 0) FROM trace")
        self._prune_at = max(PRUNE_BYTES, 2 * self._totals.origin_bytes)

    def write(self, spans: Sequence[SpanRow], lines: Sequence[LogRow]) -> None:
        """
        Write one group in one transaction.

        Raises:
            sqlite3.Error: Nothing of the group was written.
        """
        before, origins = replace(self._totals), len(self._origins)
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._write(spans, lines)
            self._db.execute("COMMIT")
        except BaseException:
            self._db.rollback()
            self._totals = before
            if len(self._origins) != origins:
                self._origins = dict(self._db.execute("SELECT body, id FROM origin"))
            raise

    def _write(self, spans: Sequence[SpanRow], lines: Sequence[LogRow]) -> None:
        self._seq += 1
        fed = self._fed(spans)
        self._insert(fed)
        self._save(fed)
        keys = {one.summary.trace_id: one.key for one in fed}
        self._index(keys, spans)
        told = (of_span(row.trace_id, row.start, row.end, row.indexed) for row in spans)
        self._tasks.write(one for one in (*told, *(line.news for line in lines)) if one is not None)
        self._write_lines(lines)
        self._evict_traces()
        self._evict_lines()
        if self._totals.origin_bytes > self._prune_at:
            self._prune_origins()

    def _fed(self, spans: Iterable[SpanRow]) -> list[Fed]:
        """Return the traces of *spans* with what of these is kept."""
        by_trace, fed = attrgetter("trace_id"), []
        fresh = counted(self._value("SELECT coalesce(max(id), 0) + 1 FROM trace"))
        for trace_id, group in groupby(sorted(spans, key=by_trace), key=by_trace):
            rows = list(group)
            known = self._known(trace_id)
            self._totals.traces += known is None
            key, summary = known or (next(fresh), _begun(rows[0]))
            for row in rows:
                summary.add(row)
            fed.append(Fed(key, summary, self._within_limit(rows, summary)))
        return fed

    def _known(self, trace_id: bytes) -> tuple[int, Summary] | None:
        found = self._db.execute(
            "SELECT id, start, end, name, rootless, name_start, error, services, correlation_id,"
            " user_id, spans, dropped, bytes, http_status FROM trace WHERE trace_id = ?",
            (trace_id,),
        ).fetchone()
        if found is None:
            return None
        key, start, end, name, rootless, name_start, error, services, *rest = found
        known = json.loads(services)
        return key, Summary(
            trace_id, start, end, name, bool(rootless), name_start, bool(error), known, *rest
        )

    def _insert(self, fed: Sequence[Fed]) -> None:
        """Insert the spans of all traces at once, which is a third of the time of one by one."""
        rows = [
            (one.key, row.span_id, row.start, self._origin(row.origin), row.body)
            for one in fed
            for row in one.rows
        ]
        added = self._db.executemany(
            "INSERT OR IGNORE INTO span VALUES (?, ?, ?, ?, ?)", rows
        ).rowcount
        again = bool(rows) and added != len(rows)  # an exporter sent a batch again
        for key, summary, kept in fed:
            before = summary.bytes
            if again:
                summary.spans, size = self._db.execute(
                    "SELECT count(*), total(length(body)) FROM span WHERE trace = ?", (key,)
                ).fetchone()
                summary.bytes = int(size)
            else:
                summary.spans += len(kept)
                summary.bytes += sum(len(row.body) for row in kept)
            self._totals.span_bytes += summary.bytes - before

    def _within_limit(self, rows: list[SpanRow], summary: Summary) -> list[SpanRow]:
        limit = self._limits.spans_per_trace
        if summary.spans + len(rows) <= limit:
            return rows
        kept: list[SpanRow] = []
        for row in rows:
            if summary.spans + len(kept) < limit + row.entry * (limit // 10):
                kept.append(row)
        summary.dropped += len(rows) - len(kept)
        return kept

    def _save(self, fed: Iterable[Fed]) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO trace VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    *(key, trace.trace_id, self._seq, trace.start, trace.end, trace.name),
                    *(trace.rootless, trace.name_start, trace.error, json.dumps(trace.services)),
                    *(trace.correlation_id, trace.user_id, trace.spans, trace.dropped),
                    *(trace.bytes, trace.http_status),
                )
                for key, trace, _ in fed
            ],
        )

    def _index(self, keys: Mapping[bytes, int], rows: Iterable[SpanRow]) -> None:
        found = labels(rows)
        # Sorted, because a tree is filled from left to right three times as fast.
        self._db.executemany(
            "INSERT OR IGNORE INTO label VALUES (?, ?, ?)",
            sorted((name, value, keys[trace_id]) for name, value, trace_id in found),
        )

    def _write_lines(self, lines: Sequence[LogRow]) -> None:
        self._db.executemany(
            "INSERT INTO log (trace_id, time, origin, body) VALUES (?, ?, ?, ?)",
            [(line.trace_id, line.time, self._origin(line.origin), line.body) for line in lines],
        )
        self._totals.lines += len(lines)
        self._totals.log_bytes += sum(len(line.body) for line in lines)

    def _origin(self, body: bytes) -> int:
        key = self._origins.get(body)
        if key is None:
            key = self._db.execute("INSERT INTO origin (body) VALUES (?)", (body,)).lastrowid or 0
            self._origins[body] = key
            self._totals.origin_bytes += len(body)
        return key

    def _evict_traces(self) -> None:
        count, size = self._totals.traces - self._limits.traces, self._totals.span_bytes
        if count <= 0 and size <= self._limits.span_bytes:
            return
        number = 0
        for (freed,) in self._db.execute("SELECT bytes FROM trace ORDER BY seq, id"):
            if number >= count and size <= self._limits.span_bytes:
                break
            number, size = number + 1, size - freed
        victims = "(SELECT id FROM trace ORDER BY seq, id LIMIT ?)"
        for table in ("span", "label"):
            self._db.execute(f"DELETE FROM {table} WHERE trace IN {victims}", (number,))
        of_victims = "trace_id IN (SELECT trace_id FROM trace ORDER BY seq, id LIMIT ?)"
        self._db.execute(f"DELETE FROM task WHERE {of_victims}", (number,))
        self._delete_lines(of_victims, number)
        self._db.execute(f"DELETE FROM trace WHERE id IN {victims}", (number,))
        self._totals.traces -= number
        self._totals.span_bytes = size

    def _evict_lines(self) -> None:
        count = self._totals.lines - self._limits.log_lines
        size = self._totals.log_bytes
        if count <= 0 and size <= self._limits.log_bytes:
            return
        last = 0
        for key, freed in self._db.execute("SELECT id, length(body) FROM log ORDER BY id"):
            if count <= 0 and size <= self._limits.log_bytes:
                break
            last, count, size = key, count - 1, size - freed
        self._delete_lines("id <= ?", last)

    def _delete_lines(self, where: str, value: int) -> None:
        number, size = self._db.execute(
            f"SELECT count(*), total(length(body)) FROM log WHERE {where}", (value,)
        ).fetchone()
        self._db.execute(f"DELETE FROM log WHERE {where}", (value,))
        self._totals.lines -= number
        self._totals.log_bytes -= int(size)

    def _prune_origins(self) -> None:
        self._db.execute(
            "DELETE FROM origin WHERE id NOT IN"
            " (SELECT origin FROM span UNION SELECT origin FROM log)"
        )
        self._origins = dict(self._db.execute("SELECT body, id FROM origin"))
        self._totals.origin_bytes = int(self._value("SELECT total(length(body)) FROM origin"))
        self._prune_at = max(PRUNE_BYTES, 2 * self._totals.origin_bytes)

    def _count(self) -> Totals:
        return Totals(
            traces=self._value("SELECT count(*) FROM trace"),
            span_bytes=int(self._value("SELECT total(bytes) FROM trace")),
            lines=self._value("SELECT count(*) FROM log"),
            log_bytes=int(self._value("SELECT total(length(body)) FROM log")),
            origin_bytes=int(self._value("SELECT total(length(body)) FROM origin")),
        )

    def _value(self, sql: str, *parameters: int) -> int:
        return self._db.execute(sql, parameters).fetchone()[0]  # type: ignore[no-any-return]  # SQL


def _begun(first: SpanRow) -> Summary:
    """Return the summary of a trace that begins with *first*."""
    return Summary(
        *(first.trace_id, first.start, first.end, first.name, not first.root, first.start),
        error=False,
        services=[],
        http_status=http_status(first),
    )

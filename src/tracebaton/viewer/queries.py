"""The reading side of the span store: the list of traces, one trace, its log lines."""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span

from tracebaton import semconv
from tracebaton.viewer import otlp_json
from tracebaton.viewer.loglines import log_line, rfc3339
from tracebaton.viewer.rows import MAX_TEXT

__all__ = [
    "OUTCOMES",
    "TraceQuery",
    "find_traces",
    "lines_of",
    "log_lines",
    "trace_document",
    "trace_version",
]

#: Values of ``status`` that ask for a trace with or without a failed span.
OUTCOMES: Final = {"error": 1, "ok": 0}
#: Log lines of one trace that are sent to the page, oldest first.
MAX_LINES: Final = 10_000

COLUMNS: Final = (
    "id, trace_id, start, end, name, rootless, error, services,"
    " correlation_id, user_id, spans, dropped, http_status"
)
#: One box for every id: what begins with the text, and a name that contains it.
SEARCHED: Final = """(
    id IN (SELECT trace FROM label WHERE value >= :text AND value < :end
           AND key IN (:correlation_key, :user_key))
    OR trace_id IN (SELECT trace_id FROM task WHERE task_id >= :text AND task_id < :end)
    OR substr(lower(hex(trace_id)), 1, length(:lower)) = :lower
    OR instr(lower(name), :lower) > 0)"""


@dataclass(frozen=True, slots=True)
class TraceQuery:
    """
    What a list of traces is narrowed to; None asks for everything.

    Attributes:
        status: A task status, or one of `OUTCOMES`.
        text: The beginning of any id, or a part of the trace's name.
        after: Start and row id of the last trace of the page before.
    """

    correlation_id: str | None = None
    user_id: str | None = None
    task_id: str | None = None
    status: str | None = None
    text: str | None = None
    limit: int = 100
    after: tuple[int, int] | None = None


def find_traces(
    connection: sqlite3.Connection, query: TraceQuery
) -> tuple[list[dict[str, Any]], tuple[int, int] | None]:
    """Return summaries, newest first, and where the next page starts."""
    where, values = _conditions(query)
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM trace{where} ORDER BY start DESC, id DESC LIMIT :limit",
        values | {"limit": query.limit + 1},
    ).fetchall()
    page = rows[: query.limit]
    tasks = _tasks(connection, [row[1] for row in page])
    last = (page[-1][2], page[-1][0]) if len(rows) > query.limit else None
    return [_summary(row, tasks.get(row[1], [])) for row in page], last


def _conditions(query: TraceQuery) -> tuple[str, dict[str, Any]]:
    """Return the WHERE clause and its named values."""
    values: dict[str, Any] = {}
    parts: list[str] = []

    def need(condition: str, **named: object) -> None:
        parts.append(condition)
        values.update(named)

    for name, key in (("correlation_id", semconv.CORRELATION_ID), ("user_id", semconv.USER_ID)):
        if wanted := getattr(query, name):
            need(
                f"id IN (SELECT trace FROM label WHERE key = '{key}' AND value = :{name})",
                **{name: wanted[:MAX_TEXT]},
            )
    if query.task_id:
        need(
            "trace_id IN (SELECT trace_id FROM task WHERE task_id = :task_id)",
            task_id=query.task_id[:MAX_TEXT],
        )
    if query.status in OUTCOMES:
        need("error = :error", error=OUTCOMES[query.status])
    elif query.status:
        need(
            "EXISTS (SELECT 1 FROM task"
            " WHERE task.trace_id = trace.trace_id AND task.status = :status)",
            status=query.status,
        )
    if query.text:
        text = query.text[:MAX_TEXT]
        need(
            SEARCHED,
            text=text,
            end=text + "\U0010ffff",
            lower=text.lower(),
            correlation_key=semconv.CORRELATION_ID,
            user_key=semconv.USER_ID,
        )
    if query.after:
        need("(start, id) < (:start, :id)", start=query.after[0], id=query.after[1])
    return f" WHERE {' AND '.join(parts)}" if parts else "", values


def _tasks(
    connection: sqlite3.Connection, traces: Sequence[bytes]
) -> dict[bytes, list[tuple[str, ...]]]:
    marks = ", ".join("?" * len(traces))
    rows = connection.execute(
        f"SELECT trace_id, task_id, type, status FROM task WHERE trace_id IN ({marks})"
        " ORDER BY trace_id, first, task_id",
        traces,
    ).fetchall()
    return {trace: [row[1:] for row in group] for trace, group in groupby(rows, key=itemgetter(0))}


def _summary(row: tuple[Any, ...], tasks: Sequence[tuple[str, ...]]) -> dict[str, Any]:
    _, trace_id, start, end, name, rootless, error, services, *rest = row
    correlation, user, spans, dropped, http_status = rest
    task_id, task_type, task_status = tasks[0] if tasks else (None, None, None)
    return {
        "trace_id": trace_id.hex(),
        "name": name,
        "start": rfc3339(start),
        "duration_ms": round((end - start) / 1e6, 3),
        "services": json.loads(services),
        "error": bool(error),
        "http_status": http_status,
        "correlation_id": correlation,
        "user_id": user,
        "task_id": task_id,
        "task_type": task_type,
        "task_status": task_status,
        "tasks": len(tasks),
        "spans": spans,
        "dropped_spans": dropped,
        "root_missing": bool(rootless),
    }


def trace_version(connection: sqlite3.Connection, trace_id: bytes) -> tuple[int | None, int, int]:
    """Return a trace's last write (None: unknown trace), its last line and the number of lines."""
    found = connection.execute("SELECT seq FROM trace WHERE trace_id = ?", (trace_id,)).fetchone()
    last, count = connection.execute(
        "SELECT coalesce(max(id), 0), count(*) FROM log WHERE trace_id = ?", (trace_id,)
    ).fetchone()
    return found[0] if found else None, last, count


def trace_document(connection: sqlite3.Connection, trace_id: bytes) -> dict[str, Any] | None:
    """Return a trace as OTLP JSON, None if it is unknown."""
    rows = connection.execute(
        "SELECT span.origin, span.body FROM span JOIN trace ON trace.id = span.trace"
        " WHERE trace.trace_id = ? ORDER BY span.origin, span.start",
        (trace_id,),
    ).fetchall()
    if not rows:
        return None
    origins = _origins(connection, {origin for origin, _ in rows})
    return {
        "resourceSpans": [
            _resource_spans(origins[key], [body for _, body in group])
            for key, group in groupby(rows, key=itemgetter(0))
        ]
    }


def log_lines(connection: sqlite3.Connection, trace_id: bytes) -> list[dict[str, Any]] | None:
    """Return the log lines of a trace, oldest first; None if nothing is known of it."""
    lines = lines_of(connection, trace_id)
    if not lines and trace_version(connection, trace_id)[0] is None:
        return None
    return lines


def lines_of(
    connection: sqlite3.Connection, trace_id: bytes, *, naming: str = ""
) -> list[dict[str, Any]]:
    """Return the log lines of a trace that have *naming* in them, oldest first."""
    rows = connection.execute(
        "SELECT origin, body FROM log WHERE trace_id = ? AND instr(body, ?) > 0"
        " ORDER BY time, id LIMIT ?",
        (trace_id, naming.encode(), MAX_LINES),
    ).fetchall()
    origins = _origins(connection, {origin for origin, _ in rows})
    return [log_line(LogRecord.FromString(body), origins[origin]) for origin, body in rows]


def _origins(connection: sqlite3.Connection, keys: set[int]) -> dict[int, ResourceSpans]:
    found = {}
    for key in keys:
        (body,) = connection.execute("SELECT body FROM origin WHERE id = ?", (key,)).fetchone()
        found[key] = ResourceSpans.FromString(body)
    return found


def _resource_spans(origin: ResourceSpans, bodies: Sequence[bytes]) -> dict[str, Any]:
    scoped = origin.scope_spans[0]
    return {
        "resource": otlp_json.resource(origin.resource),
        "scopeSpans": [
            {
                "scope": otlp_json.scope(scoped.scope),
                "spans": [otlp_json.span(Span.FromString(body)) for body in bodies],
                "schemaUrl": scoped.schema_url,
            }
        ],
        "schemaUrl": origin.schema_url,
    }

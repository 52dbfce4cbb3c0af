"""
The viewer's application: the intake, a small API to read it, and the page.

    POST /v1/traces, /v1/logs            OTLP/HTTP
    GET  /api/traces                     summaries, newest first
    GET  /api/traces/{trace_id}          one trace as OTLP JSON
    GET  /api/traces/{trace_id}/logs     its log lines
    GET  /api/tasks                      tasks, newest first, and the types there are
    GET  /api/tasks/{task_id}            one task with its attempts
    GET  /                               the page; /static its files

The page stays live by asking again with the last ETag: a 304 costs a comparison, and no connection
is left open that a stop would have to wait for.
"""

import json
import re
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from anyio import to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tracebaton.errors import Forbidden, MethodNotAllowed, NotFound, RequestError
from tracebaton.viewer.files import answer, page, page_files
from tracebaton.viewer.guard import LoopbackGuard, refusal
from tracebaton.viewer.ingest import post_logs, post_traces
from tracebaton.viewer.queries import OUTCOMES
from tracebaton.viewer.rows import MAX_TIME
from tracebaton.viewer.spans import SpanStore, TaskQuery, TraceQuery
from tracebaton.viewer.taskqueries import ENDED

__all__ = ["create_viewer"]

STATIC: Final = Path(__file__).parent / "static"
TRACE_ID: Final = re.compile(r"[0-9a-fA-F]{32}")
CURSOR: Final = re.compile(r"(\d{1,19})-(\d{1,19})")
#: What the task API knows.
TASK_STATUSES: Final = ENDED | {"queued", "running"}
#: The same, and whether a span failed.
STATUSES: Final = TASK_STATUSES | OUTCOMES.keys()
#: Traces on one page, at most.
MAX_LIMIT: Final = 1_000


def create_viewer(store: SpanStore) -> Starlette:
    """
    Return the viewer as an application over *store*, which stays its creator's to close.

    Serve it on loopback only and without an access log: it is fed by the processes it shows.
    """
    guard = Middleware(LoopbackGuard)
    viewer = Starlette(
        routes=[
            Route("/v1/traces", post_traces, methods=["POST"]),
            Route("/v1/logs", post_logs, methods=["POST"]),
            Route("/api/traces", _list_traces),
            Route("/api/traces/{trace_id}", _show_trace),
            Route("/api/traces/{trace_id}/logs", _show_logs),
            Route("/api/tasks", _list_tasks),
            Route("/api/tasks/{task_id:path}", _show_task),
            Route("/", _page),
            Route("/static/{name}", _file),
        ],
        exception_handlers={
            RequestError: _refuse,
            HTTPException: _refuse,
            Exception: _refuse,
        },
    )
    # Set and not passed: an application-wide ``StarletteInstrumentor().instrument()`` adds its own
    # on construction, and a viewer that traces its intake would feed itself for ever.
    viewer.user_middleware = [guard]
    viewer.state.store, viewer.state.files = store, page_files(STATIC)
    return viewer


async def _file(request: Request) -> Response:
    return answer(request, request.app.state.files, request.path_params["name"])


async def _page(request: Request) -> Response:
    """Answer the page with the list that it shows first: half of its time went by asking for it."""
    store, files = _store(request), request.app.state.files

    def respond() -> Response:
        tag = f'"{store.version()}"'
        first = {"tag": tag, "page": _listed("traces", store.traces(_trace_query({})))}
        return page(request, files, _json(first))

    return await to_thread.run_sync(respond)


async def _list_traces(request: Request) -> Response:
    query, store = _trace_query(request.query_params), _store(request)
    return await _list(request, "traces", lambda: store.traces(query))


async def _list_tasks(request: Request) -> Response:
    query, store = _task_query(request.query_params), _store(request)
    types = store.task_types
    return await _list(request, "tasks", lambda: store.tasks(query), lambda: {"types": types()})


async def _list(
    request: Request,
    name: str,
    find: Callable[[], tuple[list[dict[str, Any]], tuple[int, int] | None]],
    more: Callable[[], Mapping[str, Any]] = dict,
) -> Response:
    """Answer one page of what *find* finds, under *name*, and what *more* says."""

    def read() -> Mapping[str, Any]:
        return {**_listed(name, find()), **more()}

    return await _answer(request, _store(request).version, read)


def _listed(
    name: str, found: tuple[list[dict[str, Any]], tuple[int, int] | None]
) -> dict[str, Any]:
    rows, last = found
    return {name: rows, "next_cursor": _cursor(last)}


async def _show_task(request: Request) -> Response:
    store, task_id = _store(request), request.path_params["task_id"]

    def read() -> Mapping[str, Any]:
        if (document := store.task(task_id)) is None:
            raise NotFound("no span and no log line told of this task, or it has been evicted")
        return document

    return await _answer(request, lambda: store.task_version(task_id), read)


async def _show_trace(request: Request) -> Response:
    store, trace_id = _store(request), _trace_id(request)

    def read() -> Mapping[str, Any]:
        if (document := store.trace(trace_id)) is None:
            raise _unknown(trace_id)
        return document

    return await _answer(request, lambda: store.trace_version(trace_id), read)


async def _show_logs(request: Request) -> Response:
    store, trace_id = _store(request), _trace_id(request)

    def read() -> Mapping[str, Any]:
        if (lines := store.logs(trace_id)) is None:
            raise _unknown(trace_id)
        return {"logs": lines}

    return await _answer(request, lambda: store.trace_version(trace_id), read)


async def _answer(
    request: Request, version: Callable[[], str], read: Callable[[], Mapping[str, Any]]
) -> Response:
    known = request.headers.get("if-none-match")

    def respond() -> Response:
        # Before the read: what is written in between is then sent twice, never missed.
        headers = {"etag": f'"{version()}"', "cache-control": "no-cache"}
        if known == headers["etag"]:
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        return Response(_json(read()), media_type="application/json", headers=headers)

    return await to_thread.run_sync(respond)


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def _store(request: Request) -> SpanStore:
    store: SpanStore = request.app.state.store
    return store


def _trace_id(request: Request) -> bytes:
    text: str = request.path_params["trace_id"]
    if TRACE_ID.fullmatch(text) is None:
        raise NotFound("a trace id has 32 hexadecimal digits")
    return bytes.fromhex(text)


def _unknown(trace_id: bytes) -> NotFound:
    return NotFound(f"no trace {trace_id.hex()}: it was never sent here, or has been evicted")


def _trace_query(parameters: Mapping[str, str]) -> TraceQuery:
    return TraceQuery(
        correlation_id=parameters.get("correlation_id") or None,
        user_id=parameters.get("user_id") or None,
        task_id=parameters.get("task_id") or None,
        status=_status(parameters, STATUSES),
        text=parameters.get("q", "").strip() or None,
        limit=_limit(parameters.get("limit") or "100"),
        after=_after(parameters.get("cursor", "")),
    )


def _task_query(parameters: Mapping[str, str]) -> TaskQuery:
    return TaskQuery(
        status=_status(parameters, TASK_STATUSES),
        type=parameters.get("type") or None,
        text=parameters.get("q", "").strip() or None,
        limit=_limit(parameters.get("limit") or "100"),
        after=_after(parameters.get("cursor", "")),
    )


def _status(parameters: Mapping[str, str], known: AbstractSet[str]) -> str | None:
    status = parameters.get("status", "").lower() or None
    if status is not None and status not in known:
        raise RequestError(f"status is one of {', '.join(sorted(known))}")
    return status


def _cursor(last: tuple[int, int] | None) -> str | None:
    return f"{last[0]}-{last[1]}" if last else None


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:5]) <= MAX_LIMIT:
        raise RequestError(f"limit is a number from 1 to {MAX_LIMIT}")
    return int(text)


def _after(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    if (found := CURSOR.fullmatch(text)) is None:
        raise RequestError("cursor is next_cursor of the page before")
    return min(int(found[1]), MAX_TIME), min(int(found[2]), MAX_TIME)


async def _refuse(request: Request, exc: Exception) -> Response:
    known = _ours(exc) if isinstance(exc, HTTPException) else exc
    return refusal(known, request.url.path)


def _ours(exc: HTTPException) -> RequestError:
    kinds = {kind.status: kind for kind in (Forbidden, NotFound, MethodNotAllowed)}
    return kinds.get(exc.status_code, RequestError)(headers=exc.headers)

"""
``GET /v1/tasks/{id}/events``: what happens to a task, as server-sent events.

https://html.spec.whatwg.org/multipage/server-sent-events.html. Each event carries the task as it
was then, and its number in the task's history as its id. The stream ends with the task.
"""

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from typing import Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from tracebaton.http.service import Service, trace_url_of
from tracebaton.http.tasks import own_task
from tracebaton.http.watch import TaskWatch
from tracebaton.tasks import ENDED, Change

__all__ = ["HEARTBEAT", "event_routes"]

#: Seconds of silence after which a comment is sent: proxies close what is silent for a minute.
HEARTBEAT: Final = 15.0
#: Milliseconds after which a browser asks again when its stream breaks.
_RETRY: Final = b"retry: 2000\n\n"
#: Bytes of events from which on a chunk is sent although more are here.
_CHUNK: Final = 16 * 1024
_HEADERS: Final = {
    "cache-control": "private, no-store",
    "x-accel-buffering": "no",  # nginx would hold events back until a buffer is full
}


def event_routes(service: Service, watch: TaskWatch) -> list[BaseRoute]:
    """Return the route of a task's events."""

    async def events(request: Request) -> Response:
        task = await own_task(service.store, request.path_params["id"])
        after = _last_id(request)
        if after > task.changes:  # not one of this task's
            after = 0
        if after == task.changes and task.status in ENDED:
            return Response(status_code=204)  # a browser asks again until it is told not to
        if request.method == "HEAD":
            return Response(headers=_HEADERS, media_type="text/event-stream")
        frames = _frames(service, watch, task.id, after)
        return StreamingResponse(frames, headers=_HEADERS, media_type="text/event-stream")

    return [Route("/v1/tasks/{id}/events", events, methods=["GET"])]


async def _frames(
    service: Service, watch: TaskWatch, task_id: str, after: int
) -> AsyncIterator[bytes]:
    first = _RETRY
    async with aclosing(watch.changes(task_id, after=after, heartbeat=HEARTBEAT)) as news:
        async for changes in news:
            if changes is None:
                yield b": heartbeat\n\n"
                continue
            for chunk in _chunks(service, changes, first):
                yield chunk
            first = b""


def _chunks(service: Service, changes: Sequence[Change], first: bytes) -> Iterator[bytes]:
    """Yield as many events a chunk as there are: each chunk passes every layer of the app."""
    waiting = first
    for change in changes:
        waiting += _frame(service, change)
        if len(waiting) > _CHUNK:
            yield waiting
            waiting = b""
    if waiting:
        yield waiting


def _frame(service: Service, change: Change) -> bytes:
    resource = change.task.resource(trace_url=trace_url_of(service, change.task))
    data = json.dumps(resource, allow_nan=False, separators=(",", ":"))  # ASCII, on one line
    return f"id: {change.number}\nevent: {change.kind}\ndata: {data}\n\n".encode("ascii")


def _last_id(request: Request) -> int:
    """Return the number of the last event that the caller has, 0 where it has none of ours."""
    said = request.headers.get("last-event-id", "")
    return int(said) if said.isascii() and said.isdecimal() and len(said) < 10 else 0

"""
Tasks over HTTP: enqueue one, look at one, and let any route answer with one.
"""

import hashlib
import inspect
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import wraps
from typing import Any, Protocol

from opentelemetry import trace
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from tracebaton.context import RequestStore, current
from tracebaton.errors import NotFound
from tracebaton.http.auth import Authenticator
from tracebaton.http.body import body
from tracebaton.problems import Reporter
from tracebaton.semconv import TASK_ID, TASK_TYPE
from tracebaton.tasks import Registry, Task, TaskStore, TaskType

__all__ = ["Endpoint", "Service", "accepted", "answering", "task_routes"]

Endpoint = Callable[[Request], Awaitable[Any] | Any]

#: The part of a task's resource that a 202 shows.
_ACCEPTED = ("task_id", "type", "status", "correlation_id", "trace_id", "created_at", "links")
#: Another user's browser cache must not answer, and a cached state must be asked about.
_CACHE = "private, no-cache"


class Service(Protocol):
    """
    What the HTTP wing needs of an application.

    Every attribute is read when a request needs it, so that an app can be imported before its
    settings are there; ``routes`` and ``store_type`` are read when the app is created.
    """

    @property
    def registry(self) -> Registry:
        """Return the task types that can be enqueued."""
        ...

    @property
    def store(self) -> TaskStore | None:
        """Return where tasks are kept, None where they are not."""
        ...

    @property
    def store_type(self) -> type[RequestStore]:
        """Return the request store's class."""
        ...

    @property
    def authenticator(self) -> Authenticator:
        """Return who tells whom a request is from."""
        ...

    @property
    def reporter(self) -> Reporter:
        """Return where unexpected failures go."""
        ...

    @property
    def routes(self) -> Sequence[tuple[str, Endpoint, Sequence[str]]]:
        """Return the application's own routes: path, endpoint, methods."""
        ...

    async def enqueue(self, task_type: str, data: BaseModel) -> Task:
        """Save a task and send its message."""
        ...

    def trace_url(self, trace_id: str) -> str | None:
        """Return where a person can look at the trace, None without a viewer."""
        ...

    async def ready(self) -> Mapping[str, bool]:
        """Tell what of the dependencies answers."""
        ...


class _Json(JSONResponse):
    def render(self, content: Any) -> bytes:
        """Return *content* in ASCII: a result may hold what is no valid Unicode."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def accepted(task: Task, *, trace_url: str | None = None) -> JSONResponse:
    """
    Return the 202 that names *task* and its address.

    Args:
        trace_url: Where a person can look at the trace.
    """
    resource = task.resource(trace_url=trace_url)
    trace.get_current_span().set_attributes({TASK_ID: task.id, TASK_TYPE: task.type})
    return _Json(
        {name: resource[name] for name in _ACCEPTED},
        status_code=202,
        headers={"location": resource["links"]["self"]},
    )


def answering(service: Service, endpoint: Endpoint) -> Endpoint:
    """Let *endpoint* return a task (202), a pydantic model or JSON data as well as a response."""

    def respond(result: Any) -> Response:
        if isinstance(result, Response):
            return result
        if isinstance(result, Task):
            return accepted(result, trace_url=_trace_url(service, result))
        return _Json(result.model_dump(mode="json") if isinstance(result, BaseModel) else result)

    if inspect.iscoroutinefunction(endpoint):

        @wraps(endpoint)
        async def answer(request: Request) -> Response:
            return respond(await endpoint(request))

        return answer

    @wraps(endpoint)
    def answer_in_thread(request: Request) -> Response:
        return respond(endpoint(request))

    return answer_in_thread


def task_routes(service: Service) -> list[BaseRoute]:
    """Return ``POST /v1/tasks/{type}`` and ``GET /v1/tasks/{id}``."""

    async def submit(request: Request) -> Response:
        kind = _registered(service.registry, request.path_params["type"])
        task = await service.enqueue(kind.name, await body(request, kind.model))
        return accepted(task, trace_url=_trace_url(service, task))

    async def show(request: Request) -> Response:
        task = await _own_task(service.store, request.path_params["id"])
        response = _Json(task.resource(trace_url=_trace_url(service, task)))
        etag = f'"{hashlib.sha256(bytes(response.body)).hexdigest()[:32]}"'
        headers = {"etag": etag, "cache-control": _CACHE}
        if _is_known(request.headers.get("if-none-match"), etag):
            return Response(status_code=304, headers=headers)
        response.headers.update(headers)
        return response

    return [
        Route("/v1/tasks/{id}", show, methods=["GET"]),
        Route("/v1/tasks/{type}", submit, methods=["POST"]),
    ]


def _registered(registry: Registry, name: str) -> TaskType:
    if name not in registry:
        raise NotFound("There is no task type of this name.")
    return registry[name]


async def _own_task(store: TaskStore | None, task_id: str) -> Task:
    """Return the task if the current user may see it; somebody else's is not there for him."""
    task = None if store is None else await store.get(task_id)
    user_id = current().user_id
    if task is None or (user_id is not None and task.user_id != user_id):
        raise NotFound("There is no task of this id.")
    return task


def _trace_url(service: Service, task: Task) -> str | None:
    return None if task.trace_id is None else service.trace_url(task.trace_id)


def _is_known(if_none_match: str | None, etag: str) -> bool:
    """Tell whether the caller holds *etag*, by RFC 9110's weak comparison."""
    known = [entry.strip().removeprefix("W/") for entry in (if_none_match or "").split(",")]
    return etag in known or known == ["*"]

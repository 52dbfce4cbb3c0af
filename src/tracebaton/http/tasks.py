"""
Tasks over HTTP: enqueue one, look at one or at many, cancel one, and let any route answer with one.
"""

import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import replace
from functools import wraps
from typing import Any, Final

from opentelemetry import trace
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from tracebaton.context import current
from tracebaton.errors import Conflict, NotFound, ValidationFailed
from tracebaton.http.answers import JsonResponse, ResourceResponse
from tracebaton.http.body import body
from tracebaton.http.idempotency import once
from tracebaton.http.service import Endpoint, Service, trace_url_of
from tracebaton.semconv import TASK_ID, TASK_TYPE
from tracebaton.tasks import Registry, Task, TaskQuery, TaskStatus, TaskStore, TaskType

__all__ = [
    "ACCEPTED",
    "DEFAULT_LIMIT",
    "MAX_LIMIT",
    "accepted",
    "answering",
    "own_task",
    "slashed_types_route",
    "task_routes",
]

#: The part of a task's resource that a 202 shows.
ACCEPTED: Final = (
    "task_id",
    "type",
    "status",
    "correlation_id",
    "trace_id",
    "created_at",
    "links",
)
#: Another user's browser cache must not answer, and a cached state must be asked about.
_CACHE: Final = "private, no-cache"
#: Tasks on one page, at most, and where nothing is asked for.
MAX_LIMIT, DEFAULT_LIMIT = 1_000, 50
#: What a list can be asked for.
_PARAMETERS: Final = ("status", "type", "cursor", "limit")


def accepted(task: Task, *, trace_url: str | None = None) -> Response:
    """
    Return the 202 that names *task* and its address.

    Args:
        trace_url: Where a person can look at the trace.
    """
    resource = task.resource(trace_url=trace_url)
    trace.get_current_span().set_attributes({TASK_ID: task.id, TASK_TYPE: task.type})
    return ResourceResponse(
        {name: resource[name] for name in ACCEPTED},
        status_code=202,
        headers={"location": resource["links"]["self"]},
    )


def answering(service: Service, endpoint: Endpoint) -> Endpoint:
    """Let *endpoint* return a task (202), a pydantic model or JSON data as well as a response."""
    instance_call = getattr(endpoint, "__call__", None)  # noqa: B004  an async one counts too
    on_loop = inspect.iscoroutinefunction(endpoint) or inspect.iscoroutinefunction(instance_call)

    async def respond(request: Request) -> Response:
        if on_loop:
            result = await endpoint(request)
        else:
            result = await run_in_threadpool(endpoint, request)
        return _response_of(service, result)

    @wraps(endpoint)
    async def answer(request: Request) -> Response:
        return await _once(service, request, respond)

    return answer


def task_routes(service: Service) -> list[BaseRoute]:
    """Return the routes below ``/v1/tasks``, without the events of a task."""
    tasks = _Tasks(service)
    return [
        Route("/v1/tasks/{type}", tasks.submit, methods=["POST"]),
        Route("/v1/tasks/{id}", tasks.show, methods=["GET"]),
        Route("/v1/tasks", tasks.index, methods=["GET"]),
        Route("/v1/tasks/{id}", tasks.cancel, methods=["DELETE"]),
    ]


def slashed_types_route(service: Service) -> BaseRoute:
    """Return the route of types whose names have slashes; it stands behind all others."""
    return _SlashedTypes(service, "/v1/tasks/{type:path}", _Tasks(service).submit, methods=["POST"])


class _SlashedTypes(Route):
    """Takes the path of a registered type and no other, which would be a 405 for no reason."""

    def __init__(self, service: Service, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._service = service

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        name = "" if match is Match.NONE else child["path_params"]["type"]
        if "/" in name and name in self._service.registry:
            return match, child
        return Match.NONE, {}


class _Tasks:
    """The endpoints of one service's tasks."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def submit(self, request: Request) -> Response:
        # 404 before the body is read.
        _registered(self._service.registry, request.path_params["type"])
        return await _once(self._service, request, self._enqueue)

    async def show(self, request: Request) -> Response:
        task = await own_task(self._service.store, request.path_params["id"])
        response = ResourceResponse(self._resource(task))
        etag = f'"{hashlib.sha256(bytes(response.body)).hexdigest()[:32]}"'
        headers = {"etag": etag, "cache-control": _CACHE}
        if _is_known(request.headers.getlist("if-none-match"), etag):
            return Response(status_code=304, headers=headers)
        response.headers.update(headers)
        return response

    async def index(self, request: Request) -> Response:
        page = await _kept(self._service.store).list(_query(request))
        tasks = [self._resource(task) for task in page.tasks]
        return ResourceResponse(
            {"tasks": tasks, "next_cursor": page.next_cursor}, headers={"cache-control": _CACHE}
        )

    async def cancel(self, request: Request) -> Response:
        store = _kept(self._service.store)
        task = await own_task(store, request.path_params["id"])
        if not await store.cancel(task.id):
            raise Conflict("The task has ended already.")
        task = await own_task(store, task.id)
        trace.get_current_span().set_attributes({TASK_ID: task.id, TASK_TYPE: task.type})
        return ResourceResponse(
            self._resource(task), status_code=202, headers={"location": f"/v1/tasks/{task.id}"}
        )

    async def _enqueue(self, request: Request) -> Response:
        kind = _registered(self._service.registry, request.path_params["type"])
        task = await self._service.enqueue(kind.name, await body(request, kind.model))
        return _response_of(self._service, task)

    def _resource(self, task: Task) -> dict[str, Any]:
        return task.resource(trace_url=trace_url_of(self._service, task))


async def own_task(store: TaskStore | None, task_id: str) -> Task:
    """
    Return the task if the current user may see it; somebody else's is not there for him.

    Raises:
        NotFound: There is none of this id, or it is another user's.
    """
    task = None if store is None else await store.get(task_id)
    user_id = current().user_id
    if task is None or (user_id is not None and task.user_id != user_id):
        raise NotFound("There is no task of this id.")
    return task


async def _once(service: Service, request: Request, respond: Any) -> Response:
    """Handle *request* once for its idempotency key, if it has one."""

    def lost(task: Task) -> Response:
        # Its own answer never came, or nobody kept it: what it would have been is known.
        return accepted(
            replace(task, status=TaskStatus.QUEUED), trace_url=trace_url_of(service, task)
        )

    return await once(request, respond, store=service.store, lost=lost)


def _response_of(service: Service, result: Any) -> Response:
    if isinstance(result, Response):
        return result
    if isinstance(result, Task):
        return accepted(result, trace_url=trace_url_of(service, result))
    return JsonResponse(result.model_dump(mode="json") if isinstance(result, BaseModel) else result)


def _registered(registry: Registry, name: str) -> TaskType:
    if name not in registry:
        raise NotFound("There is no task type of this name.")
    return registry[name]


def _kept(store: TaskStore | None) -> TaskStore:
    if store is None:
        raise NotFound("This service keeps no tasks.")
    return store


def _query(request: Request) -> TaskQuery:
    """
    Return what a list is asked for; parameters that nobody knows are passed over.

    Raises:
        ValidationFailed: A parameter is given twice, or has no value of its kind.
    """
    given: dict[str, str] = {}
    errors: list[dict[str, str]] = []
    for name in _PARAMETERS:
        values = request.query_params.getlist(name)
        if len(values) > 1:
            errors.append({"pointer": f"/{name}", "detail": "Given more than once."})
        elif values:
            given[name] = values[0]
    status, limit = given.get("status"), given.get("limit", str(DEFAULT_LIMIT))
    if status is not None and status not in set(TaskStatus):
        errors.append({"pointer": "/status", "detail": f"Not one of {', '.join(TaskStatus)}."})
    if not (limit.isascii() and limit.isdecimal() and 1 <= int(limit[:10]) <= MAX_LIMIT):
        errors.append({"pointer": "/limit", "detail": f"Not a number from 1 to {MAX_LIMIT}."})
    if errors:
        raise ValidationFailed("The query does not fit. See errors.", errors=errors)
    return TaskQuery(
        user_id=current().user_id,
        status=TaskStatus(status) if status is not None else None,
        type=given.get("type"),
        cursor=given.get("cursor"),
        limit=int(limit),
    )


def _is_known(if_none_match: Sequence[str], etag: str) -> bool:
    """Tell whether the caller holds *etag*, by RFC 9110's weak comparison; lines are one list."""
    entries = ",".join(if_none_match).split(",")
    known = [entry.strip().removeprefix("W/") for entry in entries]
    return etag in known or known == ["*"]

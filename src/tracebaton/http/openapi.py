"""
The service as OpenAPI 3.1: its registered task types, the tasks, and the errors they share.

https://spec.openapis.org/oas/v3.1.1.html. The schemas of the types are pydantic's; ours stand
beside them under names that no class can have.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from tracebaton.http.components import (
    IDEMPOTENCY_KEY,
    LAST_EVENT_ID,
    QUERY,
    SECURITY,
    SHARED,
    TASK_ID,
    Schema,
)
from tracebaton.http.endpoints import BodyEndpoint
from tracebaton.http.idempotency import SAFE
from tracebaton.tasks import Registry, TaskType

__all__ = ["openapi"]

_PROBLEM_TYPE: Final = "application/problem+json"
Route = tuple[str, Callable[..., Any], Sequence[str]]


def openapi(
    registry: Registry, routes: Sequence[Route], *, title: str, version: str
) -> dict[str, Any]:
    """
    Return the OpenAPI document of a service.

    Args:
        routes: The application's own, as far as paths, methods and models tell of them.
    """
    types = sorted(registry, key=lambda kind: kind.name)
    taken = [endpoint.model for _, endpoint, _ in routes if isinstance(endpoint, BodyEndpoint)]
    references, definitions = _models([*(kind.model for kind in types), *taken])
    paths: dict[str, Any] = {
        f"/v1/tasks/{kind.name}": {"post": _submit(kind, references[kind.model])} for kind in types
    }
    paths |= _tasks()
    for path, endpoint, methods in routes:
        found = paths.setdefault(re.sub(r":\w+\}", "}", path), {})
        for method in methods:
            found.setdefault(method.lower(), _own(path, endpoint, method, references))
    return {
        "openapi": "3.1.1",
        "info": {"title": title, "version": version},
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "paths": paths,
        "components": {"schemas": definitions | SHARED, "securitySchemes": SECURITY},
        # Which of them counts is TRACEBATON_AUTH's to say, and it may be none.
        "security": [{}, {"bearer": []}, {"apiKey": []}],
    }


def _models(
    models: Sequence[type[BaseModel]],
) -> tuple[Mapping[type[BaseModel], Schema], dict[str, Schema]]:
    """Return a reference for each model, and what the references are to."""
    template = "#/components/schemas/{model}"
    wanted: Any = [(model, "validation") for model in dict.fromkeys(models)]
    found, document = models_json_schema(wanted, ref_template=template)
    references = {model: found[model, "validation"] for model in models}
    return references, document.get("$defs", {})


def _submit(kind: TaskType, reference: Schema) -> Schema:
    return {
        "operationId": f"submit.{kind.name}",
        "summary": f"Submit a task of type {kind.name}.",
        "description": inspect.getdoc(kind.handler) or "",
        "tags": ["submit"],
        "parameters": [IDEMPOTENCY_KEY],
        "requestBody": _body(reference),
        "responses": {
            "202": {
                **_json("Accepted; Location names the task.", "AcceptedTask"),
                "headers": {
                    "Location": {"required": True, "schema": {"type": "string"}},
                    "Idempotency-Replayed": {"schema": {"type": "string", "const": "true"}},
                },
            },
            **_problems(400, 401, 403, 408, 409, 413, 415, 422, 429, 431, 503),
        },
    }


def _tasks() -> dict[str, Any]:
    return {
        "/v1/tasks": {"get": _list()},
        "/v1/tasks/{id}": {"get": _show(), "delete": _cancel()},
        "/v1/tasks/{id}/events": {"get": _events()},
    }


def _list() -> Schema:
    return {
        "operationId": "tasks.list",
        "summary": "List your tasks, the newest first.",
        "tags": ["tasks"],
        "parameters": list(QUERY),
        "responses": {
            "200": _json("A page of tasks.", "TaskPage"),
            **_problems(401, 403, 404, 422, 431, 503),
        },
    }


def _show() -> Schema:
    return {
        "operationId": "tasks.show",
        "summary": "Show a task.",
        "tags": ["tasks"],
        "parameters": [TASK_ID],
        "responses": {
            "200": {
                **_json("The task; If-None-Match with its ETag answers 304.", "Task"),
                "headers": {"ETag": {"required": True, "schema": {"type": "string"}}},
            },
            "304": {"description": "It has not changed."},
            **_problems(401, 403, 404, 431, 503),
        },
    }


def _cancel() -> Schema:
    return {
        "operationId": "tasks.cancel",
        "summary": "Cancel a task that has not ended.",
        "tags": ["tasks"],
        "parameters": [TASK_ID],
        "responses": {
            "202": _json("It is cancelled; a running handler is stopped.", "Task"),
            **_problems(401, 403, 404, 409, 429, 431, 503),
        },
    }


def _events() -> Schema:
    stream = {"text/event-stream": {"schema": {"type": "string"}}}
    return {
        "operationId": "tasks.events",
        "summary": "Hear what happens to a task, as server-sent events.",
        "description": (
            "Events status, progress, result and error, each with the task as its data and"
            " its number as its id. The stream ends with the task."
        ),
        "tags": ["tasks"],
        "parameters": [TASK_ID, LAST_EVENT_ID],
        "responses": {
            "200": {"description": "The events.", "content": stream},
            "204": {"description": "It has ended and you have heard everything."},
            **_problems(401, 403, 404, 431, 503),
        },
    }


def _own(
    path: str,
    endpoint: Callable[..., Any],
    method: str,
    references: Mapping[type[BaseModel], Schema],
) -> Schema:
    told = endpoint.endpoint if isinstance(endpoint, BodyEndpoint) else endpoint
    parameters = [{**TASK_ID, "name": name} for name in re.findall(r"\{(\w+)", path)]
    if method.upper() not in SAFE:
        parameters.append(IDEMPOTENCY_KEY)
    described: Schema = {
        "summary": (inspect.getdoc(told) or "").partition("\n")[0],
        "tags": ["application"],
        "parameters": parameters,
        "responses": {
            "2XX": {"description": "What the application answers."},
            **_problems("default"),
        },
    }
    if isinstance(endpoint, BodyEndpoint):
        described["requestBody"] = _body(references[endpoint.model])
        described["responses"] |= _problems(400, 408, 413, 415, 422)
    return described


def _body(reference: Schema) -> Schema:
    return {"required": True, "content": {"application/json": {"schema": reference}}}


def _json(description: str, name: str) -> Schema:
    schema = {"$ref": f"#/components/schemas/tracebaton.{name}"}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _problems(*statuses: int | str) -> dict[str, Schema]:
    schema = {"$ref": "#/components/schemas/tracebaton.Problem"}
    content = {_PROBLEM_TYPE: {"schema": schema}}
    return {str(status): {"description": "A problem.", "content": content} for status in statuses}

"""
The service as OpenAPI 3.1: its registered task types, the tasks, and the errors they share.

https://spec.openapis.org/oas/v3.1.1.html. The schemas of the types are pydantic's; ours stand
beside them under names that no class can have.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pydantic.json_schema import models_json_schema

from tracebaton.http.tasks import ACCEPTED, DEFAULT_LIMIT, MAX_LIMIT
from tracebaton.tasks import Registry, TaskStatus, TaskType

__all__ = ["openapi"]

Schema = dict[str, Any]

_PROBLEM_TYPE: Final = "application/problem+json"
_TIME: Final[Schema] = {"type": "string", "format": "date-time"}
_TEXT_OR_NULL: Final[Schema] = {"type": ["string", "null"]}
_TIME_OR_NULL: Final[Schema] = {"type": ["string", "null"], "format": "date-time"}
_LINKS: Final[Schema] = {
    "type": "object",
    "required": ["self", "events", "trace"],
    "properties": {
        "self": {"type": "string"},
        "events": {"type": "string"},
        "trace": {**_TEXT_OR_NULL, "description": "Where a person can look at the trace."},
    },
}
_FIELDS: Final[Schema] = {
    "task_id": {"type": "string"},
    "type": {"type": "string"},
    "status": {"type": "string", "enum": [status.value for status in TaskStatus]},
    "attempt": {"type": "integer", "minimum": 0},
    "progress": {"type": "integer", "minimum": 0, "maximum": 100},
    "progress_message": _TEXT_OR_NULL,
    "result": {"description": "What the handler returned."},
    "error": {"anyOf": [{"$ref": "#/components/schemas/tracebaton.Problem"}, {"type": "null"}]},
    "user_id": _TEXT_OR_NULL,
    "correlation_id": _TEXT_OR_NULL,
    "trace_id": _TEXT_OR_NULL,
    "parent_task_id": _TEXT_OR_NULL,
    "created_at": _TIME,
    "updated_at": _TIME,
    "started_at": _TIME_OR_NULL,
    "ended_at": _TIME_OR_NULL,
    "links": _LINKS,
}
_PROBLEM: Final[Schema] = {
    "type": "object",
    "description": "RFC 9457.",
    "required": ["type", "title", "status", "detail", "code", "retryable"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string"},
        "instance": _TEXT_OR_NULL,
        "code": {"type": "string", "description": "Stable: a machine may branch on it."},
        "retryable": {"type": "boolean"},
        "correlation_id": _TEXT_OR_NULL,
        "trace_id": _TEXT_OR_NULL,
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "detail"],
                "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
    },
}
_SHARED: Final[Schema] = {
    "tracebaton.Problem": _PROBLEM,
    "tracebaton.Task": {"type": "object", "required": list(_FIELDS), "properties": _FIELDS},
    "tracebaton.AcceptedTask": {
        "type": "object",
        "required": list(ACCEPTED),
        "properties": {name: _FIELDS[name] for name in ACCEPTED},
    },
    "tracebaton.TaskPage": {
        "type": "object",
        "required": ["tasks", "next_cursor"],
        "properties": {
            "tasks": {"type": "array", "items": {"$ref": "#/components/schemas/tracebaton.Task"}},
            "next_cursor": _TEXT_OR_NULL,
        },
    },
}
_ID: Final[Schema] = {
    "name": "id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "minLength": 1},
}
_KEY: Final[Schema] = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same request again with it has the same answer for 24 hours.",
    # It ends in a visible character: white space around a header is not part of it (RFC 9110).
    "schema": {"type": "string", "pattern": "^[!#-~]([ -~]{0,253}[!#-~])?$"},
}
_LAST_ID: Final[Schema] = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "The id of the last event the caller has; the stream goes on behind it.",
    "schema": {"type": "string", "pattern": "^[0-9]{1,9}$"},
}
_QUERY: Final[Sequence[Schema]] = (
    {
        "name": "status",
        "in": "query",
        "schema": {"type": "string", "enum": [status.value for status in TaskStatus]},
    },
    {"name": "type", "in": "query", "schema": {"type": "string"}},
    {
        "name": "cursor",
        "in": "query",
        "description": "next_cursor of the page before, as it was given.",
        "schema": {"type": "string"},
    },
    {
        "name": "limit",
        "in": "query",
        "schema": {
            "type": "integer",
            "minimum": 1,
            "maximum": MAX_LIMIT,
            "default": DEFAULT_LIMIT,
        },
    },
)
_SECURITY: Final[Mapping[str, Schema]] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}

Route = tuple[str, Callable[..., Any], Sequence[str]]


def openapi(
    registry: Registry, routes: Sequence[Route], *, title: str, version: str
) -> dict[str, Any]:
    """
    Return the OpenAPI document of a service.

    Args:
        routes: The application's own, as far as paths and methods tell anything of them.
    """
    types = sorted(registry, key=lambda kind: kind.name)
    references, definitions = _models(types)
    paths: dict[str, Any] = {
        f"/v1/tasks/{kind.name}": {"post": _submit(kind, references[kind.name])} for kind in types
    }
    paths |= _tasks()
    for path, endpoint, methods in routes:
        found = paths.setdefault(re.sub(r":\w+\}", "}", path), {})
        for method in methods:
            found.setdefault(method.lower(), _own(path, endpoint))
    return {
        "openapi": "3.1.1",
        "info": {"title": title, "version": version},
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "paths": paths,
        "components": {"schemas": definitions | _SHARED, "securitySchemes": _SECURITY},
        # Which of them counts is TRACEBATON_AUTH's to say, and it may be none.
        "security": [{}, {"bearer": []}, {"apiKey": []}],
    }


def _models(types: Sequence[TaskType]) -> tuple[dict[str, Schema], dict[str, Schema]]:
    """Return a reference for each type, and what the references are to."""
    template = "#/components/schemas/{model}"
    models = [(kind.model, "validation") for kind in types]
    found, document = models_json_schema(models, ref_template=template)  # type: ignore[arg-type]  # a list of Literal pairs
    references = {kind.name: found[kind.model, "validation"] for kind in types}
    return references, document.get("$defs", {})


def _submit(kind: TaskType, reference: Schema) -> Schema:
    return {
        "operationId": f"submit.{kind.name}",
        "summary": f"Submit a task of type {kind.name}.",
        "description": inspect.getdoc(kind.handler) or "",
        "tags": ["submit"],
        "parameters": [_KEY],
        "requestBody": {"required": True, "content": {"application/json": {"schema": reference}}},
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
    stream = {"text/event-stream": {"schema": {"type": "string"}}}
    return {
        "/v1/tasks": {
            "get": {
                "operationId": "tasks.list",
                "summary": "List your tasks, the newest first.",
                "tags": ["tasks"],
                "parameters": list(_QUERY),
                "responses": {
                    "200": _json("A page of tasks.", "TaskPage"),
                    **_problems(401, 403, 404, 422, 431, 503),
                },
            }
        },
        "/v1/tasks/{id}": {
            "get": {
                "operationId": "tasks.show",
                "summary": "Show a task.",
                "tags": ["tasks"],
                "parameters": [_ID],
                "responses": {
                    "200": {
                        **_json("The task; If-None-Match with its ETag answers 304.", "Task"),
                        "headers": {"ETag": {"required": True, "schema": {"type": "string"}}},
                    },
                    "304": {"description": "It has not changed."},
                    **_problems(401, 403, 404, 431, 503),
                },
            },
            "delete": {
                "operationId": "tasks.cancel",
                "summary": "Cancel a task that has not ended.",
                "tags": ["tasks"],
                "parameters": [_ID],
                "responses": {
                    "202": _json("It is cancelled; a running handler is stopped.", "Task"),
                    **_problems(401, 403, 404, 409, 429, 431, 503),
                },
            },
        },
        "/v1/tasks/{id}/events": {
            "get": {
                "operationId": "tasks.events",
                "summary": "Hear what happens to a task, as server-sent events.",
                "description": (
                    "Events status, progress, result and error, each with the task as its data and"
                    " its number as its id. The stream ends with the task."
                ),
                "tags": ["tasks"],
                "parameters": [_ID, _LAST_ID],
                "responses": {
                    "200": {"description": "The events.", "content": stream},
                    "204": {"description": "It has ended and you have heard everything."},
                    **_problems(401, 403, 404, 431, 503),
                },
            }
        },
    }


def _own(path: str, endpoint: Callable[..., Any]) -> Schema:
    names = re.findall(r"\{(\w+)", path)
    return {
        "summary": (inspect.getdoc(endpoint) or "").partition("\n")[0],
        "tags": ["application"],
        "parameters": [{**_ID, "name": name} for name in names],
        "responses": {
            "2XX": {"description": "What the application answers."},
            **_problems("default"),
        },
    }


def _json(description: str, name: str) -> Schema:
    schema = {"$ref": f"#/components/schemas/tracebaton.{name}"}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _problems(*statuses: int | str) -> dict[str, Schema]:
    schema = {"$ref": "#/components/schemas/tracebaton.Problem"}
    content = {_PROBLEM_TYPE: {"schema": schema}}
    return {str(status): {"description": "A problem.", "content": content} for status in statuses}

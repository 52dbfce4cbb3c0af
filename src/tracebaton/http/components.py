"""
The parts of the OpenAPI document that every service has: its schemas, parameters and credentials.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tracebaton.http.tasks import ACCEPTED, DEFAULT_LIMIT, MAX_LIMIT
from tracebaton.tasks import TaskStatus

__all__ = [
    "IDEMPOTENCY_KEY",
    "LAST_EVENT_ID",
    "QUERY",
    "SECURITY",
    "SHARED",
    "TASK_ID",
    "Schema",
]

Schema = dict[str, Any]

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
SHARED: Final[Schema] = {
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
TASK_ID: Final[Schema] = {
    "name": "id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "minLength": 1},
}
IDEMPOTENCY_KEY: Final[Schema] = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same request again with it has the same answer for 24 hours.",
    # It ends in a visible character: white space around a header is not part of it (RFC 9110).
    "schema": {"type": "string", "pattern": "^[!#-~]([ -~]{0,253}[!#-~])?$"},
}
LAST_EVENT_ID: Final[Schema] = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "The id of the last event the caller has; the stream goes on behind it.",
    "schema": {"type": "string", "pattern": "^[0-9]{1,9}$"},
}
QUERY: Final[Sequence[Schema]] = (
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
SECURITY: Final[Mapping[str, Schema]] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}

"""
Sample data of a task type, for runs in which what is said matters less than that it is said.
"""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from tracebaton.errors import ConfigurationError
from tracebaton.tasks import TaskType

__all__ = ["sample"]

_TEXTS = {
    "date": "2026-01-01",
    "date-time": "2026-01-01T00:00:00Z",
    "email": "someone@example.com",
    "time": "00:00:00Z",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
#: How deep a model may contain itself before the sample leaves off.
_DEPTH = 8


def sample(kind: TaskType) -> dict[str, Any]:
    """
    Return data that fits the model of *kind*: its own example, its defaults, or the least there is.

    Raises:
        ConfigurationError: Nothing of these fits; the caller has to say what does.
    """
    schema = kind.model.model_json_schema()
    examples = schema.get("examples") or []
    for candidate in (*examples, {}, _least(schema, schema.get("$defs", {}), 0)):
        if (data := _valid(kind.model, candidate)) is not None:
            return data
    raise ConfigurationError(
        f"--data: no sample of {kind.name!r} fits its model; give one, as --data '{kind.name}=JSON'"
    )


def _valid(model: type[BaseModel], candidate: Any) -> dict[str, Any] | None:
    try:
        return json.loads(model.model_validate(candidate).model_dump_json())  # type: ignore[no-any-return]  # a model is an object
    except ValidationError:
        return None


def _least(schema: Mapping[str, Any], defs: Mapping[str, Any], depth: int) -> Any:
    """Return the least that *schema* allows, as far as it is that simple."""
    if "$ref" in schema:
        return _least(defs[schema["$ref"].rpartition("/")[2]], defs, depth)
    for keyword in ("const", "default"):
        if keyword in schema:
            return schema[keyword]
    for keyword in ("examples", "enum"):
        if schema.get(keyword):
            return schema[keyword][0]
    for keyword in ("anyOf", "oneOf", "allOf"):
        if schema.get(keyword):
            return _least(schema[keyword][0], defs, depth)
    if schema.get("type") == "object":
        return _object(schema, defs, depth)
    if schema.get("type") == "array":
        items = schema.get("items", {}) if depth < _DEPTH else {}
        return [_least(items, defs, depth + 1)] * schema.get("minItems", 0)
    return _scalar(schema)


def _object(schema: Mapping[str, Any], defs: Mapping[str, Any], depth: int) -> dict[str, Any]:
    required = schema.get("required", []) if depth < _DEPTH else []
    fields = schema.get("properties", {})
    return {name: _least(fields.get(name, {}), defs, depth + 1) for name in required}


def _scalar(schema: Mapping[str, Any]) -> Any:
    match schema.get("type"):
        case "string":
            known = _TEXTS.get(schema.get("format", ""))
            return (
                known or "sample".ljust(schema.get("minLength", 1), "e")[: schema.get("maxLength")]
            )
        case "integer" | "number":
            above = schema.get("exclusiveMinimum")
            return schema.get("minimum", 1 if above is None else above + 1)
        case "boolean":
            return False
    return None

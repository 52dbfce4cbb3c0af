"""
The contract of each task type as JSON Schema, for producers in other languages.
"""

from typing import Any

from tracebaton.tasks.types import Registry, TaskType

__all__ = ["task_schemas"]

#: What pydantic writes (https://json-schema.org/draft/2020-12).
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def task_schemas(registry: Registry) -> dict[str, dict[str, Any]]:
    """Return the JSON Schema of every task type's ``data``, by name, in alphabetical order."""
    return {kind.name: _schema(kind) for kind in sorted(registry, key=lambda kind: kind.name)}


def _schema(kind: TaskType) -> dict[str, Any]:
    return {
        "$schema": _DIALECT,
        "$id": f"urn:tracebaton:task:{kind.name}:{kind.version}",
        **kind.model.model_json_schema(),
    }

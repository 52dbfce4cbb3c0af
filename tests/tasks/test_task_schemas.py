"""The contract of each task type, for producers in other languages."""

from pydantic import BaseModel, Field

from tracebaton.tasks import Registry, TaskType, task_schemas


class Order(BaseModel):
    """An order."""

    number: int = Field(ge=1)
    note: str | None = None


def test_each_type_has_a_schema_of_its_version() -> None:
    """By name; the identifier tells name and version."""
    registry = Registry()
    for name, version in (("order.ship", "2"), ("order.pay", "1")):
        registry.add(TaskType(name=name, model=Order, handler=print, version=version))

    assert task_schemas(registry) == {
        name: {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": f"urn:tracebaton:task:{name}:{version}",
            "title": "Order",
            "description": "An order.",
            "type": "object",
            "properties": {
                "number": {"minimum": 1, "title": "Number", "type": "integer"},
                "note": {
                    "anyOf": [{"type": "string"}, {"type": "null"}],
                    "default": None,
                    "title": "Note",
                },
            },
            "required": ["number"],
        }
        for name, version in (("order.pay", "1"), ("order.ship", "2"))
    }


def test_no_type_is_no_schema() -> None:
    """An empty application exports nothing."""
    assert task_schemas(Registry()) == {}

"""Which changes of a model break the producers of its messages."""

from enum import StrEnum
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, create_model

from tracebaton.tasks import Registry, TaskType, task_schemas
from tracebaton.tasks.compatibility import breaking_changes


def schemas(version: str = "1", **fields: Any) -> dict[str, Any]:
    """Return the schemas of one task type whose model has *fields*."""
    registry = Registry()
    model = create_model("Order", **fields)
    registry.add(TaskType(name="order", model=model, handler=print, version=version))
    return task_schemas(registry)


class Small(BaseModel):
    """A model inside another."""

    number: int = 0


class Strict(Small):
    """The same with a field that has to be there."""

    size: int


class Tree(BaseModel):
    """A model that holds itself."""

    leaves: "list[Tree]" = []


class Closed(BaseModel):
    """A model that takes nothing else."""

    model_config = ConfigDict(extra="forbid")
    number: int = 0


class Colour(StrEnum):
    """Two colours."""

    RED = "red"
    BLUE = "blue"


TEXT, OPTIONAL = (str, ...), (str, "x")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (TEXT, TEXT),
        (TEXT, OPTIONAL),
        (OPTIONAL, (str | None, None)),
        ((int, 0), (float, 0)),
        ((int, 0), (int | str, 0)),
        ((Literal["a"], "a"), (Literal["a", "b"], "a")),
        ((Annotated[int, Field(ge=5)], 5), (Annotated[int, Field(ge=1)], 5)),
        ((Annotated[str, Field(max_length=5)], ""), (str, "")),
        ((list[int], []), (list[float], [])),
        ((Strict, ...), (Small, ...)),
        ((Tree, ...), (Tree, ...)),
        ((Small, Small()), (Small | None, None)),
        ((dict[str, int], {}), (dict[str, float], {})),
        ((Any, 0), (Any, 0)),
        (TEXT, None),
    ],
)
def test_what_takes_as_much_breaks_nobody(old: Any, new: Any) -> None:
    """More types, wider bounds, optional fields, and fields that are passed over."""
    after = {} if new is None else {"f": new}

    assert breaking_changes(schemas(f=old), schemas(**after)) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (OPTIONAL, TEXT, "order.f: is required now"),
        (None, TEXT, "order.f: is required now"),
        ((float, 0), (int, 0), "order.f: takes integer now, took number"),
        ((str | None, None), (str, ""), "order.f: no longer takes null"),
        ((Literal["a", "b"], "a"), (Literal["a", "c"], "a"), "order.f: no longer takes b"),
        ((Colour, "red"), (Literal["red", "green"], "red"), "order.f: no longer takes blue"),
        ((int, 5), (Annotated[int, Field(ge=1)], 5), "order.f: minimum is 1 now, was none"),
        (
            (Annotated[str, Field(max_length=9)], ""),
            (Annotated[str, Field(max_length=5)], ""),
            "order.f: maxLength is 5 now, was 9",
        ),
        ((str, ""), (Annotated[str, Field(pattern="^a")], ""), "order.f: pattern is ^a now"),
        ((list[float], []), (list[int], []), "order.f[]: takes integer now, took number"),
        ((Small, ...), (Strict, ...), "order.f.size: is required now"),
        ((dict[str, float], {}), (dict[str, int], {}), "order.f.*: takes integer now"),
        ((Any, 0), (int, 0), "order.f: takes integer now, took anything"),
        ((Small, ...), (Closed, ...), "order.f.*: takes nothing now, took anything"),
    ],
)
def test_what_takes_less_breaks_producers(old: Any, new: Any, said: str) -> None:
    """And the line names the field."""
    before = {} if old is None else {"f": old}
    found = breaking_changes(schemas(**before), schemas(f=new))

    assert len(found) == 1
    assert found[0].startswith(said)


def test_a_new_version_is_another_contract() -> None:
    """It may be anything; a type that is gone takes no message, and a new one breaks none."""
    old, new = schemas(f=TEXT), schemas("2", g=(int, ...))

    assert breaking_changes(old, new) == []
    assert breaking_changes(old, {}) == ["order: the task type is gone"]
    assert breaking_changes({}, old) == []

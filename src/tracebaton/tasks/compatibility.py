"""
What breaks a producer: a message that was good by the old schemas and is not by the new ones.

Compared is what a JSON Schema takes: types, required fields, enumerations and bounds. What cannot
be decided is called breaking: a version of its own costs less than messages in quarantine.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

__all__ = ["breaking_changes"]

Schema = Mapping[str, Any]

#: Bounds that break where they rise, and those that break where they fall.
_LOWER: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
#: Any difference breaks, but that they are gone.
_EXACT: Final = ("pattern", "format", "multipleOf", "uniqueItems")
#: What says nothing about which documents are taken.
_NOTES: Final = frozenset(
    {"title", "description", "default", "examples", "deprecated", "$schema", "$id", "$defs"}
)
_KNOWN: Final = frozenset(
    {
        "type",
        "enum",
        "const",
        "properties",
        "required",
        "items",
        "anyOf",
        "additionalProperties",
        "$ref",
    }
    | set(_LOWER)
    | set(_UPPER)
    | set(_EXACT)
    | _NOTES
)


def breaking_changes(old: Mapping[str, Schema], new: Mapping[str, Schema]) -> list[str]:
    """
    Return what of *new* refuses messages that *old* took, one line each.

    A task type whose ``$id`` names another version is another contract, and is not compared.

    Args:
        old, new: The schema of each task type by name, as `task_schemas()` returns them.
    """
    found: list[str] = []
    for name, before in sorted(old.items()):
        after = new.get(name)
        if after is None:
            found.append(f"{name}: the task type is gone")
        elif before.get("$id") == after.get("$id"):
            found += [f"{name}{line}" for line in _Comparison(before, after).lines()]
    return found


class _Comparison:
    """Two documents, whose references are looked up in each."""

    def __init__(self, old: Schema, new: Schema) -> None:
        self._old = old
        self._new = new
        self._seen: set[tuple[str, str]] = set()

    def lines(self) -> Iterator[str]:
        return self._compared(self._old, self._new, "")

    def _compared(self, old: Any, new: Any, where: str) -> Iterator[str]:
        if old == new and old is not True and "$ref" not in str(old):
            return
        if not isinstance(old, Mapping) or not isinstance(new, Mapping):
            if old != new and new is not True:
                yield f"{where}: takes {_said(new)} now, took {_said(old)}"
            return
        pair = (old.get("$ref", ""), new.get("$ref", ""))
        if any(pair) and pair in self._seen:
            return  # a recursive model
        self._seen.add(pair)
        old, new = _resolved(old, self._old), _resolved(new, self._new)
        for check in (self._unknown, self._types, self._bounds, self._object, self._items):
            yield from check(old, new, where)

    def _unknown(self, old: Schema, new: Schema, where: str) -> Iterator[str]:
        for key in sorted((old.keys() | new.keys()) - _KNOWN):
            if old.get(key) != new.get(key):
                yield f"{where}: {key} changed"

    def _types(self, old: Schema, new: Schema, where: str) -> Iterator[str]:
        if "anyOf" in old or "anyOf" in new:
            choices = new.get("anyOf", [new])
            for choice in old.get("anyOf", [old]):
                if not any(self._takes(choice, other) for other in choices):
                    yield f"{where}: no longer takes {_said(_resolved(choice, self._old))}"
            return
        kinds, wider = _kinds(old), _kinds(new)
        if wider is not None and (kinds is None or not kinds <= wider):
            yield f"{where}: takes {_said(new)} now, took {_said(old)}"
        values, left = _values(old), _values(new)
        if left is not None:
            gone = ["anything"] if values is None else [v for v in values if v not in left]
            if gone:
                yield f"{where}: no longer takes {', '.join(map(str, gone))}"

    def _takes(self, old: Schema, new: Schema) -> bool:
        trial = _Comparison(self._old, self._new)
        trial._seen = set(self._seen)
        return not any(trial._compared(old, new, ""))

    def _bounds(self, old: Schema, new: Schema, where: str) -> Iterator[str]:
        for name in _LOWER:
            if name in new and new[name] > old.get(name, float("-inf")):
                yield f"{where}: {name} is {new[name]} now, was {old.get(name, 'none')}"
        for name in _UPPER:
            if name in new and new[name] < old.get(name, float("inf")):
                yield f"{where}: {name} is {new[name]} now, was {old.get(name, 'none')}"
        for name in _EXACT:
            if name in new and new[name] != old.get(name):
                yield f"{where}: {name} is {new[name]} now, was {old.get(name, 'none')}"

    def _object(self, old: Schema, new: Schema, where: str) -> Iterator[str]:
        for name in sorted(set(new.get("required", ())) - set(old.get("required", ()))):
            yield f"{where}.{name}: is required now"
        before, after = old.get("properties", {}), new.get("properties", {})
        for name in sorted(before):
            if name in after:
                yield from self._compared(before[name], after[name], f"{where}.{name}")
            elif new.get("additionalProperties", True) is False:
                yield f"{where}.{name}: is no longer taken"
        others, more = old.get("additionalProperties", True), new.get("additionalProperties", True)
        if others is not False:
            yield from self._compared(others, more, f"{where}.*")

    def _items(self, old: Schema, new: Schema, where: str) -> Iterator[str]:
        if "items" in new:
            yield from self._compared(old.get("items", True), new["items"], f"{where}[]")


def _resolved(schema: Schema, document: Schema) -> Schema:
    reference = schema.get("$ref")
    if not isinstance(reference, str):
        return schema
    found: Schema = document.get("$defs", {}).get(reference.rsplit("/", 1)[-1], {})
    return found


def _kinds(schema: Schema) -> set[str] | None:
    """Return the JSON types that *schema* takes, None for any; a number is an integer too."""
    kind = schema.get("type")
    if kind is None:
        return None
    kinds = {kind} if isinstance(kind, str) else set(kind)
    return kinds | ({"integer"} if "number" in kinds else set())


def _values(schema: Schema) -> list[Any] | None:
    """Return the only values that *schema* takes, None where they are not listed."""
    found: list[Any] | None = [schema["const"]] if "const" in schema else schema.get("enum")
    return found


def _said(schema: Any) -> str:
    if not isinstance(schema, Mapping):
        return "anything" if schema is True else "nothing"
    if "anyOf" in schema:
        return " or ".join(map(_said, schema["anyOf"]))
    return str(schema.get("type") or schema.get("$ref", "anything"))

"""
What a Sentry event loses before it is serialised: secrets, by the one place that knows them, and
the length of what exceptions say.
"""

from collections.abc import Mapping
from typing import Any, Final

from sentry_sdk._types import AnnotatedValue

from tracebaton.redaction import Limits, redact_value

__all__ = ["mask_event"]

#: The sections of a Sentry event that hold text of an application or its callers.
_SECTIONS: Final = (
    "breadcrumbs",
    "contexts",
    "exception",
    "extra",
    "logentry",
    "message",
    "request",
    "spans",
    "tags",
    "threads",
    "transaction",
    "user",
)
#: Wide enough for a thousand spans and every frame of a stack: Sentry has limits of its own.
_EVENT: Final = Limits(text=16_384, depth=16, items=2_000, nodes=200_000)
#: Characters of the message of what was raised, and of each cause of it: a statement or a document
#: in a message is not what tells one failure from another.
_RAISED, _CAUSE = 2_048, 500
#: Ids, and Sentry's own bookkeeping, which no secret gets into.
_OWN_CONTEXTS: Final = frozenset({"trace", "profile", "runtime"})


def mask_event(event: dict[str, Any]) -> dict[str, Any]:
    """Mask the texts of a Sentry *event*, in place, and shorten what its exceptions say."""
    for section in _SECTIONS:
        if section in event:
            event[section] = _masked(section, event[section])
    _shorten(event.get("exception"))  # now that no half of a secret can be left of it
    return event


def _shorten(exception: Any) -> None:
    """Shorten the messages of an *exception* section, in which what was raised comes last."""
    values: Any = exception.get("values") if isinstance(exception, Mapping) else None
    chain: list[Any] = values if isinstance(values, list) else []
    for place, value in enumerate(reversed(chain)):
        limit = _CAUSE if place else _RAISED
        text: Any = value.get("value") if isinstance(value, Mapping) else None
        if isinstance(text, str) and len(text) > limit:
            value["value"] = f"{text[: limit - 1]}…"


def _masked(name: str, value: Any, depth: int = 0) -> Any:
    """
    Return *value* masked; what is neither text nor a container stays the object it is.

    The SDK serialises afterwards and writes moments and its own annotated values in its own way.
    """
    if isinstance(value, str):
        return redact_value(name, value, limits=_EVENT)
    if depth >= _EVENT.depth:
        return (
            value if isinstance(value, int | float | bool | None) else f"<{type(value).__name__}>"
        )
    if isinstance(value, Mapping):
        return {
            key: part if key in _OWN_CONTEXTS else _masked(str(key), part, depth + 1)
            for key, part in value.items()
        }
    if isinstance(value, list | tuple):
        return [_masked(name, part, depth + 1) for part in value]
    if isinstance(value, AnnotatedValue):
        value.value = _masked(name, value.value, depth + 1)
        return value
    return redact_value(name, value) if isinstance(value, int | bytes) else value

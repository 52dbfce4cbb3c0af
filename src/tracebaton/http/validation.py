"""
Validation errors for the caller: where in the document, and what is wrong, never what was sent.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, get_args

from pydantic_core.core_schema import ErrorType

__all__ = ["field_errors"]

#: Entries of one answer: a megabyte of wrong items would come back as many.
LIMIT: Final = 100
#: Characters of one pointer; keys are the caller's.
_POINTER: Final = 256
_ANYTHING: Final = "The value is not valid."
#: pydantic's own messages describe the rule. Those below carry a text of the model's author, or the
#: input's own tag, and may repeat what was sent.
_FREE_TEXT: Final = {"value_error", "assertion_error", "union_tag_invalid"}
_KNOWN: Final = set(get_args(ErrorType)) - _FREE_TEXT


def field_errors(
    errors: Sequence[Mapping[str, Any]], document: Any, *, skip: Sequence[str] = ()
) -> list[dict[str, str]]:
    """
    Return *errors*, as pydantic lists them, in the form of RFC 9457's ``errors``.

    Args:
        document: What was validated; it tells path segments from names of union branches.
        skip: A first segment that is not part of the document, as FastAPI's ``body``.
    """
    found = []
    for error in errors[:LIMIT]:
        location = list(error["loc"])
        inside = not skip or location[:1] == list(skip)
        if skip and inside:
            location = location[1:]
        pointer = _pointer(location, document, error["type"]) if inside else _plain(location)
        found.append({"pointer": pointer[:_POINTER], "detail": _detail(error)})
    return found


def _pointer(location: Sequence[int | str], document: Any, kind: str) -> str:
    """Return the RFC 6901 pointer to *location*, without pydantic's names of union branches."""
    node, path = document, []
    for index, segment in enumerate(location):
        if _has(node, segment):
            node = node[segment]
        elif kind != "missing" or index < len(location) - 1:
            continue
        path.append(segment)
    return _plain(path)


def _has(node: Any, segment: int | str) -> bool:
    if isinstance(node, list):
        return isinstance(segment, int) and segment < len(node)
    return isinstance(node, Mapping) and segment in node


def _plain(segments: Sequence[int | str]) -> str:
    return "".join(f"/{str(s).replace('~', '~0').replace('/', '~1')}" for s in segments)


def _detail(error: Mapping[str, Any]) -> str:
    message = str(error["msg"])
    if error["type"] in _KNOWN:
        return message
    repeated = any(
        re.search(rf"(?<!\w){re.escape(text)}(?!\w)", message)
        for text in _leaves(error.get("input"))
    )
    return _ANYTHING if repeated else message.removeprefix("Value error, ")


def _leaves(value: Any) -> Iterator[str]:
    """Return every scalar of *value* as text, keys left out."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Mapping):
            waiting.extend(item.values())
        elif isinstance(item, list | tuple):
            waiting.extend(item)
        elif item is not None and str(item):
            yield str(item)

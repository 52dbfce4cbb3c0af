"""
What an audit event says of arguments and results: by name, and in constant time.

Nothing here runs foreign code: no ``__repr__``, ``__len__`` or ``__iter__`` of a class that is not
Python's own, and no more than the first keys of what is. A string is shown only where its name
says that it is an id or a choice of few; of every other one, type and length.
"""

import inspect
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from itertools import islice
from types import NoneType
from typing import Any, Final
from uuid import UUID

from tracebaton.redaction import MASK, is_clean, is_sensitive, redact_text, redact_value

__all__ = ["Parameters", "summary"]

#: Keys and arguments that are named.
_FIRST: Final = 10
#: Characters of a key that are shown.
_KEY: Final = 40
#: Last segments of the names whose strings are shown.
_SHOWN: Final = ("id", "type", "status", "state", "kind", "mode", "method", "currency", "locale")
_SHOWN_NAME: Final = re.compile(rf"(?:.*_)?(?:{'|'.join(_SHOWN)})")
_IDENTIFIER: Final = re.compile(r"[\w.:\-]{1,64}", re.ASCII)
#: Python's own values that are short whatever they hold, or are cut.
_SCALARS: Final = frozenset({NoneType, bool, int, float, date, datetime, time, timedelta, UUID})
_SIZED: Final = (str, bytes, bytearray, list, tuple, set, frozenset, deque)


class Parameters:
    """The names of a callable's parameters, read once."""

    __slots__ = ("_named", "_rest")

    def __init__(self, function: Callable[..., Any], *, skip: int) -> None:
        """Read the names of *function* without its first *skip* parameters."""
        kinds = inspect.Parameter
        try:
            found = list(inspect.signature(function).parameters.values())[skip:]
        except (TypeError, ValueError):  # a callable that does not tell
            found = []
        positional = {kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD}
        self._named = tuple(one.name for one in found if one.kind in positional)
        rest = [one.name for one in found if one.kind is kinds.VAR_POSITIONAL]
        self._rest = rest[0] if rest else "arguments"

    def summary(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the summary of each argument under its parameter's name."""
        named = {
            name: summary(name, value)
            for name, value in zip(self._named[:_FIRST], args, strict=False)
        }
        if len(args) > len(self._named):
            named[self._rest] = f"{len(args) - len(self._named)} more"
        for name, value in islice(kwargs.items(), _FIRST):
            named[name] = summary(name, value)
        return named


def summary(name: str, value: Any) -> Any:
    """
    Return what an audit event says of *value*, called *name*.

    Raises nothing and costs the same however large *value* is.
    """
    kind = type(value)
    if kind in _SCALARS:
        return value if is_clean(name, value) else redact_value(name, value)
    if is_sensitive(name):
        return MASK
    if kind is str and len(value) <= 64 and _is_shown(name):
        return redact_text(value) if _IDENTIFIER.fullmatch(value) else _sized(str, value)
    if issubclass(kind, dict):
        return _keys(kind, value)
    for sized in _SIZED:
        if issubclass(kind, sized):
            return _sized(sized, value, kind)
    return str(value) if kind is Decimal and len(value.as_tuple().digits) < 40 else _called(kind)


@lru_cache(maxsize=1024)
def _is_shown(name: str) -> bool:
    return _SHOWN_NAME.fullmatch(name) is not None


def _sized(base: type, value: Any, kind: type | None = None) -> str:
    """Return type and length; the length by *base*, which a subclass may not have a say in."""
    return f"{_called(kind or base)} of {base.__len__(value)}"  # type: ignore[attr-defined]


def _keys(kind: type, value: dict[Any, Any]) -> str:
    keys = [
        redact_text(key[:_KEY]) for key in islice(dict.__iter__(value), _FIRST) if type(key) is str
    ]
    text = f"{_called(kind)} of {dict.__len__(value)}"
    return f"{text}: {', '.join(keys)}" if keys else text


def _called(kind: type) -> str:
    return str(type.__getattribute__(kind, "__name__"))

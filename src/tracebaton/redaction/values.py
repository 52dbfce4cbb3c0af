"""Values of any kind as JSON data: secrets masked, size and depth capped."""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from itertools import islice
from typing import Any, Final

from tracebaton.redaction.names import MASK, PLAIN, SECRET_NUMBER, sensitivity
from tracebaton.redaction.text import TEXT_LIMIT, are_clean_texts, redact_text

__all__ = ["Limits", "are_clean", "is_clean", "redact_mapping", "redact_value"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """
    How much of a value is kept.

    Attributes:
        text: Characters of one string.
        depth: Containers inside one another.
        items: Entries of one container.
        nodes: Values in all.
    """

    text: int = TEXT_LIMIT
    depth: int = 8
    items: int = 64
    nodes: int = 1024


_DEFAULT: Final = Limits()
_MOMENTS: Final = (date, datetime, time, timedelta)
#: Characters of a key that are kept.
_KEY: Final = 256
#: Beyond this, Python refuses to write an integer in decimal digits.
_BIG: Final = 10**300


def redact_value(name: str, value: Any, *, limits: Limits = _DEFAULT) -> Any:
    """
    Return *value* as JSON data, masked if *name* is sensitive.

    Numbers, booleans, None and moments stay; strings inside a container that is called by a
    sensitive name are masked one by one. What JSON does not know becomes its ``str()``.
    """
    return _Walk(limits).value(value, sensitivity(name), 0)


def is_clean(name: str, value: Any) -> bool:
    """
    Tell, at little cost, that `redact_value()` would leave *value* as it is.

    False is no verdict: it may still have nothing to mask.
    """
    kind = type(value)
    if kind is str:
        return sensitivity(name) == PLAIN and redact_text(value) is value
    if kind is int:
        return sensitivity(name) != SECRET_NUMBER and -_BIG < value < _BIG
    return kind is bool or value is None or (kind is float and math.isfinite(value))


def are_clean(values: Iterable[Any]) -> bool:
    """
    Tell, at the cost of one, that `redact_value()` would leave each of *values* as it is.

    Their names are not asked, they have to be harmless ones. False is no verdict.
    """
    texts = []
    for value in values:
        kind = type(value)
        if kind is str:
            texts.append(value)
        elif kind is int:
            if not -_BIG < value < _BIG:
                return False
        elif kind is float:
            if not math.isfinite(value):
                return False
        elif kind is not bool and value is not None:
            return False
    return are_clean_texts(texts)


def redact_mapping(mapping: Mapping[Any, Any], *, limits: Limits = _DEFAULT) -> dict[str, Any]:
    """Return *mapping* as JSON data, each value masked by its name and cleaned by its shape."""
    return _Walk(limits).mapping(mapping, PLAIN, 0)


class _Walk:
    """One value's way through the caps."""

    __slots__ = ("left", "limits")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.left = limits.nodes

    def value(self, value: Any, secret: int, depth: int) -> Any:
        """Return *value* as JSON data; *secret* is what its name says."""
        self.left -= 1
        if isinstance(value, str):
            return MASK if secret and value.strip() else redact_text(value, limit=self.limits.text)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            return self._integer(value, secret)
        if isinstance(value, float):
            return value if math.isfinite(value) else str(value)  # JSON has no NaN
        if isinstance(value, _MOMENTS):
            return str(value)
        try:
            return self._other(value, secret, depth)
        except Exception as exc:  # foreign code: a bad __str__ or __len__ must not cost the line
            return f"<{type(value).__name__} that raises {type(exc).__name__}>"

    def _integer(self, value: int, secret: int) -> int | str:
        if secret == SECRET_NUMBER:
            return MASK
        return value if -_BIG < value < _BIG else f"<int of {value.bit_length()} bits>"

    def _other(self, value: Any, secret: int, depth: int) -> Any:
        if isinstance(value, bytes | bytearray | memoryview):
            return MASK if secret else f"<{len(value)} bytes>"
        is_mapping = isinstance(value, Mapping)
        if not is_mapping and not isinstance(value, list | tuple | set | frozenset | deque):
            return MASK if secret else redact_text(str(value), limit=self.limits.text)
        if depth >= self.limits.depth or self.left <= 0:
            return f"<{type(value).__name__} of {len(value)}>"
        if is_mapping:
            return self.mapping(value, secret, depth)
        if (
            len(value) == 2
            and isinstance(value, list | tuple)
            and isinstance(value[0], str | bytes)
        ):
            return self._pair(value[0], value[1], secret, depth)
        room = min(self.limits.items, self.left)
        kept = [self.value(item, secret, depth + 1) for item in islice(value, room)]
        return kept if len(kept) == len(value) else [*kept, f"… {len(value) - len(kept)} more"]

    def _pair(self, first: str | bytes, second: Any, secret: int, depth: int) -> list[Any]:
        """Return two values, of which the first may be the second's name: a header's, say."""
        name = first if isinstance(first, str) else first[:_KEY].decode("latin-1")
        own = secret or (sensitivity(name) if isinstance(second, str | bytes) else PLAIN)
        return [self.value(first, secret, depth + 1), self.value(second, own, depth + 1)]

    def mapping(self, mapping: Mapping[Any, Any], secret: int, depth: int) -> dict[str, Any]:
        """Return the first entries of *mapping* under string keys."""
        kept: dict[str, Any] = {}
        for key, value in islice(mapping.items(), max(1, min(self.limits.items, self.left))):
            name = key if isinstance(key, str) else str(key)
            own = secret or sensitivity(name)
            if len(name) > _KEY:
                name = name[:_KEY]
            if own == PLAIN and type(value) is str:  # most of what there is, so not one call more
                kept[name] = redact_text(value, limit=self.limits.text)
            elif own == PLAIN and type(value) is int and -_BIG < value < _BIG:
                kept[name] = value
            else:
                kept[name] = self.value(value, own, depth + 1)
        if len(mapping) > len(kept):
            kept["…"] = f"{len(mapping) - len(kept)} more"
        return kept

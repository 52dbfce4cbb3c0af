"""What is remembered for a while only."""

from collections import OrderedDict
from typing import Generic, TypeVar

__all__ = ["Recent"]

Key = TypeVar("Key")
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """
    Values that are forgotten *seconds* after they were put in.

    Each call forgets what is due first, so nothing old is kept for longer than the queue is idle.
    """

    __slots__ = ("_seconds", "_values")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        # Linked, unlike a dict: looking for the first stays O(1) after many were taken.
        self._values: OrderedDict[Key, tuple[float, Value]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def put(self, key: Key, value: Value, now: float) -> None:
        """Remember *value* from *now* on."""
        self._forget(now)
        self._values.pop(key, None)
        self._values[key] = (now, value)

    def get(self, key: Key, now: float) -> Value | None:
        """Return what was put in under *key*, None if that is too long ago."""
        self._forget(now)
        entry = self._values.get(key)
        return entry[1] if entry is not None else None

    def _forget(self, now: float) -> None:
        values, oldest = self._values, now - self._seconds
        while values and next(iter(values.values()))[0] <= oldest:
            values.popitem(last=False)

"""What is due when: a heap whose entries can be moved and taken out."""

import heapq
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

__all__ = ["Alarms", "Timetable"]

Key = TypeVar("Key")

#: Dead heap entries that are always tolerated, so that small tables are never rebuilt.
_SLACK = 64


class Timetable(Generic[Key]):
    """
    Keys with one due time each, handed out earliest first, equal times in the order of setting.

    Moving and taking out only mark the old heap entry as dead. The heap is rebuilt once more than
    half of it is dead, so every call is O(log n) amortised and nothing deleted is kept alive.
    """

    __slots__ = ("_entries", "_heap", "_serial")

    def __init__(self) -> None:
        self._entries: dict[Key, int] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._serial = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[Key]:
        return iter(self._entries)

    def stamp(self, key: Key) -> int | None:
        """Return a number that is another after each ``set``, None if *key* is not in."""
        return self._entries.get(key)

    def set(self, key: Key, due: float) -> None:
        """Put *key* at *due*, wherever it was before."""
        self._serial += 1
        self._entries[key] = self._serial
        heapq.heappush(self._heap, (due, self._serial, key))
        self._rebuild()

    def discard(self, key: Key) -> bool:
        """Take *key* out and return whether it was in."""
        if self._entries.pop(key, None) is None:
            return False
        self._rebuild()
        return True

    def due(self) -> float | None:
        """Return when the earliest key is due, None if there is none."""
        heap, entries = self._heap, self._entries
        while heap:
            due, serial, key = heap[0]
            if entries.get(key) == serial:
                return due
            heapq.heappop(heap)
        return None

    def pop(self, now: float) -> Key | None:
        """Take out and return the earliest key due at *now* or before, None if there is none."""
        if not self._entries:
            return None
        due = self.due()
        if due is None or due > now:
            return None
        key = heapq.heappop(self._heap)[2]
        del self._entries[key]
        return key

    def _rebuild(self) -> None:
        if len(self._heap) <= 2 * len(self._entries) + _SLACK:
            return
        entries = self._entries
        self._heap = [entry for entry in self._heap if entries.get(entry[2]) == entry[1]]
        heapq.heapify(self._heap)


class Alarms(Timetable[Callable[[], None]]):
    """Functions to call when the clock reaches their time, each at most once."""

    __slots__ = ()

    def ring(self, now: float) -> None:
        """Call what is due at *now*, including what those calls set to *now* or before."""
        while (alarm := self.pop(now)) is not None:
            alarm()

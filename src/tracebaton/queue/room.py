"""
Room: how many messages a worker holds, shared out among its queues.

A free place goes to the queue that has the fewest in use for its weight, of those that ask. One
place is kept for every queue that uses none, so that none ever waits for another's handlers.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

__all__ = ["Room", "Share"]

#: Seconds in which places that come back one by one are gathered for one receive, and how many of
#: all are worth one at once. A full worker loses nothing by it: a receive a place would cost more.
_GATHER: Final = 0.01
_WORTH: Final = 0.1


@dataclass(slots=True, eq=False)
class _Asking:
    share: "Share"
    most: int
    granted: "asyncio.Future[int]"
    places: int = 0


class Room:
    """The places of one worker."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._free = size
        self._shares: list[Share] = []
        self._asking: list[_Asking] = []
        self._due: asyncio.Handle | None = None

    @property
    def in_use(self) -> int:
        """Return how many places are taken or promised to a poll."""
        return self.size - self._free

    def share(self, weight: int = 1) -> "Share":
        """Return the share of one more queue."""
        share = Share(self, weight)
        self._shares.append(share)
        return share

    def ask(self, share: "Share", most: int) -> "asyncio.Future[int]":
        """Ask for up to *most* places of *share*."""
        asking = _Asking(share, most, asyncio.get_running_loop().create_future())
        self._asking.append(asking)
        if self._worth(self._asking[0]):
            self._grant()
        elif self._free:
            self._gather()
        return asking.granted

    def withdraw(self, granted: "asyncio.Future[int]", share: "Share") -> None:
        """Take back what was asked, and what was granted meanwhile."""
        if granted.done():
            self.give_back(share, granted.result())
        self._asking = [asking for asking in self._asking if asking.granted is not granted]

    def give_back(self, share: "Share", places: int) -> None:
        """Return *places* of *share*."""
        share.in_use -= places
        self._free += places
        if not self._asking:
            return
        if not self._worth(self._asking[0]):
            self._gather()
        elif self._due is None or isinstance(self._due, asyncio.TimerHandle):
            # A turn of the loop later, when all that ended in this one has given back: a poll then
            # asks SQS for ten at once and not for the first one alone.
            self._cancel()
            self._due = asyncio.get_running_loop().call_soon(self._grant)

    def _worth(self, asking: _Asking) -> bool:
        """Tell whether the free places are worth *asking*'s receive; beside others each one is."""
        if len(self._shares) > 1:
            return True
        return self._free >= max(1, min(asking.most, int(self.size * _WORTH)))

    def _gather(self) -> None:
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(_GATHER, self._grant)

    def _cancel(self) -> None:
        if self._due is not None:
            self._due.cancel()
        self._due = None

    def _grant(self) -> None:
        self._cancel()
        if len(self._shares) == 1:  # no other queue to be fair to
            for number, asking in enumerate(self._asking):
                if number == 0 or self._worth(asking):
                    self._promise(asking, min(asking.most, self._free))
        else:
            while (chosen := self._next()) is not None:
                self._promise(chosen, 1)
        for asking in self._asking:
            if asking.places:
                asking.granted.set_result(asking.places)
        self._asking = [asking for asking in self._asking if not asking.places]
        if self._asking and self._free and len(self._shares) == 1:
            self._gather()

    def _promise(self, asking: _Asking, places: int) -> None:
        asking.places += places
        asking.share.in_use += places
        self._free -= places

    def _next(self) -> _Asking | None:
        """Return who gets the next free place."""
        may = [
            asking
            for asking in self._asking
            if asking.places < asking.most and self._free > self._kept_from(asking.share)
        ]
        return min(may, key=lambda asking: asking.share.in_use / asking.share.weight, default=None)

    def _kept_from(self, share: "Share") -> int:
        return sum(other.in_use == 0 for other in self._shares if other is not share)


class Share:
    """One queue's share of the room."""

    def __init__(self, room: Room, weight: int) -> None:
        self.weight = weight
        self.in_use = 0
        self._room = room

    @property
    def alone(self) -> bool:
        """Tell whether no other queue wants the room."""
        return len(self._room._shares) == 1

    def ask(self, most: int) -> "asyncio.Future[int]":
        """Ask for up to *most* places; the future says how many there are, at least one."""
        return self._room.ask(self, most)

    def withdraw(self, granted: "asyncio.Future[int]") -> None:
        """Take back what was asked."""
        self._room.withdraw(granted, self)

    def give_back(self, places: int) -> None:
        """Return *places*."""
        self._room.give_back(self, places)

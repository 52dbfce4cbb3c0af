"""The order in which the visible messages of a FIFO queue get their turn."""

import math
from collections import OrderedDict
from random import Random

from tracebaton.local.message import Message
from tracebaton.local.timetable import Timetable

__all__ = ["Groups"]


class _Group:
    """The messages of one group, visible and in flight ones, each kind in the order of sending."""

    __slots__ = ("held", "waiting")

    def __init__(self) -> None:
        self.waiting: Timetable[Message] = Timetable()
        self.held: Timetable[Message] = Timetable()

    def ready(self) -> bool:
        """Return whether the first message of all is a visible one."""
        first, held = self.waiting.due(), self.held.due()
        return first is not None and (held is None or first < held)


class Groups:
    """
    The visible messages of a FIFO queue: of each group only those before any that is in flight.

    So a message is never handed out while one that was sent before it in its group is in other
    hands; one that comes back goes to its old place. ``pop()`` empties a group before it turns to
    the next, and a group that was locked goes to the end of the line.
    """

    __slots__ = ("_count", "_groups", "_ready")

    def __init__(self) -> None:
        self._count = 0
        self._groups: dict[str, _Group] = {}
        self._ready: OrderedDict[str, _Group] = OrderedDict()

    def __len__(self) -> int:
        return self._count

    def ready(self) -> bool:
        """Return whether ``pop()`` has a message to give."""
        return bool(self._ready)

    def push(self, message: Message) -> None:
        """Put *message* into its place in its group: it is new, or visible again."""
        group = self._groups.setdefault(_name(message), _Group())
        group.held.discard(message)
        group.waiting.set(message, message.sequence)
        self._count += 1
        self._changed(message, group)

    def pop(self) -> Message | None:
        """Take out and return the next message; what its group holds follows at once."""
        if not self._ready:
            return None
        group = next(iter(self._ready.values()))
        message = group.waiting.pop(math.inf)
        assert message is not None
        self._count -= 1
        if not group.ready():
            del self._ready[_name(message)]
        return message

    def hold(self, message: Message) -> None:
        """Lock the group of *message*, which was popped, behind it."""
        group = self._groups[_name(message)]
        group.held.set(message, message.sequence)
        self._changed(message, group)

    def discard(self, message: Message) -> None:
        """Forget *message*: what waited behind it may go on."""
        group = self._groups[_name(message)]
        self._count -= group.waiting.discard(message)
        group.held.discard(message)
        self._changed(message, group)

    def repeat(self, message: Message) -> bool:
        """Refuse: what is locked stays so."""
        return False

    def shuffle(self, random: Random) -> bool:
        """Refuse: the order is what this is for."""
        return False

    def _changed(self, message: Message, group: _Group) -> None:
        name = _name(message)
        if group.ready():
            self._ready.setdefault(name, group)
            return
        self._ready.pop(name, None)
        if not group.waiting and not group.held:
            del self._groups[name]


def _name(message: Message) -> str:
    return message.content.group_id or ""

"""The order in which visible messages, and the receives that wait for them, get their turn."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final, Protocol

from tracebaton.local.message import Message
from tracebaton.local.refusal import Refusal
from tracebaton.local.timetable import Timetable

__all__ = ["Arrivals", "Line", "Poll", "Polls"]


#: Messages that overtake others at once: as many as one receive takes.
_SHUFFLED: Final = 10


class Line(Protocol):
    """The visible messages of a queue."""

    def __len__(self) -> int: ...

    def ready(self) -> bool:
        """Return whether ``pop()`` has a message to give."""
        ...

    def push(self, message: Message) -> None:
        """Put *message* into its place: it is new, or visible again."""
        ...

    def pop(self) -> Message | None:
        """Take out and return the next message, None if there is none to give."""
        ...

    def hold(self, message: Message) -> None:
        """Take note that *message*, which was popped, is in flight."""
        ...

    def discard(self, message: Message) -> None:
        """Forget *message*, visible or in flight."""
        ...

    def repeat(self, message: Message) -> bool:
        """Let the next ``pop()`` give *message*, in flight, again; return whether this can be."""
        ...

    def shuffle(self, random: Random) -> bool:
        """Let the last messages overtake, in an order of *random*; return whether this can be."""
        ...


class Arrivals:
    """The visible messages of a standard queue, first come, first out."""

    __slots__ = ("_messages", "_repeated")

    def __init__(self) -> None:
        # Linked, unlike a dict: taking the first stays O(1) after many were taken.
        self._messages: OrderedDict[str, Message] = OrderedDict()
        self._repeated: OrderedDict[str, Message] = OrderedDict()

    def __len__(self) -> int:
        return len(self._messages)

    def ready(self) -> bool:
        """Return whether there is any message."""
        return bool(self._messages or self._repeated)

    def push(self, message: Message) -> None:
        """Put *message* at the end; nobody holds it by a second handle any more."""
        self._messages[message.id] = message
        message.twin = ""
        if self._repeated:
            self._repeated.pop(message.id, None)

    def pop(self) -> Message | None:
        """Take out and return the first message."""
        if self._repeated:
            return self._repeated.popitem(last=False)[1]
        return self._messages.popitem(last=False)[1] if self._messages else None

    def hold(self, message: Message) -> None:
        """Do nothing: messages in flight hold nobody back."""

    def discard(self, message: Message) -> None:
        """Take *message* out if it is in."""
        self._messages.pop(message.id, None)
        if self._repeated:
            self._repeated.pop(message.id, None)

    def repeat(self, message: Message) -> bool:
        """Give *message* once more before any other; its handle stays good."""
        message.twin = message.handle
        self._repeated[message.id] = message
        return True

    def shuffle(self, random: Random) -> bool:
        """Put up to ten of the last messages first."""
        messages = self._messages
        last = [messages.popitem()[1] for _ in range(min(_SHUFFLED, len(messages)))]
        random.shuffle(last)
        for message in last:
            messages[message.id] = message
            messages.move_to_end(message.id, last=False)
        return len(last) > 1


@dataclass(slots=True, eq=False, kw_only=True)
class Poll:
    """
    A receive that waits.

    Attributes:
        alive: Says whether the client is still there; asked before a message is handed out.
        finish: Called once with what was received, which may be nothing. It must not call back
            into the queue.
        refuse: Called instead of *finish* when the queue is deleted.
        attempt: The ``ReceiveRequestAttemptId``, for FIFO queues.
    """

    most: int
    visibility: int
    alive: Callable[[], bool]
    finish: Callable[[list[Message]], None]
    refuse: Callable[[Refusal], None]
    attempt: str | None = None


class Polls:
    """The polls that wait on a queue, first come, first served."""

    __slots__ = ("_ends", "_waiting")

    def __init__(self) -> None:
        self._waiting: OrderedDict[Poll, None] = OrderedDict()
        self._ends: Timetable[Poll] = Timetable()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, poll: Poll, end: float) -> None:
        """Let *poll* wait until *end*."""
        self._waiting[poll] = None
        self._ends.set(poll, end)

    def first(self) -> Poll:
        """Return the poll that waits longest."""
        return next(iter(self._waiting))

    def discard(self, poll: Poll) -> None:
        """Take *poll* out if it is in."""
        self._waiting.pop(poll, None)
        self._ends.discard(poll)

    def due(self) -> float | None:
        """Return when the next wait is over."""
        return self._ends.due()

    def pop_ended(self, now: float) -> Poll | None:
        """Take out and return a poll whose wait is over at *now*."""
        poll = self._ends.pop(now)
        if poll is not None:
            del self._waiting[poll]
        return poll

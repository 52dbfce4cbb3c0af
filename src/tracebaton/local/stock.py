"""Where the messages of one queue are: visible, in flight or delayed."""

from tracebaton.local.line import Line
from tracebaton.local.message import Message
from tracebaton.local.timetable import Timetable

__all__ = ["Stock"]


class Stock:
    """
    The messages of a queue, each in exactly one place but for the moment it is handed out.

    Attributes:
        line: The visible ones, in the order in which they are handed out.
        delayed, in_flight: The invisible ones, by the time at which they become visible.
    """

    __slots__ = ("_ages", "_messages", "delayed", "in_flight", "line")

    def __init__(self, line: Line) -> None:
        self.line: Line = line
        self.delayed: Timetable[Message] = Timetable()
        self.in_flight: Timetable[Message] = Timetable()
        self._ages: Timetable[Message] = Timetable()
        self._messages: dict[str, Message] = {}

    def __len__(self) -> int:
        return len(self._messages)

    def __contains__(self, message_id: str) -> bool:
        return message_id in self._messages

    def get(self, message_id: str) -> Message | None:
        """Return the message of *message_id*, None if it is not here."""
        return self._messages.get(message_id)

    def add(self, message: Message, due: float | None) -> None:
        """Take in *message*, visible or delayed until *due*."""
        self._messages[message.id] = message
        self._ages.set(message, message.sent)
        if due is None:
            self.line.push(message)
        else:
            self.delayed.set(message, due)

    def remove(self, message: Message) -> None:
        """Forget *message*, wherever it is."""
        del self._messages[message.id]
        self._ages.discard(message)
        self.delayed.discard(message)
        self.in_flight.discard(message)
        self.line.discard(message)

    def catch_up(self, now: float, oldest: float) -> int:
        """
        Make visible what is due at *now* and forget what was sent at *oldest* or before.

        Returns:
            How many messages were forgotten.
        """
        while (message := self.delayed.pop(now)) is not None:
            self.line.push(message)
        while (message := self.in_flight.pop(now)) is not None:
            self.line.push(message)
        expired = 0
        while (message := self._ages.pop(oldest)) is not None:
            self.remove(message)
            expired += 1
        return expired

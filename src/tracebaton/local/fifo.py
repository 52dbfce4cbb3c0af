"""A FIFO queue: order inside each group, deduplication, receives that can be repeated."""

import hashlib
from collections.abc import Mapping
from typing import Final

from tracebaton.local.groups import Groups
from tracebaton.local.line import Line, Poll
from tracebaton.local.message import Content, Message, Sent
from tracebaton.local.queue_attributes import Fifo
from tracebaton.local.queues import Queue
from tracebaton.local.recent import Recent
from tracebaton.local.refusal import ExpiredHandle, Refusal, invalid, missing, other_type

__all__ = ["FifoQueue"]

#: Seconds for which a deduplication id, or the id of a receive attempt, is remembered.
_INTERVAL: Final = 300
#: Sequence numbers have 20 digits and gaps, as those of AWS.
_FIRST_SEQUENCE: Final = 18_870_000_000_000_000_000
_SEQUENCE_STEP: Final = 256

#: The messages of a receive, each with what its visibility timeout was then.
_Given = list[tuple[Message, int | None]]


class FifoQueue(Queue):
    """A queue that hands out the messages of a group one after the other, and takes each once."""

    __slots__ = ("_attempts", "_sent", "_sequence")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._sequence = _FIRST_SEQUENCE
        self._sent: Recent[tuple[str | None, str], Sent] = Recent(_INTERVAL)
        self._attempts: Recent[str, _Given] = Recent(_INTERVAL)

    def change(self, given: Mapping[str, str]) -> None:
        """Set the attributes in *given*; a new delay holds for delayed messages too."""
        super().change(given)
        delayed = self.stock.delayed
        for message in list(delayed):
            delayed.set(message, message.sent + self.attributes.delay_seconds)
        self.tick()

    def send(self, content: Content, delay: int | None = None) -> Sent:
        """Add a message, unless its deduplication id was sent within five minutes."""
        refusal = self.lacks(content)
        if refusal is not None:
            raise refusal
        if delay:  # 0 is taken, and means the delay of the queue
            raise other_type(delay, "DelaySeconds")
        self._catch_up()
        now = self.clock.monotonic()
        token = content.deduplication_id or _digest(content)
        by_group = self._fifo.deduplication_scope == "messageGroup"
        key = (content.group_id if by_group else None, token)
        first = self._sent.get(key, now)
        if first is not None:
            self.counters.deduplicated += 1
            return first
        message = Message.new(content, self.clock)
        sent = self._enrolled(message, token)
        self._sent.put(key, sent, now)
        self.counters.sent += 1
        self._add(message, self.attributes.delay_seconds)
        return sent

    def lacks(self, content: Content) -> Refusal | None:
        """Return the refusal of a message without a group or a deduplication id."""
        if content.group_id is None:
            return missing("MessageGroupId")
        if content.deduplication_id is None and not self._fifo.content_based_deduplication:
            text = "The queue should either have ContentBasedDeduplication enabled or "
            text += "MessageDeduplicationId provided explicitly"
            return Refusal("InvalidParameterValueException", text)
        return None

    def receive(self, most: int, visibility: int, attempt: str | None = None) -> list[Message]:
        """Hand out messages, or once more those of the same *attempt*."""
        return self._again(attempt, visibility) or super().receive(most, visibility, attempt)

    def park(self, poll: Poll, seconds: float) -> None:
        """Let *poll* wait, unless its attempt was answered before."""
        messages = self._again(poll.attempt, poll.visibility)
        if messages:
            poll.finish(messages)
        else:
            super().park(poll, seconds)

    def purge(self) -> None:
        """Forget every message, and that they were sent."""
        super().purge()
        self._sent = Recent(_INTERVAL)

    def put_in(self, message: Message) -> None:
        """Add a message that comes from another queue, as if it was sent now."""
        message.sent = self.clock.monotonic()
        message.sent_at = int(self.clock.wall() * 1000)
        # Developer guide: else two messages that share an id could not both be in a DLQ.
        self._enrolled(message, message.id)
        message.receives_here = 0
        self.counters.moved_in += 1
        self._add(message, self.attributes.delay_seconds)

    @property
    def _fifo(self) -> Fifo:
        assert self.attributes.fifo is not None
        return self.attributes.fifo

    def _new_line(self) -> Line:
        return Groups()

    def _enrolled(self, message: Message, token: str) -> Sent:
        self._sequence += _SEQUENCE_STEP
        message.sequence = self._sequence
        message.deduplication_id = token
        return Sent(message.id, message.sequence_number)

    def _again(self, attempt: str | None, visibility: int) -> list[Message]:
        if attempt is None:
            return []
        self._catch_up()
        now, in_flight = self.clock.monotonic(), self.stock.in_flight
        given = self._attempts.get(attempt, now) or []
        if any(stamp is None or in_flight.stamp(message) != stamp for message, stamp in given):
            reason = "The receiveRequestAttemptId is not valid anymore since the receive call is "
            raise invalid(attempt, "ReceiveRequestAttemptId", f"{reason}not retryable.")
        messages = [message for message, _ in given]
        for message in messages:
            in_flight.set(message, now + visibility)
        given[:] = self._stamped(messages)
        return messages

    def _stamped(self, messages: list[Message]) -> _Given:
        return [(message, self.stock.in_flight.stamp(message)) for message in messages]

    def _take(self, most: int, visibility: int, attempt: str | None) -> list[Message]:
        messages = super()._take(most, visibility, attempt)
        if attempt is not None and messages:
            self._attempts.put(attempt, self._stamped(messages), self.clock.monotonic())
        return messages

    def _check_limit(self) -> None:
        """A FIFO queue at its limit answers with no messages, not with OverLimit (quotas)."""

    def _held(self, handle: str) -> Message | None:
        message = self.receipts.read(handle, self.stock)
        if message is not None and (
            message.handle != handle or message not in self.stock.in_flight
        ):
            raise ExpiredHandle(handle)
        return message


def _digest(content: Content) -> str:
    return hashlib.sha256(content.body.encode()).hexdigest()

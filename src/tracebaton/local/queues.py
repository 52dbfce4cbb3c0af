"""
One queue: visibility, receipt handles, delays, retention, redrive and long polls.

Pure and synchronous: time comes from a clock, waiting is a callback, and no call looks at more
messages than it hands out, moves or forgets, however many the queue holds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from tracebaton.local.clock import Clock
from tracebaton.local.counters import Counters
from tracebaton.local.line import Arrivals, Line, Poll, Polls
from tracebaton.local.message import Content, Message, Sent
from tracebaton.local.queue_attributes import QueueAttributes
from tracebaton.local.receipts import Receipts
from tracebaton.local.refusal import Refusal, invalid, other_type
from tracebaton.local.stock import Stock
from tracebaton.local.timetable import Alarms

__all__ = ["IN_FLIGHT_LIMIT", "Queue"]

#: Messages of a queue, standard or FIFO, that may be in flight at once.
IN_FLIGHT_LIMIT: Final = 120_000
#: Seconds a message may stay invisible in all, counted from its receive.
_LONGEST_VISIBILITY: Final = 43_200
#: Seconds between two purges of a queue.
_PURGE_INTERVAL: Final = 60


@dataclass(slots=True, eq=False, kw_only=True)
class Queue:
    """
    A standard queue; ``FifoQueue`` is one that keeps an order.

    Attributes:
        find: Returns the queue of an ARN: where a redrive policy moves a message.
    """

    name: str
    arn: str
    attributes: QueueAttributes
    clock: Clock
    alarms: Alarms
    find: Callable[[str], "Queue | None"]
    in_flight_limit: int = IN_FLIGHT_LIMIT
    tags: dict[str, str] = field(default_factory=dict)
    counters: Counters = field(default_factory=Counters)
    created_at: int = field(init=False)
    modified_at: int = field(init=False)
    stock: Stock = field(init=False)
    receipts: Receipts = field(init=False, default_factory=Receipts)
    _polls: Polls = field(init=False, default_factory=Polls)
    _purged: float | None = field(init=False, default=None)
    #: While polls wait; asked first, so that calls on a queue without any stay cheap.
    _alarmed: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.created_at = self.modified_at = int(self.clock.wall())
        self.stock = Stock(self._new_line())

    def counts(self) -> Mapping[str, int]:
        """Return how many messages are visible, in flight and delayed, and how many polls wait."""
        self._catch_up()
        return {
            "visible": len(self.stock.line),
            "in_flight": len(self.stock.in_flight),
            "delayed": len(self.stock.delayed),
            "waiting": len(self._polls),
        }

    def change(self, given: Mapping[str, str]) -> None:
        """Set the attributes in *given*; a delay or a timeout that runs already stays as it is."""
        self.attributes = self.attributes.changed(given)
        self.modified_at = int(self.clock.wall())

    def send(self, content: Content, delay: int | None = None) -> Sent:
        """Add a message; *delay* seconds beat the delay of the queue."""
        if content.deduplication_id is not None:
            raise other_type(content.deduplication_id, "MessageDeduplicationId")
        self._catch_up()
        message = Message.new(content, self.clock)
        self.counters.sent += 1
        self._add(message, self.attributes.delay_seconds if delay is None else delay)
        return Sent(message.id)

    def lacks(self, content: Content) -> Refusal | None:
        """Return the refusal of a message without an id that this type of queue needs."""
        return None

    def receive(self, most: int, visibility: int, attempt: str | None = None) -> list[Message]:
        """
        Hand out up to *most* messages and hide them for *visibility* seconds.

        Args:
            attempt: The ``ReceiveRequestAttemptId``; a standard queue passes over it, as AWS does.
        """
        self._catch_up()
        messages = self._take(most, visibility, attempt)
        if not messages:
            self._check_limit()
            self.counters.empty_receives += 1
        if self._alarmed:
            self._set_alarm()
        return messages

    @property
    def full(self) -> bool:
        """Return whether no more messages may be in flight."""
        return len(self.stock.in_flight) >= self.in_flight_limit

    def park(self, poll: Poll, seconds: float) -> None:
        """Let *poll* wait for messages, up to *seconds*."""
        self._polls.add(poll, self.clock.monotonic() + seconds)
        self.tick()

    def unpark(self, poll: Poll) -> None:
        """Forget *poll* without an answer; it may have been answered already."""
        self._polls.discard(poll)
        self._set_alarm()

    def delete(self, handle: str) -> None:
        """Delete the message of *handle*; one that is gone already is no error."""
        self._catch_up()
        message = self._held(handle)
        if message is not None:
            self.stock.remove(message)
            self.counters.deleted += 1
            self._wake()  # a queue full of messages in flight has room again

    def change_visibility(self, handle: str, seconds: int) -> None:
        """Hide the message of *handle* for *seconds* from now; 0 makes it visible."""
        self._catch_up()
        message = self._held(handle)
        if message is None:
            reason = "Message does not exist or is not available for visibility timeout change."
            raise invalid(handle, "ReceiptHandle", reason)
        if message not in self.stock.in_flight:
            raise Refusal("MessageNotInflight", "The specified message isn't in flight.")
        due = self.clock.monotonic() + seconds
        if due - message.received > _LONGEST_VISIBILITY:
            reason = "Total VisibilityTimeout for the message is beyond the limit "
            raise invalid(seconds, "VisibilityTimeout", f"{reason}[{_LONGEST_VISIBILITY} seconds]")
        self.stock.in_flight.set(message, due)
        self._wake()

    def purge(self) -> None:
        """Forget every message, in flight and delayed ones too."""
        now = self.clock.monotonic()
        if self._purged is not None and now < self._purged + _PURGE_INTERVAL:
            text = f"Only one PurgeQueue operation on {self.name} is allowed every 60 seconds."
            raise Refusal("PurgeQueueInProgress", text)
        self._purged = now
        self.counters.purged += len(self.stock)
        self.stock = Stock(self._new_line())
        self._set_alarm()

    def close(self, refusal: Refusal | None = None) -> None:
        """Answer every waiting poll: with *refusal*, or with nothing received."""
        while self._polls:
            poll = self._polls.first()
            self._polls.discard(poll)
            if refusal is not None:
                poll.refuse(refusal)
            else:
                poll.finish([])
        self._set_alarm()

    def take_out(self) -> Message | None:
        """Take the first visible message away, to put it into another queue."""
        self._catch_up()
        message = self.stock.line.pop()
        if message is not None:
            self.stock.remove(message)
            self.counters.moved_out += 1
        return message

    def put_back(self, message: Message) -> None:
        """Undo ``take_out()``."""
        self.counters.moved_out -= 1
        self._add(message, 0)

    def put_in(self, message: Message) -> None:
        """Add a message that comes from another queue."""
        message.receives_here = 0
        self.counters.moved_in += 1
        self._add(message, 0)

    def tick(self) -> None:
        """Do what is due by now: serve the waiting polls, then end those whose wait is over."""
        self._catch_up()
        self._serve()
        while (poll := self._polls.pop_ended(self.clock.monotonic())) is not None:
            self.counters.empty_receives += 1
            poll.finish([])
        self._set_alarm()

    def _wake(self) -> None:
        if self._alarmed:
            self.tick()

    def _new_line(self) -> Line:
        return Arrivals()

    def _add(self, message: Message, delay: int) -> None:
        self.stock.add(message, self.clock.monotonic() + delay if delay else None)
        if self._alarmed:
            self._serve()
            self._set_alarm()

    def _catch_up(self) -> None:
        now = self.clock.monotonic()
        oldest = now - self.attributes.message_retention_period
        self.counters.expired += self.stock.catch_up(now, oldest)
        if self._alarmed:
            self._serve()

    def _serve(self) -> None:
        while self._polls and self.stock.line.ready() and not self.full:
            poll = self._polls.first()
            # A client that left must not swallow a message.
            alive = poll.alive()
            messages = self._take(poll.most, poll.visibility, poll.attempt) if alive else None
            if messages == []:
                continue  # all that was visible went to the DLQ
            self._polls.discard(poll)
            if messages:
                poll.finish(messages)

    def _take(self, most: int, visibility: int, attempt: str | None) -> list[Message]:
        taken: list[Message] = []
        most = min(most, self.in_flight_limit - len(self.stock.in_flight))
        while len(taken) < most and (message := self.stock.line.pop()) is not None:
            if not self._redriven(message):
                taken.append(message)
        # Marked only now: with a visibility of 0 one receive would get the same message twice.
        for message in taken:
            self._hand_out(message, visibility)
        return taken

    def _redriven(self, message: Message) -> bool:
        policy = self.attributes.redrive_policy
        if policy is None or message.receives_here < policy.max_receive_count:
            return False
        target = self.find(policy.target_arn)
        if target is None or target is self:
            return False  # as long as there is no DLQ, the message stays
        self.stock.remove(message)
        self.counters.moved_out += 1
        message.source_arn = self.arn
        target.put_in(message)
        return True

    def _hand_out(self, message: Message, visibility: int) -> None:
        now = self.clock.monotonic()
        message.receive_count += 1
        message.receives_here += 1
        message.received = now
        self.receipts.write(message)
        if message.first_received_at is None:
            message.first_received_at = int(self.clock.wall() * 1000)
        self.counters.received += 1
        self.counters.redelivered += message.receives_here > 1
        self.stock.in_flight.set(message, now + visibility)
        self.stock.line.hold(message)

    def _check_limit(self) -> None:
        if self.full:
            text = f"Too many messages in flight: {len(self.stock.in_flight)}."
            raise Refusal("OverLimit", text)

    def _held(self, handle: str) -> Message | None:
        message = self.receipts.read(handle, self.stock)
        if message is not None and handle not in (message.handle, message.twin):
            # AWS may also accept it and keep the message; a refusal shows the lost lease.
            raise Refusal("ReceiptHandleIsInvalid", "The receipt handle has expired.")
        return message

    def _set_alarm(self) -> None:
        self._alarmed = bool(self._polls)
        if not self._alarmed:
            self.alarms.discard(self.tick)
            return
        stock = self.stock
        times = (self._polls.due(), stock.delayed.due(), stock.in_flight.due())
        self.alarms.set(self.tick, min(time for time in times if time is not None))

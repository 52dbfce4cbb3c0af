"""A queue with a DLQ against everything a client may do, in any order."""

import json

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tracebaton.local.broker import Broker
from tracebaton.local.clock import ManualClock
from tracebaton.local.line import Poll
from tracebaton.local.message import Content
from tracebaton.local.refusal import Refusal

CONTENT = Content.parse({"MessageBody": "body"})
MOST_RECEIVES = 4
SECONDS = st.integers(0, 40)


class QueueMachine(RuleBasedStateMachine):
    """
    Sends, receives, polls, deletes, changes visibility and moves the clock, and checks that no
    message is lost, that none is given out while it is hidden, and that receive counts only grow.
    """

    def __init__(self):
        super().__init__()
        self.clock = ManualClock()
        self.broker = Broker(self.clock)
        self.dlq = self.broker.create("dlq", {})
        policy = {"deadLetterTargetArn": self.dlq.arn, "maxReceiveCount": MOST_RECEIVES}
        self.queue = self.broker.create("q", {"RedrivePolicy": json.dumps(policy)})
        self.alive: set[str] = set()
        self.hidden: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self.current: dict[str, str] = {}
        self.handles: list[tuple[str, str]] = []
        self.polls: list[Poll] = []

    @rule(delay=SECONDS)
    def send(self, delay):
        message = self.queue.send(CONTENT, delay)
        self.alive.add(message.id)
        if message.id not in self.counts:  # else a poll that waited has it already
            self.hidden[message.id] = self.clock.monotonic() + delay

    @rule(most=st.integers(1, 10), visibility=SECONDS)
    def receive(self, most, visibility):
        messages = self.queue.receive(most, visibility)
        assert len(messages) <= most
        self.given(messages, visibility)

    @rule(visibility=SECONDS, seconds=st.integers(1, 20), there=st.booleans())
    def park(self, visibility, seconds, there):
        poll = Poll(
            most=2,
            visibility=visibility,
            alive=lambda: there,
            finish=lambda messages: self.given(messages, visibility, there=there),
            refuse=self.fail,
        )
        self.polls.append(poll)
        self.queue.park(poll, seconds)

    @rule(data=st.data())
    def disconnect(self, data):
        if self.polls:
            self.queue.unpark(data.draw(st.sampled_from(self.polls)))

    @rule(data=st.data())
    def delete(self, data):
        message, handle = self.draw_handle(data)
        refused = self.refusal(self.queue.delete, handle)
        if handle == "none":
            assert refused == "ReceiptHandleIsInvalid"
        elif self.moved(message) or message not in self.alive:
            assert refused is None  # nothing left to delete
        else:
            valid = self.current[message] == handle
            assert refused == (None if valid else "ReceiptHandleIsInvalid")
            self.alive -= {message} if valid else set()

    @rule(data=st.data(), seconds=SECONDS)
    def change_visibility(self, data, seconds):
        message, handle = self.draw_handle(data)
        before = self.hidden.get(message, 0)
        # Set first: a poll that waits may be given the message inside the call.
        self.hidden[message] = self.clock.monotonic() + seconds
        if self.refusal(self.queue.change_visibility, handle, seconds) is not None:
            self.hidden[message] = before

    @rule(seconds=st.integers(1, 30))
    def advance(self, seconds):
        self.clock.advance(seconds)
        self.broker.tick()

    @invariant()
    def nothing_is_lost(self):
        stats = self.broker.stats()
        there = sum(
            stats[name][state]
            for name in ("q", "dlq")
            for state in ("visible", "in_flight", "delayed")
        )
        assert there == len(self.alive)

    @invariant()
    def no_poll_waits_beside_a_visible_message(self):
        counts = self.queue.counts()
        assert not (counts["waiting"] and counts["visible"])

    def teardown(self):
        for poll in self.polls:
            self.queue.unpark(poll)
        self.clock.advance(1000)
        self.broker.tick()
        seen = {message.id for message in self.drain()}
        assert seen == self.alive

    def drain(self):
        for queue in (self.queue, self.dlq):
            while messages := queue.receive(10, 30):
                yield from messages

    def given(self, messages, visibility, *, there=True):
        now = self.clock.monotonic()
        for message in messages:
            assert there
            assert self.hidden.get(message.id, 0) <= now
            assert message.receive_count == self.counts.get(message.id, 0) + 1 <= MOST_RECEIVES
            self.counts[message.id] = message.receive_count
            self.hidden[message.id] = now + visibility
            self.current[message.id] = message.handle
            self.handles.append((message.id, message.handle))

    def draw_handle(self, data):
        return data.draw(st.sampled_from(self.handles or [("none", "none")]))

    def moved(self, message):
        return message in self.dlq.stock

    def refusal(self, call, *arguments):
        try:
            call(*arguments)
        except Refusal as refusal:
            return refusal.shape
        return None

    def fail(self, refusal):
        raise AssertionError(refusal)


QueueMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_queue = QueueMachine.TestCase

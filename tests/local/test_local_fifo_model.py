"""A FIFO queue with a DLQ against everything a client may do, in any order."""

import json
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tracebaton.local.broker import Broker
from tracebaton.local.clock import ManualClock
from tracebaton.local.line import Poll
from tracebaton.local.message import Content
from tracebaton.local.refusal import Refusal

MOST_RECEIVES = 4
WINDOW = 300
SECONDS = st.integers(0, 40)
GROUPS = st.sampled_from("abc")
ATTEMPTS = st.sampled_from([None, None, "x", "y"])


@dataclass
class Known:
    """What the model knows of one message."""

    group: str
    place: int
    hidden: float = 0.0
    count: int = 0
    handle: str = ""
    touched: int = 0
    deleted: bool = False


@dataclass
class Attempt:
    """What a receive with an id was given, and how often each message had been touched then."""

    at: float
    given: list[tuple[str, int]] = field(default_factory=list)


class FifoMachine(RuleBasedStateMachine):
    """
    Sends, receives, polls, deletes, changes visibility and moves the clock, and checks that no
    message is lost, that each is taken once, and that none is handed out while one that was sent
    before it in its group is in other hands.
    """

    def __init__(self):
        super().__init__()
        self.clock = ManualClock()
        self.broker = Broker(self.clock)
        fifo = {"FifoQueue": "true"}
        self.dlq = self.broker.create("dlq.fifo", fifo)
        policy = {"deadLetterTargetArn": self.dlq.arn, "maxReceiveCount": MOST_RECEIVES}
        self.queue = self.broker.create("q.fifo", {**fifo, "RedrivePolicy": json.dumps(policy)})
        self.known: dict[str, Known] = {}
        self.tokens: dict[int, tuple[float, object]] = {}
        self.attempts: dict[str, Attempt] = {}
        self.handles: list[tuple[str, str]] = []
        self.polls: list[Poll] = []

    @property
    def now(self):
        return self.clock.monotonic()

    @rule(group=GROUPS, token=st.integers(0, 30))
    def send(self, group, token):
        entry = {"MessageBody": "x", "MessageGroupId": group, "MessageDeduplicationId": str(token)}
        sent = self.queue.send(Content.parse(entry))
        at, first = self.tokens.get(token, (-WINDOW, None))
        if self.now < at + WINDOW:
            assert sent == first
            return
        last = max((known.place for known in self.known.values()), default=0)
        place = int(sent.sequence_number)
        assert place > last or self.known[sent.id].count  # a poll that waited has it already
        self.tokens[token] = (self.now, sent)
        self.known.setdefault(sent.id, Known(group, place))

    @rule(most=st.integers(1, 10), visibility=SECONDS, attempt=ATTEMPTS)
    def receive(self, most, visibility, attempt):
        expected = self.repeated(attempt)
        try:
            messages = self.queue.receive(most, visibility, attempt)
        except Refusal:
            assert expected == "refused"
            return
        if expected is None:
            assert len(messages) <= most
            self.given(messages, visibility)
            assert len(messages) == most or visibility == 0 or not self.ready()
        else:
            assert [message.id for message in messages] == expected
            self.hide(messages, visibility)
        if attempt is not None and messages:
            at = self.now if expected is None else self.attempts[attempt].at
            touched = [(message.id, self.known[message.id].touched) for message in messages]
            self.attempts[attempt] = Attempt(at, touched)

    @rule(visibility=SECONDS, seconds=st.integers(1, 20), there=st.booleans())
    def park(self, visibility, seconds, there):
        def finish(messages):
            assert there or not messages
            self.given(messages, visibility)

        poll = Poll(
            most=2, visibility=visibility, alive=lambda: there, finish=finish, refuse=self.fail
        )
        self.polls.append(poll)
        self.queue.park(poll, seconds)

    @rule(data=st.data())
    def delete(self, data):
        if not self.handles:
            return
        message, handle = data.draw(st.sampled_from(self.handles))
        known = self.known[message]
        gone = known.deleted or self.moved(message)
        held = self.holds(known, handle)
        known.deleted |= held  # set first: a poll that waits may be given the next one
        refused = self.refusal(self.queue.delete, handle)
        assert refused == (None if gone or held else "InvalidParameterValueException")

    @rule(data=st.data(), seconds=SECONDS)
    def change_visibility(self, data, seconds):
        if not self.handles:
            return
        message, handle = data.draw(st.sampled_from(self.handles))
        known = self.known[message]
        held = self.holds(known, handle) and not known.deleted
        if held:
            known.hidden = self.now + seconds
            known.touched += 1
        refused = self.refusal(self.queue.change_visibility, handle, seconds)
        assert refused == (None if held else "InvalidParameterValueException")

    @rule(seconds=st.integers(1, 200))
    def advance(self, seconds):
        self.clock.advance(seconds)
        self.broker.tick()

    @invariant()
    def nothing_is_lost(self):
        stats = self.broker.stats()
        there = sum(
            stats[name][state]
            for name in ("q.fifo", "dlq.fifo")
            for state in ("visible", "in_flight", "delayed")
        )
        assert there == sum(not known.deleted for known in self.known.values())

    @invariant()
    def no_poll_waits_beside_a_message_it_could_have(self):
        assert not (self.queue.counts()["waiting"] and self.ready())

    def teardown(self):
        for poll in self.polls:
            self.queue.unpark(poll)
        self.clock.advance(1000)
        self.broker.tick()
        alive = [message for message, known in self.known.items() if not known.deleted]
        seen = []
        while messages := self.queue.receive(10, 30):
            self.given(messages, 30)
            for message in messages:
                self.known[message.id].deleted = True
                self.queue.delete(message.handle)
            seen += [message.id for message in messages]
        buried = [message.id for message in self.dlq.receive(1000, 30)]
        assert sorted(seen + buried) == sorted(alive)
        for group in "abc":
            assert self.places(buried, group) == sorted(self.places(buried, group))

    def given(self, messages, visibility):
        """Check that *messages* were free to be handed out in this order."""
        for number, message in enumerate(messages):
            group, place = message.content.group_id, message.sequence
            known = self.known.setdefault(message.id, Known(group, place))
            assert known.hidden <= self.now
            assert not known.deleted
            before = {other.id for other in messages[:number]}
            assert before.issuperset(self.earlier(known))
            assert message.receive_count == known.count + 1 <= MOST_RECEIVES
            known.count = message.receive_count
            known.handle = message.handle
            self.handles.append((message.id, message.handle))
        self.hide(messages, visibility)

    def hide(self, messages, visibility):
        for message in messages:
            self.known[message.id].hidden = self.now + visibility
            self.known[message.id].touched += 1

    def earlier(self, known):
        """Return the ids of what was sent before into the same group and is still there."""
        return [
            message
            for message, other in self.known.items()
            if other.group == known.group
            and other.place < known.place
            and not other.deleted
            and not self.moved(message)
        ]

    def ready(self):
        """Return whether some message could be handed out now."""
        return any(
            known.hidden <= self.now
            and not known.deleted
            and not self.moved(message)
            and not self.earlier(known)
            for message, known in self.known.items()
        )

    def repeated(self, attempt):
        """Return what a receive with the id *attempt* must give, None if it is a new one."""
        made = self.attempts.get(attempt)
        if made is None or self.now >= made.at + WINDOW:
            return None
        for message, touched in made.given:
            known = self.known[message]
            gone = known.deleted or self.moved(message)
            if gone or known.touched != touched or known.hidden <= self.now:
                return "refused"
        return [message for message, _ in made.given]

    def holds(self, known, handle):
        return known.handle == handle and known.hidden > self.now

    def moved(self, message):
        return message in self.dlq.stock

    def places(self, messages, group):
        return [self.known[id_].place for id_ in messages if self.known[id_].group == group]

    def refusal(self, call, *arguments):
        try:
            call(*arguments)
        except Refusal as refusal:
            return refusal.shape
        return None

    def fail(self, refusal):
        raise AssertionError(refusal)


FifoMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_fifo = FifoMachine.TestCase

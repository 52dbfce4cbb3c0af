"""One queue on a clock that the test moves: what boto3 cannot see or would wait hours for."""

import json

import pytest

from tracebaton.local.broker import Broker
from tracebaton.local.clock import ManualClock
from tracebaton.local.line import Poll
from tracebaton.local.message import Content
from tracebaton.local.refusal import Refusal

HOUR = 3600
CONTENT = Content.parse({"MessageBody": "body"})


@pytest.fixture
def broker(clock):
    return Broker(clock, in_flight_limit=3)


@pytest.fixture
def queue(broker):
    return broker.create("q", {})


class Waiting:
    """A poll, and what became of it."""

    def __init__(self, queue, *, most=10, visibility=30, seconds=20, alive=True):
        self.answers: list[object] = []
        self.alive = alive
        self.poll = Poll(
            most=most,
            visibility=visibility,
            alive=lambda: self.alive,
            finish=lambda messages: self.answers.append([m.id for m in messages]),
            refuse=self.answers.append,
        )
        queue.park(self.poll, seconds)


def redriving(broker, queue, *, most=1):
    """Make a DLQ for *queue*."""
    dlq = broker.create("dlq", {})
    policy = {"deadLetterTargetArn": dlq.arn, "maxReceiveCount": most}
    broker.change(queue, {"RedrivePolicy": json.dumps(policy)})
    return dlq


def refusal(call, *arguments):
    with pytest.raises(Refusal) as refused:
        call(*arguments)
    return refused.value.shape


def balance(queue):
    """Return what came in less what went out, which is what must be there."""
    counters = queue.counters
    out = counters.deleted + counters.expired + counters.purged + counters.moved_out
    return counters.sent + counters.moved_in - out


def test_clock_does_not_go_back():
    """Moving back is a mistake of the test."""
    with pytest.raises(ValueError, match="only moves forward"):
        ManualClock().advance(-1)


def test_message_expires_after_the_retention_period(queue, clock):
    """Visible, in flight and delayed messages alike, counted from the send."""
    for delay in (0, 0, 900):
        queue.send(CONTENT, delay)
    queue.receive(1, 43_200)
    clock.advance(4 * 24 * HOUR - 1)
    assert sum(queue.counts().values()) == 3

    clock.advance(1)

    assert sum(queue.counts().values()) == 0
    assert queue.counters.expired == 3


def test_shorter_retention_holds_for_messages_that_are_there(broker, queue, clock):
    """SetQueueAttributes affects existing messages."""
    queue.send(CONTENT)
    clock.advance(100)

    broker.change(queue, {"MessageRetentionPeriod": "60"})

    assert queue.receive(1, 30) == []


def test_retention_in_a_dlq_counts_from_the_first_send(broker, queue, clock):
    """The enqueue time of a standard queue's message is kept by the move."""
    dlq = redriving(broker, queue)
    queue.send(CONTENT)
    queue.receive(1, 0)
    clock.advance(3 * 24 * HOUR)
    queue.receive(1, 0)
    assert dlq.counts()["visible"] == 1

    clock.advance(24 * HOUR)

    assert dlq.counts()["visible"] == 0


def test_too_many_in_flight(queue):
    """A short poll at the limit is OverLimit; one delete makes room."""
    for _ in range(5):
        queue.send(CONTENT)
    held = queue.receive(10, 30)
    assert len(held) == 3

    assert refusal(queue.receive, 1, 30) == "OverLimit"
    queue.delete(held[0].handle)

    assert len(queue.receive(10, 30)) == 1


def test_long_poll_at_the_limit_waits_for_room(queue):
    """With long polling there is no error; the poll is served once a message is deleted."""
    for _ in range(4):
        queue.send(CONTENT)
    held = queue.receive(10, 30)
    waiting = Waiting(queue)
    assert waiting.answers == []

    queue.delete(held[0].handle)

    assert [len(answer) for answer in waiting.answers] == [1]


def test_twelve_hours_in_all(queue, clock):
    """Up to the last second, not one more; a new receive starts anew."""
    queue.send(CONTENT)
    (message,) = queue.receive(1, HOUR)
    clock.advance(HOUR - 1)
    queue.change_visibility(message.handle, 11 * HOUR + 1)

    with pytest.raises(Refusal) as refused:
        queue.change_visibility(message.handle, 11 * HOUR + 2)

    assert str(refused.value) == (
        "Value 39602 for parameter VisibilityTimeout is invalid. Reason: Total VisibilityTimeout "
        "for the message is beyond the limit [43200 seconds]"
    )
    clock.advance(11 * HOUR + 1)
    (message,) = queue.receive(1, 30)
    queue.change_visibility(message.handle, 12 * HOUR)


def test_polls_are_served_in_order(queue):
    """The one that waits longest gets the message."""
    first, second = Waiting(queue), Waiting(queue)

    message = queue.send(CONTENT)

    assert (first.answers, second.answers) == ([[message.id]], [])
    assert queue.counts()["waiting"] == 1


def test_poll_of_a_client_that_left_is_passed_over(queue):
    """The message goes to the next poll, or stays."""
    ghost, live = Waiting(queue, alive=False), Waiting(queue)

    message = queue.send(CONTENT)

    assert (ghost.answers, live.answers) == ([], [[message.id]])
    Waiting(queue, alive=False)
    queue.send(CONTENT)
    assert queue.counts() == {"visible": 1, "in_flight": 1, "delayed": 0, "waiting": 0}


def test_forgotten_poll_gets_nothing(queue, broker):
    """unpark() leaves no trace, not even an alarm."""
    waiting = Waiting(queue)

    queue.unpark(waiting.poll)
    queue.send(CONTENT)

    assert waiting.answers == []
    assert broker.due() is None


@pytest.mark.parametrize("how", ["delay", "visibility"])
def test_poll_wakes_when_a_message_becomes_visible(queue, broker, clock, how):
    """A delay or a timeout that ends serves a parked poll at that moment."""
    if how == "delay":
        queue.send(CONTENT, 5)
    else:
        queue.send(CONTENT)
        queue.receive(1, 5)
    waiting = Waiting(queue)
    assert broker.due() == 5

    clock.advance(5)
    broker.tick()

    assert [len(answer) for answer in waiting.answers] == [1]


def test_visible_again_while_others_are_served(queue, broker, clock):
    """A call that notices an ended timeout serves the parked poll too, not only itself."""
    queue.send(CONTENT)
    queue.receive(1, 5)
    waiting = Waiting(queue)
    clock.advance(5)

    queue.send(CONTENT, 900)

    assert [len(answer) for answer in waiting.answers] == [1]


def test_poll_ends_empty(queue, broker, clock):
    """When its wait is over it is answered with nothing, once."""
    waiting = Waiting(queue, seconds=3)
    clock.advance(2)
    broker.tick()
    assert waiting.answers == []

    clock.advance(1)
    broker.tick()

    assert waiting.answers == [[]]
    assert queue.counters.empty_receives == 1
    assert broker.due() is None


def test_visibility_zero_serves_each_poll_in_turn(queue, broker):
    """A poll that hides nothing leaves the message for the next one."""
    first, second = Waiting(queue, visibility=0), Waiting(queue, visibility=0)

    message = queue.send(CONTENT)
    broker.tick()

    assert (first.answers, second.answers) == ([[message.id]], [[message.id]])
    assert queue.receive(1, 0)[0].receive_count == 3


def test_deleted_queue_refuses_its_polls(queue, broker):
    """A receive that waits on a queue learns that the queue is gone."""
    waiting = Waiting(queue)

    broker.delete("q")

    (answer,) = waiting.answers
    assert isinstance(answer, Refusal)
    assert answer.shape == "QueueDoesNotExist"
    assert broker.due() is None


def test_closed_broker_answers_polls_empty(queue, broker):
    """At the end of the server nobody is left waiting."""
    waiting = Waiting(queue)

    broker.close()

    assert waiting.answers == [[]]


def test_poll_on_a_dlq_gets_the_moved_message(broker, queue):
    """A redrive wakes whoever waits on the DLQ."""
    dlq = redriving(broker, queue)
    message = queue.send(CONTENT)
    queue.receive(1, 0)
    waiting = Waiting(dlq)

    assert queue.receive(1, 0) == []

    assert waiting.answers == [[message.id]]
    assert (queue.counters.moved_out, dlq.counters.moved_in) == (1, 1)


def test_parked_poll_moves_what_is_exhausted(broker, queue, clock):
    """Also a poll that waits is a receive: the message moves and the poll goes on waiting."""
    dlq = redriving(broker, queue)
    queue.send(CONTENT)
    queue.receive(1, 5)
    waiting = Waiting(queue)

    clock.advance(5)
    broker.tick()

    assert waiting.answers == []
    assert (queue.counts()["waiting"], dlq.counts()["visible"]) == (1, 1)


def test_without_its_dlq_a_queue_keeps_the_message(broker, queue):
    """A policy that points nowhere loses nothing."""
    redriving(broker, queue)
    queue.send(CONTENT)
    queue.receive(1, 0)
    broker.delete("dlq")

    (message,) = queue.receive(1, 0)

    assert message.receive_count == 2


def test_queue_that_is_its_own_dlq_keeps_the_message(broker, queue):
    """Moving to itself would go round for ever."""
    policy = {"deadLetterTargetArn": queue.arn, "maxReceiveCount": 1}
    broker.change(queue, {"RedrivePolicy": json.dumps(policy)})
    queue.send(CONTENT)
    queue.receive(1, 0)

    assert len(queue.receive(1, 0)) == 1


def test_each_queue_of_a_chain_counts_for_itself(broker, queue):
    """A DLQ with a DLQ gives its own number of receives; the shown count goes on."""
    dlq = redriving(broker, queue, most=2)
    last = broker.create("last", {})
    policy = {"deadLetterTargetArn": last.arn, "maxReceiveCount": 2}
    broker.change(dlq, {"RedrivePolicy": json.dumps(policy)})
    queue.send(CONTENT)

    counts = [
        [message.receive_count for message in source.receive(1, 0)]
        for source in (queue, queue, queue, dlq, dlq, dlq, last)
    ]

    assert counts == [[1], [2], [], [3], [4], [], [5]]


def test_handle_of_the_source_is_worth_nothing_in_the_dlq(broker, queue):
    """A worker that acknowledges too late deletes nothing."""
    dlq = redriving(broker, queue)
    queue.send(CONTENT)
    (message,) = queue.receive(1, 0)
    handle = message.handle
    queue.receive(1, 0)

    queue.delete(handle)

    assert refusal(dlq.delete, handle) == "ReceiptHandleIsInvalid"
    assert dlq.counts()["visible"] == 1


def test_handle_outlives_no_queue(broker, queue, clock):
    """A queue made again under the same name knows no handle of the old one."""
    queue.send(CONTENT)
    (message,) = queue.receive(1, 30)
    broker.delete("q")
    clock.advance(60)

    again = broker.create("q", {})

    assert refusal(again.delete, message.handle) == "ReceiptHandleIsInvalid"


def test_purge_is_allowed_again_after_a_minute(queue, clock):
    """And counts what it forgot."""
    queue.send(CONTENT)
    queue.purge()
    queue.send(CONTENT)
    assert refusal(queue.purge) == "PurgeQueueInProgress"
    clock.advance(60)

    queue.purge()

    assert queue.counters.purged == 2
    assert balance(queue) == 0


def test_redelivery_is_counted_apart(queue):
    """received counts every receive, redelivered those after the first."""
    queue.send(CONTENT)
    for _ in range(3):
        queue.receive(1, 0)

    assert (queue.counters.received, queue.counters.redelivered) == (3, 2)


@pytest.mark.parametrize("depth", [1000, 20_000])
def test_cost_does_not_depend_on_depth(depth, clock, calls):
    """A send, a receive, a heartbeat and a delete do the same work in a full and an empty queue."""

    def cycle(queue):
        queue.send(CONTENT)
        (message,) = queue.receive(1, 30)
        queue.change_visibility(message.handle, 60)
        queue.delete(message.handle)
        queue.counts()

    def measured(messages):
        queue = Broker(clock).create("q", {})
        for number in range(messages):
            queue.send(CONTENT, 0 if number % 2 else 900)
        queue.receive(messages // 4, 30)
        return calls(lambda: cycle(queue))

    assert measured(depth) == measured(8)

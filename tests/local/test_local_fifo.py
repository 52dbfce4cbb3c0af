"""FIFO queues on a clock that the test moves: windows, retention, limits, cost."""

import json

import pytest

from tracebaton.local.broker import Broker
from tracebaton.local.line import Poll
from tracebaton.local.message import Content
from tracebaton.local.recent import Recent
from tracebaton.local.refusal import Refusal

DAY = 24 * 3600
WINDOW = 300


@pytest.fixture
def broker(clock):
    return Broker(clock, in_flight_limit=3)


@pytest.fixture
def queue(broker):
    return fifo(broker, "q.fifo")


def fifo(broker, name, **attributes):
    return broker.create(name, {"FifoQueue": "true", **attributes})


def content(token, group="g"):
    return Content.parse(
        {"MessageBody": "body", "MessageGroupId": group, "MessageDeduplicationId": token}
    )


def fill(queue, *tokens):
    """Send a message for each token, into the group of its first letter; return the ids."""
    return [queue.send(content(token, token[0])).id for token in tokens]


def given(messages):
    return [message.content.deduplication_id for message in messages]


def refusal(call, *arguments):
    with pytest.raises(Refusal) as refused:
        call(*arguments)
    return refused.value


def redriving(broker, queue, **attributes):
    """Make a FIFO DLQ for *queue*, which gives up after one receive."""
    dlq = fifo(broker, "dlq.fifo", **attributes)
    policy = {"deadLetterTargetArn": dlq.arn, "maxReceiveCount": 1}
    broker.change(queue, {"RedrivePolicy": json.dumps(policy)})
    return dlq


def parked(queue, *, seconds=20, attempt=None):
    """Park a poll and return the list that takes its answer."""
    answers = []
    poll = Poll(
        most=10,
        visibility=30,
        alive=lambda: True,
        finish=lambda messages: answers.append(given(messages)),
        refuse=answers.append,
        attempt=attempt,
    )
    queue.park(poll, seconds)
    return answers


def test_deduplication_lasts_five_minutes_from_the_first_send(queue, clock):
    """A duplicate does not prolong it."""
    first = queue.send(content("d"))
    clock.advance(WINDOW - 1)
    assert queue.send(content("d")) == first

    clock.advance(1)

    assert queue.send(content("d")).id != first.id
    assert (queue.counters.sent, queue.counters.deduplicated) == (2, 1)


def test_old_deduplication_ids_are_not_kept(clock):
    """What is over is forgotten at the next call, also what nobody asks for again."""
    recent = Recent(WINDOW)
    for number in range(100):
        recent.put(number, number, clock.monotonic())
    clock.advance(WINDOW)

    recent.put("new", 1, clock.monotonic())

    assert len(recent) == 1


def test_in_flight_limit_gives_no_error(queue):
    """Other than a standard queue: a receive at the limit is empty (quotas of FIFO queues)."""
    fill(queue, "a", "b", "c", "d")
    held = queue.receive(10, 30)
    assert len(held) == 3

    assert queue.receive(10, 30) == []
    queue.delete(held[0].handle)

    assert given(queue.receive(10, 30)) == ["d"]


def test_timed_out_messages_come_back_in_order(queue, clock):
    """Before what was sent meanwhile."""
    fill(queue, "a1", "a2")
    queue.receive(10, 30)
    fill(queue, "a3")
    clock.advance(30)

    assert given(queue.receive(10, 30)) == ["a1", "a2", "a3"]


def test_extended_message_holds_back_what_timed_out_behind_it(queue, clock):
    """The group goes on with its first message only."""
    fill(queue, "a1", "a2")
    first, _ = queue.receive(10, 30)
    queue.change_visibility(first.handle, 60)
    clock.advance(30)
    assert queue.receive(10, 30) == []

    clock.advance(30)

    assert given(queue.receive(10, 30)) == ["a1", "a2"]


def test_expired_message_unlocks_its_group(broker, clock):
    """The retention period ends for a message in flight too; those behind it go on."""
    queue = fifo(broker, "q.fifo", MessageRetentionPeriod="60")
    fill(queue, "a1")
    clock.advance(30)
    fill(queue, "a2")
    queue.receive(1, 43_200)
    assert queue.receive(1, 30) == []

    clock.advance(30)

    assert given(queue.receive(10, 30)) == ["a2"]
    assert queue.counters.expired == 1


def test_message_expires_while_it_waits(broker, clock):
    """A locked message is no exception."""
    queue = fifo(broker, "q.fifo", MessageRetentionPeriod="60")
    fill(queue, "a1", "a2")
    clock.advance(60)

    assert sum(queue.counts().values()) == 0


def test_retention_in_a_dlq_starts_anew(broker, queue, clock):
    """Other than in a standard queue the move is a new send."""
    dlq = redriving(broker, queue)
    fill(queue, "a1")
    (message,) = queue.receive(1, 0)
    sent_at = message.sent_at
    clock.advance(3 * DAY)
    queue.receive(1, 0)

    clock.advance(4 * DAY - 1)

    (message,) = dlq.receive(1, 30)
    assert message.sent_at == sent_at + 3 * DAY * 1000


def test_delay_of_the_dlq_holds_for_moved_messages(broker, queue, clock):
    """So that they do not overtake what was sent to the DLQ before."""
    dlq = redriving(broker, queue, DelaySeconds="10")
    dlq.send(content("a0", "a"))
    fill(queue, "a1")
    queue.receive(1, 0)
    queue.receive(1, 0)
    assert dlq.counts()["delayed"] == 2

    clock.advance(10)

    assert given(dlq.receive(10, 30)) == ["a0", "a1"]


def test_numbers_of_a_dlq_grow(broker, queue):
    """A moved message gets a new sequence number, those of a queue never mix with another's."""
    dlq = redriving(broker, queue)
    fill(queue, "a1", "a2")
    dlq.send(content("a0", "a"))
    queue.receive(10, 0)
    queue.receive(10, 0)

    numbers = [message.sequence_number for message in dlq.receive(10, 30)]

    assert len(numbers) == 3
    assert numbers == sorted(set(numbers))


def test_longer_delay_holds_for_delayed_messages(broker, clock):
    """It counts from the send; what is visible already stays so."""
    queue = fifo(broker, "q.fifo", DelaySeconds="10")
    fill(queue, "a1")
    clock.advance(5)
    fill(queue, "a2")
    broker.change(queue, {"DelaySeconds": "20"})
    clock.advance(10)
    assert queue.receive(10, 30) == []

    clock.advance(5)

    assert given(queue.receive(10, 30)) == ["a1"]


def test_shorter_delay_wakes_a_poll(broker):
    """The change itself makes the messages visible."""
    queue = fifo(broker, "q.fifo", DelaySeconds="10")
    fill(queue, "a1", "a2")
    answers = parked(queue)

    broker.change(queue, {"DelaySeconds": "0"})

    assert answers == [["a1", "a2"]]


def test_poll_waits_behind_a_locked_group(queue, broker, clock):
    """A visible message that is locked wakes nobody; the end of the lock does."""
    fill(queue, "a1", "a2")
    queue.receive(1, 5)
    answers = parked(queue)
    assert (answers, broker.due()) == ([], 5)

    clock.advance(5)
    broker.tick()

    assert answers == [["a1", "a2"]]


def test_groups_take_turns(queue):
    """A group that was served goes to the end of the line."""
    fill(queue, "a1", "a2", "b1", "c1")

    order = []
    for _ in range(4):
        (message,) = queue.receive(1, 30)
        order.append(message.content.deduplication_id)
        queue.delete(message.handle)

    assert order == ["a1", "b1", "c1", "a2"]


def test_attempt_lasts_five_minutes_from_the_receive(queue, clock):
    """Afterwards the same id is a receive like any other."""
    fill(queue, "a1")
    first = queue.receive(1, 1000, "try")
    clock.advance(WINDOW - 1)
    assert queue.receive(1, 1000, "try") == first

    clock.advance(1)

    assert queue.receive(1, 1000, "try") == []
    assert queue.counters.received == 1


def test_attempt_is_over_with_its_visibility_timeout(queue, clock):
    """What is visible again may be in other hands."""
    fill(queue, "a1")
    queue.receive(1, 30, "try")
    clock.advance(30)

    assert "not retryable" in str(refusal(queue.receive, 1, 30, "try"))


def test_attempt_of_a_parked_poll(queue):
    """A poll that waited is remembered, and its repetition is answered without waiting."""
    answers = parked(queue, attempt="try")
    fill(queue, "a1")

    again = parked(queue, attempt="try")

    assert (answers, again) == ([["a1"]], [["a1"]])
    assert queue.counts()["waiting"] == 0


def test_expired_handle_names_the_reason(queue):
    """In AWS's words, alone and in a batch."""
    fill(queue, "a1")
    (message,) = queue.receive(1, 0)

    expired = refusal(queue.delete, message.handle)

    assert str(expired) == (
        f"Value {message.handle} for parameter ReceiptHandle is invalid. "
        "Reason: The receipt handle has expired."
    )
    assert expired.of_entry().shape == "ReceiptHandleIsInvalid"


def test_handle_of_an_earlier_receive_is_expired(queue):
    """Only the latest holds the message."""
    fill(queue, "a1")
    (message,) = queue.receive(1, 0)
    old = message.handle
    queue.receive(1, 30)

    assert refusal(queue.delete, old).shape == "InvalidParameterValueException"


def test_deleted_message_is_no_error(queue):
    """A second delete succeeds, as in a standard queue."""
    fill(queue, "a1")
    (message,) = queue.receive(1, 30)
    queue.delete(message.handle)

    queue.delete(message.handle)


def test_failed_move_leaves_the_order(broker, queue):
    """A task that cannot go on puts the message back into its place."""
    dlq = redriving(broker, queue)
    fill(queue, "a1", "a2", "a3")
    queue.receive(10, 0)
    queue.receive(10, 0)
    broker.delete("q.fifo")
    policy = {"deadLetterTargetArn": dlq.arn, "maxReceiveCount": 1}
    fifo(broker, "other.fifo", RedrivePolicy=json.dumps(policy))
    task = broker.start_move(dlq.arn, destination_arn=None, rate=None)
    broker.tick()

    assert (task.status, task.moved) == ("FAILED", 0)
    assert given(dlq.receive(10, 30)) == ["a1", "a2", "a3"]


@pytest.mark.parametrize("groups", [1, 1000])
@pytest.mark.parametrize("depth", [2000, 20_000])
def test_cost_depends_neither_on_depth_nor_on_groups(depth, groups, clock, calls):
    """A send, a receive, a heartbeat and a delete do the same work in any queue."""

    def cycle(queue):
        queue.send(content("new", "new"))
        (message,) = queue.receive(1, 30)
        queue.change_visibility(message.handle, 60)
        queue.delete(message.handle)
        queue.counts()

    def measured(messages, groups):
        queue = fifo(Broker(clock), "q.fifo")
        for number in range(messages):
            queue.send(content(str(number), str(number % groups)))
        return calls(lambda: cycle(queue))

    assert measured(depth, groups) == measured(8, 2)

"""Move tasks over time: rates, chunks, and what makes them fail."""

import json

import pytest

from tracebaton.local.broker import Broker
from tracebaton.local.message import Content
from tracebaton.local.refusal import Refusal

CONTENT = Content.parse({"MessageBody": "body"})


@pytest.fixture
def broker(clock):
    broker = Broker(clock)
    dlq = broker.create("dlq", {})
    policy = json.dumps({"deadLetterTargetArn": dlq.arn, "maxReceiveCount": 1})
    broker.create("q", {"RedrivePolicy": policy})
    return broker


def bury(broker, number):
    """Put *number* messages into the DLQ by way of the queue."""
    queue = broker.get("q")
    for _ in range(number):
        queue.send(CONTENT)
        queue.receive(1, 0)
    queue.receive(1, 0)
    return broker.get("dlq")


def start(broker, *, rate=None, destination_arn=None):
    arn = broker.get("dlq").arn
    return broker.start_move(arn, destination_arn=destination_arn, rate=rate)


def test_rate_is_kept(broker, clock):
    """Two a second, also when nobody looked for a while."""
    bury(broker, 5)
    task = start(broker, rate=2)
    broker.tick()
    moved = [task.moved]
    for seconds in (0.5, 1.0, 5.0):
        clock.advance(seconds)
        broker.tick()
        moved.append(task.moved)

    assert moved == [1, 2, 4, 5]
    assert task.status == "COMPLETED"
    assert broker.due() is None


def test_without_a_rate_everything_moves(broker):
    """More than one chunk, in one go of a clock that stands still."""
    bury(broker, 250)
    task = start(broker)
    broker.tick()

    assert (task.status, task.moved) == ("COMPLETED", 250)
    assert broker.get("q").counts()["visible"] == 250


def test_later_arrivals_stay(broker):
    """A task moves as many as there were when it started."""
    bury(broker, 2)
    task = start(broker)
    dlq = bury(broker, 3)
    broker.tick()

    assert (task.moved, dlq.counts()["visible"]) == (2, 3)


def test_purged_source_ends_the_task(broker, clock):
    """Fewer messages than there were is no failure."""
    dlq = bury(broker, 3)
    task = start(broker, rate=1)
    broker.tick()
    dlq.purge()
    clock.advance(1)
    broker.tick()

    assert (task.status, task.moved, task.to_move) == ("COMPLETED", 1, 3)


def test_message_of_unknown_origin_stops_the_task(broker):
    """What was sent to the DLQ directly came from no queue; it stays there."""
    dlq = broker.get("dlq")
    dlq.send(CONTENT)
    task = start(broker)
    broker.tick()

    assert (task.status, task.failure) == ("FAILED", "CouldNotDetermineMessageSource")
    assert dlq.counts()["visible"] == 1
    assert task.describe()["FailureReason"] == "CouldNotDetermineMessageSource"


@pytest.mark.parametrize("gone", ["other", "dlq"])
def test_deleted_queue_stops_the_task(broker, clock, gone):
    """Destination or source: the task fails, the rest of the messages stays where it is."""
    bury(broker, 3)
    other = broker.create("other", {})
    task = start(broker, rate=1, destination_arn=other.arn)
    broker.tick()
    broker.delete(gone)
    clock.advance(1)
    broker.tick()

    assert (task.status, task.moved) == ("FAILED", 1)
    assert task.failure == "AWS.SimpleQueueService.NonExistentQueue"


def test_tasks_are_listed_latest_first(broker):
    """At most ten are remembered."""
    for _ in range(12):
        start(broker)
        broker.tick()
    last = start(broker, rate=5)

    tasks = broker.moves.recent(broker.get("dlq").arn, 20)

    assert len(tasks) == 10
    assert tasks[0] is last
    assert last.describe()["MaxNumberOfMessagesPerSecond"] == 5


def test_ended_task_cannot_be_cancelled(broker):
    """Only RUNNING can."""
    task = start(broker)
    broker.tick()

    with pytest.raises(Refusal, match="Task does not exist"):
        broker.moves.cancel(task.handle)


def test_task_of_a_deleted_queue_cannot_be_cancelled(broker):
    """Its source is no resource any more."""
    task = start(broker, rate=1)
    broker.delete("dlq")

    with pytest.raises(Refusal, match="SourceArn"):
        broker.moves.cancel(task.handle)


@pytest.mark.parametrize("rate", [0, 501])
def test_rate_out_of_range_is_refused(broker, rate):
    """1 to 500 messages a second."""
    with pytest.raises(Refusal, match="Must be between 1 and 500"):
        start(broker, rate=rate)


def test_destination_must_exist(broker):
    """A destination ARN that is nobody's is refused at the start."""
    with pytest.raises(Refusal, match="DestinationArn"):
        start(broker, destination_arn="arn:aws:sqs:us-east-1:000000000000:nobody")


def test_tasks_of_an_unknown_source_are_refused(broker):
    """A list is of a queue that exists."""
    with pytest.raises(Refusal, match="SourceArn"):
        broker.moves.recent("arn:aws:sqs:us-east-1:000000000000:nobody", 1)

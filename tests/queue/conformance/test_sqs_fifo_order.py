"""FIFO queues: the order inside a group, and what locks and unlocks it."""

import json
import threading

import pytest

CONTENT_BASED = {"ContentBasedDeduplication": "true"}


@pytest.fixture
def url(sqs):
    return sqs.create_fifo(CONTENT_BASED)


def fill(sqs, url, *bodies):
    """Send *bodies*, each into the group of its first letter."""
    for body in bodies:
        sqs.send(url, body, MessageGroupId=body[0])


def one_by_one(sqs, url, count):
    """Receive and delete *count* messages that become visible one soon after the other."""
    taken = []
    for _ in range(count):
        (message,) = sqs.receive_after(1, url, MaxNumberOfMessages=1)
        sqs.delete(url, message)
        taken.append(message)
    return taken


def bodies(messages):
    return [message["Body"] for message in messages]


def test_messages_of_a_group_come_in_order(sqs, url):
    """One receive after the other, each in the order of sending."""
    fill(sqs, url, "a1", "a2", "a3")

    received = []
    for _ in range(3):
        (message,) = sqs.receive(url, MaxNumberOfMessages=1)
        received.append(message["Body"])
        sqs.delete(url, message)

    assert received == ["a1", "a2", "a3"]


def test_one_receive_takes_several_of_a_group_in_order(sqs, url):
    """As many as fit of one group, then those of the next."""
    fill(sqs, url, "a1", "b1", "a2", "a3")

    assert bodies(sqs.receive(url)) == ["a1", "a2", "a3", "b1"]


def test_entries_of_a_batch_keep_their_order(sqs, url):
    """A batch is as ten sends one after the other."""
    entries = [{"Id": str(i), "MessageBody": f"a{i}", "MessageGroupId": "a"} for i in range(10)]

    sqs.client.send_message_batch(QueueUrl=url, Entries=entries)

    assert bodies(sqs.receive(url)) == [f"a{i}" for i in range(10)]


def test_group_is_locked_while_its_first_message_is_in_flight(sqs, url):
    """Only other groups are handed out."""
    fill(sqs, url, "a1", "a2", "b1")
    sqs.receive(url, MaxNumberOfMessages=1)

    assert bodies(sqs.receive(url)) == ["b1"]
    assert sqs.receive(url) == []


def test_message_sent_to_a_locked_group_waits(sqs, url):
    """New messages do not unlock."""
    fill(sqs, url, "a1")
    sqs.receive(url)

    fill(sqs, url, "a2")

    assert sqs.receive(url) == []


def test_waiting_uses_no_receive(sqs, url):
    """ApproximateReceiveCount of a message that was held back starts at one."""
    fill(sqs, url, "a1", "a2")
    (first,) = sqs.receive(url, MaxNumberOfMessages=1)
    for _ in range(3):
        sqs.receive(url)
    sqs.delete(url, first)

    (second,) = sqs.receive(url)

    assert second["Attributes"]["ApproximateReceiveCount"] == "1"


def test_delete_unlocks_the_group(sqs, url):
    """What waited behind the deleted message is visible at once."""
    fill(sqs, url, "a1", "a2", "a3")
    (first,) = sqs.receive(url, MaxNumberOfMessages=1)

    sqs.delete(url, first)

    assert bodies(sqs.receive(url)) == ["a2", "a3"]


def test_group_stays_locked_until_all_of_a_receive_are_deleted(sqs, url):
    """A message in flight locks what comes after it, whatever came before it is gone."""
    fill(sqs, url, "a1", "a2", "a3")
    first, second = sqs.receive(url, MaxNumberOfMessages=2)

    sqs.delete(url, first)
    between = sqs.receive(url)
    sqs.delete(url, second)

    assert between == []
    assert bodies(sqs.receive(url)) == ["a3"]


def test_visibility_zero_gives_a_message_back_in_its_place(sqs, url):
    """Not at the end of its group."""
    fill(sqs, url, "a1", "a2", "a3")
    (first,) = sqs.receive(url, MaxNumberOfMessages=1)

    sqs.hide(url, first, 0)

    assert bodies(sqs.receive(url)) == ["a1", "a2", "a3"]


def test_message_given_back_comes_without_those_still_in_flight(sqs, url):
    """An earlier message may be received again while a later one is in flight."""
    fill(sqs, url, "a1", "a2", "b1")
    first, _ = sqs.receive(url, MaxNumberOfMessages=2)

    sqs.hide(url, first, 0)

    assert sorted(bodies(sqs.receive(url))) == ["a1", "b1"]


@pytest.mark.parametrize(
    ("kept", "visible"), [(0, []), (1, ["a1"]), (2, ["a1", "a2"])], ids=["1st", "2nd", "3rd"]
)
def test_message_in_flight_holds_back_the_later_ones(sqs, url, kept, visible):
    """Of three received together two are given back: those before the third are visible."""
    fill(sqs, url, "a1", "a2", "a3")
    received = sqs.receive(url)

    for number, message in enumerate(received):
        if number != kept:
            sqs.hide(url, message, 0)

    assert bodies(sqs.receive(url)) == visible


def test_messages_given_back_keep_their_order(sqs, url):
    """Whatever the order in which they came back, and before what was sent later."""
    fill(sqs, url, "a1", "a2", "a3", "a4")
    received = sqs.receive(url, MaxNumberOfMessages=3)

    for number in (2, 0, 1):
        sqs.hide(url, received[number], 0)

    assert bodies(sqs.receive(url)) == ["a1", "a2", "a3", "a4"]


def test_receive_with_visibility_zero_locks_nothing(sqs, url):
    """The next receive gets the same messages in the same order."""
    fill(sqs, url, "a1", "a2")

    received = [bodies(sqs.receive(url, VisibilityTimeout=0)) for _ in range(2)]

    assert received == [["a1", "a2"], ["a1", "a2"]]


def test_emptied_group_works_again(sqs, url):
    """A group is not forgotten with its last message."""
    fill(sqs, url, "a1")
    (first,) = sqs.receive(url)
    sqs.delete(url, first)
    assert sqs.receive(url) == []

    fill(sqs, url, "a2")

    assert bodies(sqs.receive(url)) == ["a2"]


def test_locked_messages_count_as_visible(sqs, url):
    """Of five, four are received: one is visible, locked or not."""
    fill(sqs, url, "a1", "a2", "a3", "b1", "b2")
    sqs.receive(url, MaxNumberOfMessages=4)
    names = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")

    assert sqs.attributes(url, *names) == dict(zip(names, ("1", "4"), strict=True))


def test_long_poll_wakes_when_the_group_is_unlocked(sqs, url):
    """A delete serves the receive that waits for the next message of the group."""
    fill(sqs, url, "a1", "a2")
    (first,) = sqs.receive(url, MaxNumberOfMessages=1)
    received: list[dict] = []
    poll = threading.Thread(target=lambda: received.extend(sqs.receive(url, WaitTimeSeconds=20)))
    poll.start()

    sqs.delete(url, first)
    poll.join(10)

    assert bodies(received) == ["a2"]


def test_delay_of_the_queue_holds(sqs):
    """Messages become visible in order once the queue's delay is over."""
    url = sqs.create_fifo({**CONTENT_BASED, "DelaySeconds": "1"})
    fill(sqs, url, "a1", "a2")

    before = sqs.receive(url)
    after = one_by_one(sqs, url, 2)

    assert (before, bodies(after)) == ([], ["a1", "a2"])


def test_delay_of_a_message_is_refused(sqs, url):
    """Only the queue has a delay; zero is taken."""
    request = {"MessageGroupId": "a", "DelaySeconds": 1}

    assert sqs.refusal(lambda: sqs.send(url, "x", **request)) == "InvalidParameterValue"
    sqs.send(url, "x", MessageGroupId="a", DelaySeconds=0)


def test_new_delay_holds_for_messages_that_are_there(sqs):
    """Other than in a standard queue a changed delay is retroactive."""
    url = sqs.create_fifo({**CONTENT_BASED, "DelaySeconds": "900"})
    fill(sqs, url, "a1")

    sqs.client.set_queue_attributes(QueueUrl=url, Attributes={"DelaySeconds": "0"})

    assert bodies(sqs.receive(url)) == ["a1"]


def test_handle_expires_with_the_visibility_timeout(sqs, url):
    """Other than in a standard queue, also when nobody received the message again."""
    fill(sqs, url, "a1", "z1")
    (message,) = sqs.receive(url, MaxNumberOfMessages=1, VisibilityTimeout=1)
    sqs.receive(url)
    assert bodies(sqs.receive_after(1, url, VisibilityTimeout=0)) == ["a1"]

    assert sqs.refusal(lambda: sqs.delete(url, message)) == "InvalidParameterValue"
    assert sqs.refusal(lambda: sqs.hide(url, message, 9)) == "InvalidParameterValue"


def test_expired_handle_in_a_batch(sqs, url):
    """Its entry fails by another code than a single delete."""
    fill(sqs, url, "a1")
    (message,) = sqs.receive(url, VisibilityTimeout=0)
    entries = [{"Id": "1", "ReceiptHandle": message["ReceiptHandle"]}]

    (failed,) = sqs.client.delete_message_batch(QueueUrl=url, Entries=entries)["Failed"]

    assert (failed["Code"], failed["SenderFault"]) == ("ReceiptHandleIsInvalid", True)


@pytest.fixture
def pair(sqs):
    """Return the URLs of a FIFO queue that gives up after one receive, and of its DLQ."""
    dlq = sqs.create_fifo()
    policy = {"deadLetterTargetArn": sqs.arn(dlq), "maxReceiveCount": "1"}
    return sqs.create_fifo({**CONTENT_BASED, "RedrivePolicy": json.dumps(policy)}), dlq


def test_dlq_is_of_the_same_type(sqs, url):
    """A FIFO queue's is FIFO, a standard queue's is standard."""
    for source, target in ((url, sqs.create()), (sqs.create(), url)):
        policy = json.dumps({"deadLetterTargetArn": sqs.arn(target), "maxReceiveCount": "1"})
        change = {"QueueUrl": source, "Attributes": {"RedrivePolicy": policy}}

        refused = sqs.refusal(lambda: sqs.client.set_queue_attributes(**change))  # noqa: B023

        assert refused == "InvalidParameterValue"


def test_moved_message_makes_way_for_the_next(sqs, pair):
    """The receive that moves an exhausted message hands out the one behind it."""
    url, dlq = pair
    fill(sqs, url, "a1", "a2", "b1")
    (first,) = sqs.receive(url, MaxNumberOfMessages=1)
    sqs.hide(url, first, 0)

    received = bodies(sqs.receive(url))
    (dead,) = sqs.receive(dlq)

    assert sorted(received) == ["a2", "b1"]
    assert (dead["MessageId"], dead["Body"]) == (first["MessageId"], "a1")
    assert dead["Attributes"]["MessageGroupId"] == "a"
    assert dead["Attributes"]["DeadLetterQueueSourceArn"] == sqs.arn(url)


def test_moved_messages_keep_their_order(sqs, pair):
    """The DLQ hands out a group in the order in which it was given up, which is that of sending."""
    url, dlq = pair
    fill(sqs, url, "a1", "a2", "a3")
    sqs.receive(url, VisibilityTimeout=0)
    sqs.receive(url)

    assert bodies(sqs.receive(dlq)) == ["a1", "a2", "a3"]


def test_moved_message_gets_its_id_as_deduplication_id(sqs, pair):
    """So a DLQ takes two messages that were sent with the same one."""
    url, dlq = pair
    fill(sqs, url, "a1")
    (first,) = sqs.receive(url, VisibilityTimeout=0)
    sqs.receive(url)

    (dead,) = sqs.receive(dlq)

    assert dead["Attributes"]["MessageDeduplicationId"] == first["MessageId"]


def test_move_task_brings_fifo_messages_back_in_order(sqs, pair):
    """A FIFO DLQ is redriven like any other."""
    url, dlq = pair
    fill(sqs, url, "a1", "a2", "a3")
    sqs.receive(url, VisibilityTimeout=0)
    sqs.receive(url)

    sqs.client.start_message_move_task(SourceArn=sqs.arn(dlq))
    back = one_by_one(sqs, url, 3)

    assert bodies(back) == ["a1", "a2", "a3"]
    assert [message["Attributes"]["MessageGroupId"] for message in back] == ["a"] * 3


def test_move_task_to_another_type_is_refused(sqs, pair):
    """A FIFO DLQ is redriven to FIFO queues only."""
    request = {"SourceArn": sqs.arn(pair[1]), "DestinationArn": sqs.arn(sqs.create())}

    refused = sqs.refusal(lambda: sqs.client.start_message_move_task(**request))

    assert refused == "InvalidParameterValue"

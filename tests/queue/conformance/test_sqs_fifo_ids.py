"""FIFO queues: names, attributes, group and deduplication ids, receive attempts."""

import hashlib
import re
import uuid

import pytest

INVALID = "InvalidParameterValue"
GROUP = {"MessageGroupId": "g"}


@pytest.fixture
def url(sqs):
    return sqs.create_fifo()


def send(sqs, url, body, token, group="g", **more):
    return sqs.send(url, body, MessageGroupId=group, MessageDeduplicationId=token, **more)


def bodies(messages):
    return [message["Body"] for message in messages]


def same(one, other):
    """Return whether both sends were told the same message."""
    return all(one[key] == other[key] for key in ("MessageId", "SequenceNumber"))


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("q", {"FifoQueue": "true"}),
        ("q.fifo", {}),
        (".fifo", {"FifoQueue": "true"}),
        ("q.fifo.fifo", {"FifoQueue": "true"}),
        ("x" * 76 + ".fifo", {"FifoQueue": "true"}),
    ],
    ids=["no suffix", "suffix only", "nothing else", "twice", "81 characters"],
)
def test_suffix_and_attribute_go_together(sqs, name, attributes):
    """A FIFO queue's name ends with .fifo, which counts, and no other's does."""
    create = sqs.client.create_queue

    assert sqs.refusal(lambda: create(QueueName=name, Attributes=attributes)) == INVALID


def test_longest_fifo_name(sqs):
    """80 characters with the suffix."""
    name = uuid.uuid4().hex + "x" * 43 + ".fifo"

    made = sqs.client.create_queue(QueueName=name, Attributes={"FifoQueue": "true"})

    assert made["QueueUrl"].endswith(name)


def test_fifo_queue_is_made_once(sqs, url):
    """The same attributes give the same queue, others are refused."""
    name = url.rpartition("/")[2]
    fifo = {"FifoQueue": "true"}
    create = sqs.client.create_queue

    again = create(QueueName=name, Attributes={**fifo, "ContentBasedDeduplication": "false"})
    other = {**fifo, "ContentBasedDeduplication": "true"}

    assert again["QueueUrl"] == url
    assert sqs.refusal(lambda: create(QueueName=name, Attributes=other)) == "QueueNameExists"


def test_attributes_of_a_new_fifo_queue(sqs, url):
    """Normal throughput, no content-based deduplication."""
    names = ["FifoQueue", "ContentBasedDeduplication", "DeduplicationScope", "FifoThroughputLimit"]

    assert sqs.attributes(url, *names) == {
        "FifoQueue": "true",
        "ContentBasedDeduplication": "false",
        "DeduplicationScope": "queue",
        "FifoThroughputLimit": "perQueue",
    }


def test_high_throughput_is_shown(sqs, url):
    """Both attributes can be set later."""
    high = {"DeduplicationScope": "messageGroup", "FifoThroughputLimit": "perMessageGroupId"}

    sqs.client.set_queue_attributes(QueueUrl=url, Attributes=high)

    assert sqs.attributes(url, *high) == high


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FifoQueue", "false"),
        ("ContentBasedDeduplication", "yes"),
        ("DeduplicationScope", "group"),
        ("FifoThroughputLimit", "none"),
        ("FifoThroughputLimit", "perMessageGroupId"),  # the scope is the queue
    ],
)
def test_bad_fifo_attributes_are_refused(sqs, url, name, value):
    """The type is for ever; the others have two values each."""
    change = {"QueueUrl": url, "Attributes": {name: value}}

    refused = sqs.refusal(lambda: sqs.client.set_queue_attributes(**change))

    assert refused == "InvalidAttributeValue"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FifoQueue", "true"),
        ("ContentBasedDeduplication", "true"),
        ("DeduplicationScope", "queue"),
        ("FifoThroughputLimit", "perQueue"),
    ],
)
def test_standard_queue_has_no_fifo_attributes(sqs, name, value):
    """They are unknown to it."""
    change = {"QueueUrl": sqs.create(), "Attributes": {name: value}}

    refused = sqs.refusal(lambda: sqs.client.set_queue_attributes(**change))

    assert refused == "InvalidAttributeName"


def test_group_is_required(sqs, url):
    """A message of no group is refused."""
    refused = sqs.refusal(lambda: sqs.send(url, MessageDeduplicationId="d"))

    assert refused == "MissingParameter"


def test_deduplication_id_is_required(sqs, url):
    """Unless the queue makes one of the body."""
    assert sqs.refusal(lambda: sqs.send(url, **GROUP)) == INVALID


@pytest.mark.parametrize("lacking", ["MessageGroupId", "MessageDeduplicationId"])
def test_batch_with_an_entry_without_ids_is_refused_whole(sqs, url, lacking):
    """Not entry by entry."""
    entry = {"Id": "1", "MessageBody": "x", "MessageDeduplicationId": "d", **GROUP}
    bad = {name: value for name, value in entry.items() if name != lacking}
    entries = [entry, {**bad, "Id": "2"}]

    refused = sqs.refusal(lambda: sqs.client.send_message_batch(QueueUrl=url, Entries=entries))

    assert refused == INVALID
    assert sqs.receive(url) == []


@pytest.mark.parametrize("name", ["MessageGroupId", "MessageDeduplicationId"])
@pytest.mark.parametrize("value", ["x" * 129, "a b", "é"], ids=["long", "space", "letter"])
def test_malformed_ids_are_refused(sqs, url, name, value):
    """1 to 128 letters, digits and punctuation of ASCII."""
    ids = {"MessageGroupId": "g", "MessageDeduplicationId": "d", name: value}

    assert sqs.refusal(lambda: sqs.send(url, **ids)) == INVALID


def test_sequence_numbers_grow(sqs, url):
    """20 digits, shown to the producer and the consumer alike."""
    sent = [send(sqs, url, str(number), str(number))["SequenceNumber"] for number in range(3)]
    received = [message["Attributes"]["SequenceNumber"] for message in sqs.receive(url)]

    assert all(re.fullmatch("[0-9]{20}", number) for number in sent)
    assert sent == sorted(set(sent)) == received


def test_system_attributes_of_a_fifo_message(sqs, url):
    """Both ids and the sequence number come with the usual ones."""
    send(sqs, url, "x", "d")

    (message,) = sqs.receive(url)
    attributes = message["Attributes"]

    assert sorted(attributes) == [
        "ApproximateFirstReceiveTimestamp",
        "ApproximateReceiveCount",
        "MessageDeduplicationId",
        "MessageGroupId",
        "SenderId",
        "SentTimestamp",
        "SequenceNumber",
    ]
    assert (attributes["MessageGroupId"], attributes["MessageDeduplicationId"]) == ("g", "d")


def test_duplicate_is_taken_and_not_delivered(sqs, url):
    """The second send is told the first message; its body is lost."""
    first = send(sqs, url, "1", "d")

    second = send(sqs, url, "2", "d")

    assert same(first, second)
    assert second["MD5OfMessageBody"] != first["MD5OfMessageBody"]
    assert bodies(sqs.receive(url)) == ["1"]


def test_duplicate_of_a_deleted_message(sqs, url):
    """What was received and deleted is remembered all the same."""
    first = send(sqs, url, "1", "d")
    sqs.delete(url, sqs.receive(url)[0])

    second = send(sqs, url, "1", "d")

    assert same(first, second)
    assert sqs.receive(url) == []


def test_duplicates_inside_a_batch(sqs, url):
    """The second entry is told the first."""
    entry = {"MessageBody": "x", "MessageDeduplicationId": "d", **GROUP}
    entries = [{"Id": "1", **entry}, {"Id": "2", **entry}]

    one, two = sqs.client.send_message_batch(QueueUrl=url, Entries=entries)["Successful"]

    assert same(one, two)
    assert len(sqs.receive(url)) == 1


def test_scope_of_deduplication_is_the_queue(sqs, url):
    """Another group makes no difference."""
    send(sqs, url, "1", "d", group="a")

    send(sqs, url, "2", "d", group="b")

    assert bodies(sqs.receive(url)) == ["1"]


def test_scope_of_deduplication_can_be_the_group(sqs):
    """Then each group has its own ids."""
    url = sqs.create_fifo({"DeduplicationScope": "messageGroup"})
    for group in ("a", "b", "a"):
        send(sqs, url, group, "d", group=group)

    assert sorted(bodies(sqs.receive(url))) == ["a", "b"]


def test_content_based_deduplication(sqs):
    """The id is the SHA-256 of the body; attributes do not count."""
    url = sqs.create_fifo({"ContentBasedDeduplication": "true"})
    attributes = {"k": {"DataType": "String", "StringValue": "v"}}
    first = sqs.send(url, "é", **GROUP)

    second = sqs.send(url, "é", MessageAttributes=attributes, **GROUP)
    (message,) = sqs.receive(url)

    assert same(first, second)
    expected = hashlib.sha256("é".encode()).hexdigest()
    assert message["Attributes"]["MessageDeduplicationId"] == expected


def test_given_id_beats_the_content(sqs):
    """Equal bodies with other ids are two messages; the digest given as an id is a duplicate."""
    url = sqs.create_fifo({"ContentBasedDeduplication": "true"})
    send(sqs, url, "x", "1")
    send(sqs, url, "x", "2")
    sqs.send(url, "x", **GROUP)

    send(sqs, url, "y", hashlib.sha256(b"x").hexdigest())

    assert bodies(sqs.receive(url)) == ["x", "x", "x"]


def test_purge_forgets_the_deduplication_ids(sqs, url):
    """After a purge the same id is a new message."""
    send(sqs, url, "1", "d")
    sqs.client.purge_queue(QueueUrl=url)

    send(sqs, url, "2", "d")

    assert bodies(sqs.receive(url)) == ["2"]


def test_attempt_is_answered_again(sqs, url):
    """The same id gives the same messages and handles, and is no second receive."""
    for number in range(3):
        send(sqs, url, str(number), str(number))
    first = sqs.receive(url, MaxNumberOfMessages=2, ReceiveRequestAttemptId="try")

    again = sqs.receive(url, MaxNumberOfMessages=2, ReceiveRequestAttemptId="try")

    assert len(first) == 2
    assert again == first
    assert sqs.receive(url, ReceiveRequestAttemptId="other") == []


def test_attempt_starts_the_visibility_timeout_anew(sqs, url):
    """From the second answer on."""
    send(sqs, url, "x", "d")
    sqs.receive(url, VisibilityTimeout=30, ReceiveRequestAttemptId="try")

    sqs.receive(url, VisibilityTimeout=1, ReceiveRequestAttemptId="try")

    assert len(sqs.receive_after(1, url)) == 1


@pytest.mark.parametrize("how", ["delete", "hide"])
def test_attempt_is_over_once_a_message_was_touched(sqs, url, how):
    """After a delete or a change of visibility it cannot be repeated."""
    send(sqs, url, "x", "d")
    (message,) = sqs.receive(url, ReceiveRequestAttemptId="try")
    if how == "delete":
        sqs.delete(url, message)
    else:
        sqs.hide(url, message, 60)

    refused = sqs.refusal(lambda: sqs.receive(url, ReceiveRequestAttemptId="try"))

    assert refused == INVALID


def test_attempt_that_got_nothing_is_no_attempt(sqs, url):
    """The same id may be used until something comes."""
    assert sqs.receive(url, ReceiveRequestAttemptId="try") == []
    send(sqs, url, "x", "d")

    assert bodies(sqs.receive(url, ReceiveRequestAttemptId="try")) == ["x"]


def test_malformed_attempt_is_refused(sqs, url):
    """1 to 128 letters, digits and punctuation of ASCII."""
    receive = sqs.receive

    assert sqs.refusal(lambda: receive(url, ReceiveRequestAttemptId="x" * 129)) == INVALID


def test_standard_queue_passes_over_attempts(sqs):
    """AWS takes the parameter there and does nothing with it."""
    url = sqs.create()
    sqs.send(url)
    sqs.receive(url, ReceiveRequestAttemptId="try")

    assert sqs.receive(url, ReceiveRequestAttemptId="try") == []

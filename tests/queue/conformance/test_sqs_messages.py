"""Sending and receiving: bodies, attributes, digests, limits."""

import hashlib
import struct
from typing import Any

import pytest

TRACE = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
HEADER = {"AWSTraceHeader": {"DataType": "String", "StringValue": TRACE}}
INVALID = "InvalidParameterValue"


def text(value: str, kind: str = "String") -> dict[str, str]:
    return {"DataType": kind, "StringValue": value}


def digest(attributes: dict[str, dict[str, Any]]) -> str:
    """The algorithm of the developer guide, written from its text."""

    def measured(data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + data

    md5 = hashlib.md5(usedforsecurity=False)
    for name in sorted(attributes):
        value = attributes[name]
        md5.update(measured(name.encode()) + measured(value["DataType"].encode()))
        if "BinaryValue" in value:
            md5.update(b"\2" + measured(value["BinaryValue"]))
        else:
            md5.update(b"\1" + measured(value["StringValue"].encode()))
    return md5.hexdigest()


def test_body_comes_back_with_its_digest(sqs):
    """A body is handed out as it was sent, with the MD5 of its bytes."""
    url = sqs.create()
    body = 'line\r\n\ttab é 漢 😀 "<&>"'
    md5 = hashlib.md5(body.encode(), usedforsecurity=False).hexdigest()

    sent = sqs.send(url, body)
    (message,) = sqs.receive(url)

    assert sent["MD5OfMessageBody"] == message["MD5OfBody"] == md5
    assert (message["Body"], message["MessageId"]) == (body, sent["MessageId"])


def test_system_attributes_of_a_first_receive(sqs):
    """All gives count, sender and both timestamps in milliseconds."""
    url = sqs.create()
    sqs.send(url)

    (message,) = sqs.receive(url)
    attributes = message["Attributes"]

    assert sorted(attributes) == [
        "ApproximateFirstReceiveTimestamp",
        "ApproximateReceiveCount",
        "SenderId",
        "SentTimestamp",
    ]
    assert attributes["ApproximateReceiveCount"] == "1"
    assert len(attributes["SentTimestamp"]) == len("1700000000000")
    assert attributes["ApproximateFirstReceiveTimestamp"] >= attributes["SentTimestamp"]


@pytest.mark.parametrize("parameter", ["MessageSystemAttributeNames", "AttributeNames"])
def test_only_the_system_attributes_asked_for(sqs, parameter):
    """The new and the old parameter both filter by name."""
    url = sqs.create()
    sqs.send(url)
    request = {"MessageSystemAttributeNames": [], parameter: ["SentTimestamp"]}

    (message,) = sqs.receive(url, **request)

    assert list(message["Attributes"]) == ["SentTimestamp"]


def test_nothing_is_shown_that_was_not_asked_for(sqs):
    """Without names a message has neither kind of attributes."""
    url = sqs.create()
    sqs.send(url, MessageAttributes={"k": text("v")}, MessageSystemAttributes=HEADER)

    (message,) = sqs.client.receive_message(QueueUrl=url)["Messages"]

    assert sorted(message) == ["Body", "MD5OfBody", "MessageId", "ReceiptHandle"]


def test_attributes_of_every_type_round_trip_with_their_digest(sqs):
    """String, Number, Binary and a custom label come back as sent; both digests are right."""
    url = sqs.create()
    attributes = {
        "s": text("é"),
        "n": text("-1.5e3", "Number"),
        "b": {"DataType": "Binary", "BinaryValue": b"\0\xff"},
        "c": text("v", "String.custom"),
        "d": {"DataType": "Binary.png", "BinaryValue": b"x"},
    }

    sent = sqs.send(url, MessageAttributes=attributes)
    (message,) = sqs.receive(url)

    assert message["MessageAttributes"] == attributes
    assert sent["MD5OfMessageAttributes"] == digest(attributes)
    assert message["MD5OfMessageAttributes"] == digest(attributes)


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["All"], ["General", "Hello", "Help.Me"]),
        ([".*"], ["General", "Hello", "Help.Me"]),
        (["Hello", "None"], ["Hello"]),
        (["Hel.*"], ["Hello", "Help.Me"]),
        (["Help.*"], ["Help.Me"]),
        (["hello"], []),
        (["None"], []),
    ],
    ids=lambda value: ",".join(value) or "nothing",
)
def test_attribute_filters(sqs, names, shown):
    """Names, a prefix and both words for all select; the digest is over the selected ones."""
    url = sqs.create()
    attributes = {"General": text("Kenobi"), "Hello": text("There"), "Help.Me": text("Me")}
    sqs.send(url, MessageAttributes=attributes)

    (message,) = sqs.receive(url, MessageAttributeNames=names)

    assert sorted(message.get("MessageAttributes", {})) == shown
    expected = digest({name: attributes[name] for name in shown}) if shown else None
    assert message.get("MD5OfMessageAttributes") == expected


def test_trace_header_of_a_single_send(sqs):
    """AWSTraceHeader is a system attribute, not a message attribute."""
    url = sqs.create()
    sqs.send(url, MessageSystemAttributes=HEADER)

    (message,) = sqs.receive(url)

    assert message["Attributes"]["AWSTraceHeader"] == TRACE
    assert "MessageAttributes" not in message


def test_trace_header_of_a_batch_send(sqs):
    """A batch carries AWSTraceHeader as a single send does."""
    url = sqs.create()
    entry = {"Id": "1", "MessageBody": "x", "MessageSystemAttributes": HEADER}

    sqs.client.send_message_batch(QueueUrl=url, Entries=[entry])
    (message,) = sqs.receive(url, MessageSystemAttributeNames=["AWSTraceHeader"])

    assert message["Attributes"] == {"AWSTraceHeader": TRACE}


def test_digest_of_system_attributes(sqs):
    """Single and batch sends answer with the digest over AWSTraceHeader."""
    url = sqs.create()
    entry = {"Id": "1", "MessageBody": "x", "MessageSystemAttributes": HEADER}

    single = sqs.send(url, MessageSystemAttributes=HEADER)
    (batch,) = sqs.client.send_message_batch(QueueUrl=url, Entries=[entry])["Successful"]

    assert single["MD5OfMessageSystemAttributes"] == digest(HEADER)
    assert batch["MD5OfMessageSystemAttributes"] == digest(HEADER)


def test_other_system_attributes_are_refused(sqs):
    """AWSTraceHeader is the only one a producer may set."""
    url = sqs.create()

    refused = sqs.refusal(lambda: sqs.send(url, MessageSystemAttributes={"Other": text("v")}))

    assert refused == INVALID


def test_group_of_a_standard_queue_is_shown(sqs):
    """A standard queue takes a MessageGroupId (fair queues) and shows it."""
    url = sqs.create()
    sqs.send(url, MessageGroupId="tenant-1")

    (message,) = sqs.receive(url)

    assert message["Attributes"]["MessageGroupId"] == "tenant-1"


def test_deduplication_id_is_refused_on_a_standard_queue(sqs):
    """MessageDeduplicationId is for FIFO queues only."""
    url = sqs.create()

    assert sqs.refusal(lambda: sqs.send(url, MessageDeduplicationId="d")) == INVALID


def test_ten_attributes_are_taken(sqs):
    """Ten is the most."""
    url = sqs.create()
    sqs.send(url, MessageAttributes={f"k{n}": text("v") for n in range(10)})

    (message,) = sqs.receive(url)

    assert len(message["MessageAttributes"]) == 10


def test_eleven_attributes_are_refused(sqs):
    """One more than ten is an error, and nothing is sent."""
    url = sqs.create()
    attributes = {f"k{n}": text("v") for n in range(11)}

    assert sqs.refusal(lambda: sqs.send(url, MessageAttributes=attributes)) == INVALID
    assert sqs.receive(url) == []


@pytest.mark.parametrize(
    "attribute",
    [
        text("v", "Bogus"),
        text("one", "Number"),
        {"DataType": "String"},
        text("a\x00b"),
    ],
    ids=["unknown type", "no number", "no value", "control character"],
)
def test_bad_attributes_are_refused(sqs, attribute):
    """A type, a number or a value that SQS does not know is an error."""
    url = sqs.create()

    assert sqs.refusal(lambda: sqs.send(url, MessageAttributes={"k": attribute})) == INVALID


@pytest.mark.parametrize("name", ["AWS.x", "amazon.x", ".x", "x.", "a..b", "sp ace", "long"])
def test_bad_attribute_names_are_refused(sqs, name):
    """Reserved prefixes, stray periods, other characters and long names are errors."""
    url = sqs.create()

    name = "x" * 257 if name == "long" else name
    assert sqs.refusal(lambda: sqs.send(url, MessageAttributes={name: text("v")})) == INVALID


def test_empty_string_attribute_is_refused(sqs):
    """An attribute must have a value that is not empty."""
    url = sqs.create()

    assert sqs.refusal(lambda: sqs.send(url, MessageAttributes={"k": text("")})) == INVALID


def test_control_characters_are_refused(sqs):
    """A body has only the characters of the documented set."""
    url = sqs.create()

    refused = sqs.refusal(lambda: sqs.send(url, "a\x00b"))

    assert refused == "InvalidMessageContents"


def test_empty_body_is_refused(sqs):
    """The minimum size is one character."""
    url = sqs.create()

    assert sqs.refusal(lambda: sqs.send(url, "")) == "MissingParameter"


def test_one_mebibyte_is_taken(sqs):
    """The limit itself fits."""
    url = sqs.create()
    sqs.send(url, "x" * 1_048_576)

    (message,) = sqs.receive(url)

    assert len(message["Body"]) == 1_048_576


def test_more_than_one_mebibyte_is_refused(sqs):
    """One byte more does not fit."""
    url = sqs.create()

    assert sqs.refusal(lambda: sqs.send(url, "x" * 1_048_577)) == INVALID


def test_size_counts_attribute_names_types_and_values(sqs):
    """What the body leaves free is filled exactly by name, type and value, not one byte more."""
    url = sqs.create({"MaximumMessageSize": "1024"})
    name, kind, value = "n" * 8, "String", "é"
    body = "x" * (1024 - 8 - 6 - 2)

    sqs.send(url, body, MessageAttributes={name: text(value, kind)})

    over = {name: text(value + "e", kind)}
    assert sqs.refusal(lambda: sqs.send(url, body, MessageAttributes=over)) == INVALID


def test_maximum_message_size_of_the_queue_counts(sqs):
    """A queue may take less than 1 MiB."""
    url = sqs.create({"MaximumMessageSize": "1024"})
    sqs.send(url, "x" * 1024)

    assert sqs.refusal(lambda: sqs.send(url, "x" * 1025)) == INVALID


@pytest.mark.parametrize("delay", [-1, 901])
def test_delay_out_of_range_is_refused(sqs, delay):
    """A message waits at most 900 seconds."""
    url = sqs.create()

    assert sqs.refusal(lambda: sqs.send(url, DelaySeconds=delay)) == INVALID


@pytest.mark.parametrize(
    "parameters",
    [
        {"MaxNumberOfMessages": 0},
        {"MaxNumberOfMessages": 11},
        {"WaitTimeSeconds": -1},
        {"WaitTimeSeconds": 21},
        {"VisibilityTimeout": -1},
        {"VisibilityTimeout": 43201},
    ],
    ids=lambda value: "=".join(map(str, *value.items())),
)
def test_receive_parameters_out_of_range_are_refused(sqs, parameters):
    """Each parameter of a receive has its documented range."""
    url = sqs.create()

    assert sqs.refusal(lambda: sqs.receive(url, **parameters)) == INVALID


def test_no_more_messages_than_asked_for(sqs):
    """MaxNumberOfMessages is a limit; the default is one."""
    url = sqs.create()
    for _ in range(4):
        sqs.send(url)

    one = sqs.client.receive_message(QueueUrl=url)["Messages"]
    two = sqs.receive(url, MaxNumberOfMessages=2)

    assert (len(one), len(two)) == (1, 2)


def test_delayed_message_comes_later(sqs):
    """DelaySeconds of a message hides it first; it is counted as delayed."""
    url = sqs.create()
    sqs.send(url, DelaySeconds=1)

    assert sqs.receive(url) == []
    counted = sqs.attributes(url, "ApproximateNumberOfMessagesDelayed")
    assert counted == {"ApproximateNumberOfMessagesDelayed": "1"}
    assert len(sqs.receive_after(1, url)) == 1


def test_delay_of_the_queue_is_the_default(sqs):
    """A queue's DelaySeconds holds for messages without one; a message's zero beats it."""
    url = sqs.create({"DelaySeconds": "1"})
    sqs.send(url, "late")
    sqs.send(url, "at once", DelaySeconds=0)

    first = [message["Body"] for message in sqs.receive(url)]
    then = [message["Body"] for message in sqs.receive_after(1, url)]

    assert (first, then) == (["at once"], ["late"])

"""Batches: each entry for itself, and what refuses the whole call."""

import pytest


def entry(number: int, **more):
    return {"Id": str(number), "MessageBody": f"body {number}", **more}


def failures(answer):
    return [(failed["Id"], failed["Code"], failed["SenderFault"]) for failed in answer["Failed"]]


def test_ten_messages_in_one_call(sqs):
    """Every entry is answered by its id and can be received."""
    url = sqs.create()

    answer = sqs.client.send_message_batch(QueueUrl=url, Entries=[entry(n) for n in range(10)])
    bodies = {message["Body"] for message in sqs.receive(url)}

    assert [sent["Id"] for sent in answer["Successful"]] == [str(n) for n in range(10)]
    assert "Failed" not in answer
    assert bodies == {f"body {n}" for n in range(10)}


def test_one_bad_message_fails_alone(sqs):
    """The good entry is sent, the bad one reported."""
    url = sqs.create()
    bad = entry(2, MessageAttributes={"k": {"DataType": "Bogus", "StringValue": "v"}})

    answer = sqs.client.send_message_batch(QueueUrl=url, Entries=[entry(1), bad])

    assert [sent["Id"] for sent in answer["Successful"]] == ["1"]
    assert failures(answer) == [("2", "InvalidParameterValue", True)]
    assert [message["Body"] for message in sqs.receive(url)] == ["body 1"]


def test_one_bad_character_fails_alone(sqs):
    """A body outside the character set is reported for its entry."""
    url = sqs.create()
    bad = {"Id": "2", "MessageBody": "\x00"}

    answer = sqs.client.send_message_batch(QueueUrl=url, Entries=[entry(1), bad])

    assert failures(answer) == [("2", "InvalidMessageContents", True)]


def test_one_message_too_large_for_the_queue_fails_alone(sqs):
    """The queue's own limit is checked for each entry."""
    url = sqs.create({"MaximumMessageSize": "1024"})
    large = {"Id": "2", "MessageBody": "x" * 1025}

    answer = sqs.client.send_message_batch(QueueUrl=url, Entries=[entry(1), large])

    assert failures(answer) == [("2", "InvalidParameterValue", True)]


def test_one_bad_delay_fails_alone(sqs):
    """A delay out of range is reported for its entry."""
    url = sqs.create()
    late = entry(2, DelaySeconds=901)

    answer = sqs.client.send_message_batch(QueueUrl=url, Entries=[entry(1), late])

    assert failures(answer) == [("2", "InvalidParameterValue", True)]


def test_one_bad_handle_fails_alone_in_a_delete(sqs):
    """The good handle deletes, the bad one is reported."""
    url = sqs.create()
    sqs.send(url)
    (message,) = sqs.receive(url)
    handles = [message["ReceiptHandle"], "nonsense"]
    entries = [{"Id": str(n), "ReceiptHandle": handle} for n, handle in enumerate(handles)]

    answer = sqs.client.delete_message_batch(QueueUrl=url, Entries=entries)

    assert [done["Id"] for done in answer["Successful"]] == ["0"]
    assert failures(answer) == [("1", "ReceiptHandleIsInvalid", True)]


def test_one_bad_handle_fails_alone_in_a_visibility_change(sqs):
    """The good handle is changed, the bad one reported."""
    url = sqs.create()
    sqs.send(url)
    (message,) = sqs.receive(url)
    handles = [message["ReceiptHandle"], "nonsense"]
    entries = [
        {"Id": str(n), "ReceiptHandle": handle, "VisibilityTimeout": 0}
        for n, handle in enumerate(handles)
    ]

    answer = sqs.client.change_message_visibility_batch(QueueUrl=url, Entries=entries)

    assert failures(answer) == [("1", "ReceiptHandleIsInvalid", True)]
    assert len(sqs.receive(url)) == 1


@pytest.mark.parametrize(
    ("entries", "shape"),
    [
        ([entry(1), entry(1)], "BatchEntryIdsNotDistinct"),
        ([entry(n) for n in range(11)], "TooManyEntriesInBatchRequest"),
        ([{"Id": "a b", "MessageBody": "x"}], "InvalidBatchEntryId"),
        ([{"Id": "x" * 81, "MessageBody": "x"}], "InvalidBatchEntryId"),
    ],
    ids=["same id twice", "eleven", "space in the id", "long id"],
)
def test_malformed_batch_is_refused_whole(sqs, entries, shape):
    """Nothing of such a batch is sent."""
    url = sqs.create()

    refused = sqs.refusal(lambda: sqs.client.send_message_batch(QueueUrl=url, Entries=entries))

    assert refused == shape
    assert sqs.receive(url) == []


@pytest.mark.parametrize(
    "action", ["send_message_batch", "delete_message_batch", "change_message_visibility_batch"]
)
def test_empty_batch_is_refused(sqs, action):
    """A batch has at least one entry."""
    url = sqs.create()
    call = getattr(sqs.client, action)

    refused = sqs.refusal(lambda: call(QueueUrl=url, Entries=[]))

    assert refused == "EmptyBatchRequest"


def test_batch_of_more_than_one_mebibyte_is_refused_whole(sqs):
    """The messages of a batch share 1 MiB."""
    url = sqs.create()
    entries = [{"Id": str(n), "MessageBody": "x" * 150_000} for n in range(7)]

    refused = sqs.refusal(lambda: sqs.client.send_message_batch(QueueUrl=url, Entries=entries))

    assert refused == "BatchRequestTooLong"
    assert sqs.receive(url) == []

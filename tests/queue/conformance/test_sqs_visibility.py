"""Visibility timeouts, receipt handles and long polls."""

import json
import socket
import threading
from urllib.parse import urlsplit

import pytest

INVALID = "InvalidParameterValue"
STALE = "ReceiptHandleIsInvalid"


def test_received_message_is_invisible(sqs):
    """What one consumer holds, no other gets."""
    url = sqs.create()
    sqs.send(url)

    assert len(sqs.receive(url)) == 1
    assert sqs.receive(url) == []


def test_message_comes_back_after_its_timeout(sqs):
    """The receive's VisibilityTimeout ends: a new handle, a second receive, the first time kept."""
    url = sqs.create()
    sqs.send(url)
    (first,) = sqs.receive(url, VisibilityTimeout=1)

    (again,) = sqs.receive_after(1, url)

    assert again["MessageId"] == first["MessageId"]
    assert again["ReceiptHandle"] != first["ReceiptHandle"]
    assert again["Attributes"]["ApproximateReceiveCount"] == "2"
    arrival = "ApproximateFirstReceiveTimestamp"
    assert again["Attributes"][arrival] == first["Attributes"][arrival]


def test_timeout_of_the_queue_is_the_default(sqs):
    """A receive without VisibilityTimeout takes the queue's."""
    url = sqs.create({"VisibilityTimeout": "1"})
    sqs.send(url)
    sqs.receive(url)

    assert len(sqs.receive_after(1, url)) == 1


def test_visibility_zero_makes_visible_at_once(sqs):
    """ChangeMessageVisibility 0 gives the message back."""
    url = sqs.create()
    sqs.send(url)
    (message,) = sqs.receive(url)

    sqs.hide(url, message, 0)

    assert len(sqs.receive(url)) == 1


def test_receive_with_visibility_zero_hides_nothing(sqs):
    """One receive hands the message out once, the next one again."""
    url = sqs.create()
    sqs.send(url)

    counts = [
        [message["Attributes"]["ApproximateReceiveCount"] for message in received]
        for received in (sqs.receive(url, VisibilityTimeout=0) for _ in range(2))
    ]

    assert counts == [["1"], ["2"]]


def test_extended_visibility_counts_from_the_change(sqs):
    """A change replaces the running timeout."""
    url = sqs.create()
    sqs.send(url)
    sqs.send(url, "marker", DelaySeconds=2)
    (message,) = sqs.receive(url, VisibilityTimeout=1)
    sqs.hide(url, message, 60)

    received = sqs.receive_after(2, url)

    assert [message["Body"] for message in received] == ["marker"]


@pytest.mark.parametrize("seconds", [-1, 43201])
def test_visibility_out_of_range_is_refused(sqs, seconds):
    """0 to 43,200 seconds."""
    url = sqs.create()
    sqs.send(url)
    (message,) = sqs.receive(url)

    assert sqs.refusal(lambda: sqs.hide(url, message, seconds)) == INVALID


def test_handle_of_an_earlier_receive_is_refused(sqs):
    """After a redelivery the old handle neither deletes nor hides; the message is kept."""
    url = sqs.create()
    sqs.send(url)
    (old,) = sqs.receive(url)
    sqs.hide(url, old, 0)
    (new,) = sqs.receive(url)

    assert sqs.refusal(lambda: sqs.delete(url, old)) == STALE
    assert sqs.refusal(lambda: sqs.hide(url, old, 0)) == STALE
    sqs.hide(url, new, 0)
    assert len(sqs.receive(url)) == 1


def test_handle_that_never_was_is_refused(sqs):
    """A string that is no handle is ReceiptHandleIsInvalid in every action."""
    url = sqs.create()
    nonsense = {"ReceiptHandle": "nonsense"}

    assert sqs.refusal(lambda: sqs.delete(url, nonsense)) == STALE
    assert sqs.refusal(lambda: sqs.hide(url, nonsense, 0)) == STALE


def test_handle_of_another_queue_is_refused(sqs):
    """A handle belongs to the queue that gave it."""
    url, other = sqs.create(), sqs.create()
    sqs.send(url)
    (message,) = sqs.receive(url)

    assert sqs.refusal(lambda: sqs.delete(other, message)) == STALE


def test_deleted_message_is_gone(sqs):
    """A delete with the current handle is final; no timeout brings the message back."""
    url = sqs.create()
    sqs.send(url)
    sqs.send(url, "marker", DelaySeconds=2)
    (message,) = sqs.receive(url, VisibilityTimeout=1)
    sqs.delete(url, message)

    received = sqs.receive_after(2, url)

    assert [message["Body"] for message in received] == ["marker"]


def test_second_delete_succeeds(sqs):
    """Deleting what is deleted already is no error."""
    url = sqs.create()
    sqs.send(url)
    (message,) = sqs.receive(url)

    sqs.delete(url, message)
    sqs.delete(url, message)


def test_deleting_after_the_timeout_works_while_nobody_got_it_again(sqs):
    """On a standard queue the last handle deletes even when its time is over."""
    url = sqs.create()
    sqs.send(url)
    (message,) = sqs.receive(url)
    sqs.hide(url, message, 0)

    sqs.delete(url, message)

    assert sqs.receive(url) == []


def test_visibility_of_a_deleted_message_is_refused(sqs):
    """There is nothing left to hide."""
    url = sqs.create()
    sqs.send(url)
    (message,) = sqs.receive(url)
    sqs.delete(url, message)

    assert sqs.refusal(lambda: sqs.hide(url, message, 10)) == INVALID


def test_visibility_of_a_visible_message_is_refused(sqs):
    """Only a message in flight has a timeout to change."""
    url = sqs.create()
    sqs.send(url)
    (message,) = sqs.receive(url)
    sqs.hide(url, message, 0)

    refused = sqs.refusal(lambda: sqs.hide(url, message, 10))

    assert refused == "MessageNotInflight"
    assert len(sqs.receive(url)) == 1


def test_twelve_hours_count_from_the_receive(sqs):
    """No change may take the total beyond 43,200 seconds after the receive."""
    url = sqs.create()
    sqs.send(url)
    sqs.send(url, "marker", DelaySeconds=1)
    (message,) = sqs.receive(url, VisibilityTimeout=60)
    sqs.receive_after(1, url)

    assert sqs.refusal(lambda: sqs.hide(url, message, 43_200)) == INVALID
    sqs.hide(url, message, 43_000)


def test_counts_tell_visible_and_in_flight_apart(sqs):
    """The approximate numbers are exact here."""
    url = sqs.create()
    for _ in range(3):
        sqs.send(url)
    sqs.receive(url, MaxNumberOfMessages=1)

    counted = sqs.attributes(
        url, "ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"
    )

    assert counted == {
        "ApproximateNumberOfMessages": "2",
        "ApproximateNumberOfMessagesNotVisible": "1",
    }


def test_long_poll_wakes_after_a_send(sqs):
    """A parked receive gets a message long before its wait is over."""
    url = sqs.create()
    received: list[dict] = []
    poll = threading.Thread(target=lambda: received.extend(sqs.receive(url, WaitTimeSeconds=20)))
    poll.start()

    sqs.send(url)
    poll.join(10)

    assert [message["Body"] for message in received] == ["body"]


def test_poller_that_left_swallows_nothing(sqs):
    """A message goes to a live connection, not to one that was closed in mid-poll."""
    url = sqs.create()
    address = urlsplit(sqs.endpoint)
    body = json.dumps({"QueueUrl": url, "WaitTimeSeconds": 20}).encode()
    credential = "AWS4-HMAC-SHA256 Credential=local/20260101/us-east-1/sqs/aws4_request"
    head = [
        "POST / HTTP/1.1",
        f"Host: {address.netloc}",
        "X-Amz-Target: AmazonSQS.ReceiveMessage",
        "Content-Type: application/x-amz-json-1.0",
        "X-Amz-Date: 20260101T000000Z",
        f"Authorization: {credential}, SignedHeaders=host, Signature=0",
        f"Content-Length: {len(body)}",
    ]
    with socket.create_connection((address.hostname, address.port)) as ghost:
        ghost.sendall("\r\n".join([*head, "", ""]).encode() + body)
        sqs.attributes(url, "QueueArn")  # answered after the poll before it was read

    sqs.send(url)

    assert len(sqs.receive(url)) == 1

"""Queues: making, finding, changing, emptying, tagging and deleting them."""

import json
import uuid

import pytest

GONE = "QueueDoesNotExist"
INVALID = "InvalidParameterValue"


def test_defaults_of_a_new_queue(sqs):
    """The attributes nobody set have the documented values."""
    attributes = sqs.attributes(sqs.create(), "All")

    for moment in ("CreatedTimestamp", "LastModifiedTimestamp", "QueueArn"):
        attributes.pop(moment)
    assert attributes == {
        "ApproximateNumberOfMessages": "0",
        "ApproximateNumberOfMessagesDelayed": "0",
        "ApproximateNumberOfMessagesNotVisible": "0",
        "DelaySeconds": "0",
        "MaximumMessageSize": "1048576",
        "MessageRetentionPeriod": "345600",
        "ReceiveMessageWaitTimeSeconds": "0",
        "SqsManagedSseEnabled": "true",
        "VisibilityTimeout": "30",
    }


def test_url_of_a_name(sqs):
    """GetQueueUrl returns what CreateQueue returned."""
    url = sqs.create()

    answer = sqs.client.get_queue_url(QueueName=url.rsplit("/", 1)[1])

    assert answer["QueueUrl"] == url


def test_unknown_queue_is_refused(sqs):
    """By name and by URL, the same exception."""
    url = sqs.create() + "-not"

    assert sqs.refusal(lambda: sqs.client.get_queue_url(QueueName="not-there")) == GONE
    assert sqs.refusal(lambda: sqs.receive(url)) == GONE
    assert sqs.refusal(lambda: sqs.send(url)) == GONE


def test_error_codes_in_the_older_spelling(sqs):
    """Error.Code is what the query protocol called the error; the new name is kept beside it."""
    with pytest.raises(sqs.client.exceptions.QueueDoesNotExist) as refused:
        sqs.client.get_queue_url(QueueName="not-there")

    error = refused.value.response["Error"]
    assert error["Code"] == "AWS.SimpleQueueService.NonExistentQueue"
    assert (error["QueryErrorCode"], error["Type"]) == ("QueueDoesNotExist", "Sender")


def test_creating_again_with_the_same_attributes(sqs):
    """CreateQueue is idempotent: same URL, the messages are still there."""
    url = sqs.create({"VisibilityTimeout": "40"})
    sqs.send(url)
    name = url.rsplit("/", 1)[1]

    again = sqs.client.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "40"})

    assert again["QueueUrl"] == url
    assert len(sqs.receive(url)) == 1


def test_creating_again_without_attributes(sqs):
    """Only attributes that are given are compared."""
    url = sqs.create({"VisibilityTimeout": "40"})

    again = sqs.client.create_queue(QueueName=url.rsplit("/", 1)[1])

    assert again["QueueUrl"] == url


def test_creating_again_with_other_attributes_is_refused(sqs):
    """An existing queue is not altered inadvertently."""
    name = sqs.create({"VisibilityTimeout": "40"}).rsplit("/", 1)[1]
    other = {"VisibilityTimeout": "41"}

    refused = sqs.refusal(lambda: sqs.client.create_queue(QueueName=name, Attributes=other))

    assert refused == "QueueNameExists"


@pytest.mark.parametrize(
    "name", ["sp ace", "x" * 81, "a.b", "é"], ids=["space", "long", "period", "accent"]
)
def test_bad_queue_names_are_refused(sqs, name):
    """Up to 80 letters, digits, hyphens and underscores."""
    assert sqs.refusal(lambda: sqs.client.create_queue(QueueName=name)) == INVALID


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VisibilityTimeout", "43201"),
        ("DelaySeconds", "901"),
        ("MessageRetentionPeriod", "59"),
        ("MaximumMessageSize", "1048577"),
        ("ReceiveMessageWaitTimeSeconds", "21"),
        ("VisibilityTimeout", "soon"),
    ],
)
def test_attribute_values_out_of_range_are_refused(sqs, name, value):
    """Each attribute has its documented range."""
    refused = sqs.refusal(lambda: sqs.create({name: value}))

    assert refused == "InvalidAttributeValue"


def test_unknown_attribute_is_refused(sqs):
    """Names are checked in every direction."""
    url = sqs.create()
    unknown = "InvalidAttributeName"

    assert sqs.refusal(lambda: sqs.create({"Colour": "red"})) == unknown
    assert sqs.refusal(lambda: sqs.attributes(url, "Colour")) == unknown


def test_changed_attributes_are_shown_and_used(sqs):
    """SetQueueAttributes changes what it names and nothing else."""
    url = sqs.create({"DelaySeconds": "5"})

    sqs.client.set_queue_attributes(QueueUrl=url, Attributes={"VisibilityTimeout": "77"})

    shown = sqs.attributes(url, "VisibilityTimeout", "DelaySeconds")
    assert shown == {"VisibilityTimeout": "77", "DelaySeconds": "5"}


def test_no_attributes_when_none_are_asked_for(sqs):
    """Without names the answer is empty."""
    assert sqs.attributes(sqs.create()) == {}


def test_queues_are_listed_by_prefix(sqs):
    """Only names that begin with it."""
    prefix = f"list-{uuid.uuid4().hex[:8]}"
    urls = [
        sqs.client.create_queue(QueueName=f"{prefix}-{name}")["QueueUrl"] for name in ("a", "b")
    ]
    sqs.create()

    listed = sqs.client.list_queues(QueueNamePrefix=prefix)

    assert sorted(listed["QueueUrls"]) == urls
    assert "NextToken" not in listed


def test_list_of_no_queues(sqs):
    """The list is left out when it is empty."""
    assert "QueueUrls" not in sqs.client.list_queues(QueueNamePrefix="no-such-prefix")


def test_queues_are_listed_in_pages(sqs):
    """MaxResults limits a page, NextToken continues it."""
    prefix = f"page-{uuid.uuid4().hex[:8]}"
    urls = [
        sqs.client.create_queue(QueueName=f"{prefix}-{number}")["QueueUrl"] for number in range(3)
    ]

    pages = sqs.client.get_paginator("list_queues").paginate(
        QueueNamePrefix=prefix, PaginationConfig={"PageSize": 2}
    )

    assert [page["QueueUrls"] for page in pages] == [urls[:2], urls[2:]]


def test_purge_forgets_every_message(sqs):
    """Visible, in flight and delayed alike."""
    url = sqs.create()
    for delay in (0, 0, 60):
        sqs.send(url, DelaySeconds=delay)
    sqs.receive(url, MaxNumberOfMessages=1)

    sqs.client.purge_queue(QueueUrl=url)

    counts = {
        name: value
        for name, value in sqs.attributes(url, "All").items()
        if name.startswith("Approximate")
    }
    assert set(counts.values()) == {"0"}


def test_second_purge_within_a_minute_is_refused(sqs):
    """One PurgeQueue a minute and queue."""
    url = sqs.create()
    sqs.client.purge_queue(QueueUrl=url)

    refused = sqs.refusal(lambda: sqs.client.purge_queue(QueueUrl=url))

    assert refused == "PurgeQueueInProgress"


def test_deleted_queue_is_gone(sqs):
    """Its name, its URL and its messages."""
    url = sqs.create()
    sqs.send(url)

    sqs.client.delete_queue(QueueUrl=url)

    assert sqs.refusal(lambda: sqs.receive(url)) == GONE


def test_name_of_a_deleted_queue_is_blocked_for_a_minute(sqs):
    """QueueDeletedRecently until 60 seconds have passed."""
    url = sqs.create()
    sqs.client.delete_queue(QueueUrl=url)
    name = url.rsplit("/", 1)[1]

    refused = sqs.refusal(lambda: sqs.client.create_queue(QueueName=name))

    assert refused == "QueueDeletedRecently"


def test_tags_are_set_listed_and_taken_off(sqs):
    """At creation and later."""
    name = f"tags-{uuid.uuid4().hex[:8]}"
    url = sqs.client.create_queue(QueueName=name, tags={"a": "1"})["QueueUrl"]

    sqs.client.tag_queue(QueueUrl=url, Tags={"b": "2", "c": ""})
    sqs.client.untag_queue(QueueUrl=url, TagKeys=["a", "none"])

    assert sqs.client.list_queue_tags(QueueUrl=url)["Tags"] == {"b": "2", "c": ""}


def test_no_tags(sqs):
    """A queue without tags has an empty answer."""
    assert "Tags" not in sqs.client.list_queue_tags(QueueUrl=sqs.create())


def test_redrive_policy_needs_a_queue_that_exists(sqs):
    """A dead letter target must be there when it is named."""
    arn = sqs.arn(sqs.create()) + "-not"
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 2})

    assert sqs.refusal(lambda: sqs.create({"RedrivePolicy": policy})) == INVALID


@pytest.mark.parametrize("count", [0, 1001])
def test_max_receive_count_out_of_range_is_refused(sqs, count):
    """1 to 1,000."""
    arn = sqs.arn(sqs.create())
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": count})

    assert sqs.refusal(lambda: sqs.create({"RedrivePolicy": policy})) == INVALID

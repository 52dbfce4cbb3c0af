"""Dead letter queues and move tasks."""

import json

import pytest

TRACE = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
HEADER = {"AWSTraceHeader": {"DataType": "String", "StringValue": TRACE}}
ATTRIBUTES = {"k": {"DataType": "String", "StringValue": "v"}}


@pytest.fixture
def pair(sqs):
    """Return the URLs of a queue that gives up after two receives, and of its DLQ."""
    dlq = sqs.create()
    policy = {"deadLetterTargetArn": sqs.arn(dlq), "maxReceiveCount": "2"}
    return sqs.create({"RedrivePolicy": json.dumps(policy)}), dlq


def give_up(sqs, url):
    """Receive and give back until nothing comes any more; return how often something came."""
    receives = 0
    while messages := sqs.receive(url):
        receives += 1
        for message in messages:
            sqs.hide(url, message, 0)
    return receives


def finished(sqs, arn):
    """Return the latest move task once it does not run any more."""
    for _ in range(2000):
        (task,) = sqs.client.list_message_move_tasks(SourceArn=arn)["Results"]
        if task["Status"] != "RUNNING":
            return task
    raise AssertionError(task)


def test_message_moves_after_max_receive_count(sqs, pair):
    """Two receives, and the third finds it in the DLQ: same id, all it carries, its source."""
    url, dlq = pair
    sent = sqs.send(url, MessageAttributes=ATTRIBUTES, MessageSystemAttributes=HEADER)

    receives = give_up(sqs, url)
    (dead,) = sqs.receive(dlq)

    assert receives == 2
    assert dead["MessageId"] == sent["MessageId"]
    assert dead["Body"] == "body"
    assert dead["MessageAttributes"] == ATTRIBUTES
    assert dead["Attributes"]["AWSTraceHeader"] == TRACE
    assert dead["Attributes"]["DeadLetterQueueSourceArn"] == sqs.arn(url)


def test_message_stays_until_it_is_received_once_more(sqs, pair):
    """The move happens at the receive after the last allowed one, not before."""
    url, dlq = pair
    sqs.send(url)
    for _ in range(2):
        (message,) = sqs.receive(url)
        sqs.hide(url, message, 0)

    before = sqs.receive(dlq)
    third = sqs.receive(url)
    after = sqs.receive(dlq)

    assert (before, third, len(after)) == ([], [], 1)


def test_receive_count_goes_on_in_the_dlq(sqs, pair):
    """ApproximateReceiveCount counts the receives across all queues."""
    url, dlq = pair
    sqs.send(url)
    give_up(sqs, url)

    (dead,) = sqs.receive(dlq)

    assert dead["Attributes"]["ApproximateReceiveCount"] == "3"


def test_sent_timestamp_is_kept_in_the_dlq(sqs, pair):
    """The enqueue time of a standard queue's message is unchanged by the move."""
    url, dlq = pair
    sqs.send(url)
    (first,) = sqs.receive(url)
    sqs.hide(url, first, 0)
    give_up(sqs, url)

    (dead,) = sqs.receive(dlq)

    assert dead["Attributes"]["SentTimestamp"] == first["Attributes"]["SentTimestamp"]


def test_sources_of_a_dlq_are_listed(sqs, pair):
    """ListDeadLetterSourceQueues names the queues that use it."""
    url, dlq = pair

    assert sqs.client.list_dead_letter_source_queues(QueueUrl=dlq)["queueUrls"] == [url]
    assert sqs.client.list_dead_letter_source_queues(QueueUrl=url)["queueUrls"] == []


def test_empty_redrive_policy_ends_it(sqs, pair):
    """An empty string takes the policy off."""
    url, dlq = pair

    sqs.client.set_queue_attributes(QueueUrl=url, Attributes={"RedrivePolicy": ""})

    assert sqs.attributes(url, "RedrivePolicy") == {}
    assert sqs.client.list_dead_letter_source_queues(QueueUrl=dlq)["queueUrls"] == []


def test_move_task_brings_messages_back(sqs, pair):
    """Without a destination each message goes back to where it came from."""
    url, dlq = pair
    for number in range(3):
        sqs.send(url, str(number), MessageAttributes=ATTRIBUTES)
    give_up(sqs, url)

    sqs.client.start_message_move_task(SourceArn=sqs.arn(dlq))
    task = finished(sqs, sqs.arn(dlq))
    back = sqs.receive(url)

    assert task["Status"] == "COMPLETED"
    assert task["ApproximateNumberOfMessagesMoved"] == 3
    assert sorted(message["Body"] for message in back) == ["0", "1", "2"]
    assert back[0]["MessageAttributes"] == ATTRIBUTES
    assert sqs.receive(dlq) == []


def test_moved_message_starts_anew(sqs, pair):
    """A redriven message is a new one: its id is another, its receives count from one."""
    url, dlq = pair
    sent = sqs.send(url)
    give_up(sqs, url)
    sqs.client.start_message_move_task(SourceArn=sqs.arn(dlq))
    finished(sqs, sqs.arn(dlq))

    (back,) = sqs.receive(url)

    assert back["MessageId"] != sent["MessageId"]
    assert back["Attributes"]["ApproximateReceiveCount"] == "1"


def test_handle_of_a_move_task_is_shown_while_it_runs(sqs, pair):
    """A task that ended cannot be cancelled and shows no handle."""
    url, dlq = pair
    sqs.send(url)
    give_up(sqs, url)
    sqs.client.start_message_move_task(SourceArn=sqs.arn(dlq))

    assert "TaskHandle" not in finished(sqs, sqs.arn(dlq))


def test_move_task_to_another_queue(sqs, pair):
    """A destination may be any queue."""
    url, dlq = pair
    other = sqs.create()
    sqs.send(url)
    give_up(sqs, url)

    sqs.client.start_message_move_task(SourceArn=sqs.arn(dlq), DestinationArn=sqs.arn(other))
    task = finished(sqs, sqs.arn(dlq))

    assert task["DestinationArn"] == sqs.arn(other)
    assert len(sqs.receive(other)) == 1


def test_running_move_task_can_be_cancelled(sqs, pair):
    """What was not moved stays."""
    url, dlq = pair
    for _ in range(3):
        sqs.send(url)
    give_up(sqs, url)
    arn = sqs.arn(dlq)
    started = sqs.client.start_message_move_task(SourceArn=arn, MaxNumberOfMessagesPerSecond=1)
    (running,) = sqs.client.list_message_move_tasks(SourceArn=arn)["Results"]

    answer = sqs.client.cancel_message_move_task(TaskHandle=started["TaskHandle"])

    assert (running["Status"], running["TaskHandle"]) == ("RUNNING", started["TaskHandle"])
    assert running["ApproximateNumberOfMessagesToMove"] == 3
    assert answer["ApproximateNumberOfMessagesMoved"] < 3
    assert finished(sqs, arn)["Status"] == "CANCELLED"


def test_second_move_task_of_a_source_is_refused(sqs, pair):
    """One active task a source."""
    url, dlq = pair
    for _ in range(3):
        sqs.send(url)
    give_up(sqs, url)
    request = {"SourceArn": sqs.arn(dlq), "MaxNumberOfMessagesPerSecond": 1}
    handle = sqs.client.start_message_move_task(**request)["TaskHandle"]

    refused = sqs.refusal(lambda: sqs.client.start_message_move_task(**request))
    sqs.client.cancel_message_move_task(TaskHandle=handle)

    assert refused == "InvalidParameterValue"


def test_move_task_needs_a_dlq(sqs):
    """A source must be the DLQ of some queue."""
    arn = sqs.arn(sqs.create())

    refused = sqs.refusal(lambda: sqs.client.start_message_move_task(SourceArn=arn))

    assert refused == "InvalidParameterValue"


def test_move_task_of_an_unknown_queue_is_refused(sqs):
    """A source must exist."""
    arn = sqs.arn(sqs.create()) + "-not"

    refused = sqs.refusal(lambda: sqs.client.start_message_move_task(SourceArn=arn))

    assert refused == "ResourceNotFoundException"


def test_unknown_task_handle_is_refused(sqs):
    """A handle must be one that a start returned."""
    refused = sqs.refusal(lambda: sqs.client.cancel_message_move_task(TaskHandle="nonsense"))

    assert refused == "InvalidParameterValue"

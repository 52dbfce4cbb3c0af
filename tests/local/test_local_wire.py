"""Requests that boto3 would never send, and the limits it cannot reach."""

import json

import pytest

from tracebaton.local.broker import Broker
from tracebaton.local.clock import ManualClock
from tracebaton.local.wire import Wire

QUEUE = "http://127.0.0.1/000000000000/q"


class Client:
    """An exchange that remembers its answer."""

    def __init__(self, broker):
        self.wire = Wire(broker, "http://127.0.0.1")
        self.replies = []

    def alive(self):
        return True

    def reply(self, reply):
        self.replies.append(reply)

    def call(self, action, body):
        """Return status, body and error header of the answer to *body*, JSON or bytes."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        target = f"AmazonSQS.{action}" if action is not None else None
        self.wire.call(target, data, self)
        reply = self.replies.pop()
        return reply.status, json.loads(reply.body), reply.error


@pytest.fixture
def client():
    broker = Broker(ManualClock())
    broker.create("q", {})
    return Client(broker)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"[" * 100_000,
        b"\xff",
        {"QueueUrl": 5},
        {"QueueUrl": QUEUE, "MessageBody": True},
        {"QueueUrl": QUEUE, "MessageBody": "x", "DelaySeconds": "1"},
        {"QueueUrl": QUEUE, "MessageBody": "x", "DelaySeconds": True},
        {"QueueUrl": QUEUE, "MessageBody": "x", "MessageAttributes": []},
        {"QueueUrl": QUEUE, "MessageBody": "x", "MessageAttributes": {"k": "v"}},
        {
            "QueueUrl": QUEUE,
            "MessageBody": "x",
            "MessageAttributes": {"k": {"DataType": "Binary", "BinaryValue": "%"}},
        },
    ],
    ids=lambda body: repr(body)[:60],
)
def test_wrong_json_is_a_serialization_exception(client, body):
    """Whatever type is wrong, the answer is a 400 that says so."""
    status, answer, error = client.call("SendMessage", body)

    assert (status, error) == (400, "SerializationException;Sender")
    assert answer["__type"] == "com.amazonaws.sqs#SerializationException"


@pytest.mark.parametrize(
    ("action", "body"),
    [
        ("ReceiveMessage", {"QueueUrl": QUEUE, "AttributeNames": ["All", 1]}),
        ("CreateQueue", {"QueueName": "n", "Attributes": {"DelaySeconds": 1}}),
        ("SendMessageBatch", {"QueueUrl": QUEUE, "Entries": ["x"]}),
        ("SendMessageBatch", {"QueueUrl": QUEUE, "Entries": {"Id": "1"}}),
    ],
)
def test_wrong_types_inside_are_noticed(client, action, body):
    """Lists, maps and entries are looked into."""
    assert client.call(action, body)[2] == "SerializationException;Sender"


@pytest.mark.parametrize(
    ("action", "body", "parameter"),
    [
        ("SendMessage", {"MessageBody": "x"}, "QueueUrl"),
        ("SendMessage", {"QueueUrl": QUEUE}, "MessageBody"),
        ("DeleteMessage", {"QueueUrl": QUEUE}, "ReceiptHandle"),
        ("ChangeMessageVisibility", {"QueueUrl": QUEUE, "ReceiptHandle": "x"}, "VisibilityTimeout"),
        ("CreateQueue", b"", "QueueName"),
        ("TagQueue", {"QueueUrl": QUEUE, "Tags": None}, "Tags"),
    ],
)
def test_missing_parameters_are_named(client, action, body, parameter):
    """Absent and null are the same."""
    status, answer, error = client.call(action, body)

    assert (status, error) == (400, "MissingParameter;Sender")
    assert answer["message"] == f"The request must contain the parameter {parameter}."


def test_unknown_parameters_are_passed_over(client):
    """A newer SDK may send what this server does not know."""
    assert client.call("GetQueueUrl", {"QueueName": "q", "New": [1]})[0] == 200


@pytest.mark.parametrize("action", [None, "Dance"])
def test_unknown_actions_are_refused(client, action):
    """No target, or none of SQS."""
    status, answer, _ = client.call(action, {})

    assert (status, answer["__type"]) == (404, "com.amazonaws.sqs#UnknownOperationException")


def test_target_of_another_service_is_refused(client):
    """Only AmazonSQS is spoken here."""
    client.wire.call("DynamoDB_20120810.SendMessage", b"{}", client)

    assert client.replies.pop().status == 404


@pytest.mark.parametrize("action", ["AddPermission", "RemovePermission"])
def test_permissions_are_not_supported(client, action):
    """There is one account."""
    assert client.call(action, {})[2] == "AWS.SimpleQueueService.UnsupportedOperation;Sender"


def test_a_bug_is_one_500(caplog):
    """An error nobody thought of is answered and logged, and the server lives on."""

    class BrokenClock(ManualClock):
        def monotonic(self):
            raise ZeroDivisionError

    broker = Broker(BrokenClock())

    status, answer, error = Client(broker).call("CreateQueue", {"QueueName": "q"})

    assert (status, error) == (500, "InternalFailure;Receiver")
    assert answer["message"] == "The local SQS failed."
    assert [record.message for record in caplog.records] == ["local_sqs.failed"]


@pytest.mark.parametrize(
    ("header", "shown"),
    [
        ({"DataType": "Number", "StringValue": "1"}, "must be of type 'String'"),
        ({"DataType": "String", "StringValue": ""}, "must contain a non-empty value"),
    ],
)
def test_bad_trace_headers_are_refused(client, header, shown):
    """AWSTraceHeader is a string that is not empty."""
    attributes = {"AWSTraceHeader": header}
    request = {"QueueUrl": QUEUE, "MessageBody": "x", "MessageSystemAttributes": attributes}

    status, answer, _ = client.call("SendMessage", request)

    assert status == 400
    assert shown in answer["message"]


@pytest.mark.parametrize("group", ["", "a b", "x" * 129, "é"])
def test_bad_group_ids_are_refused(client, group):
    """1 to 128 letters, digits and punctuation."""
    request = {"QueueUrl": QUEUE, "MessageBody": "x", "MessageGroupId": group}

    assert client.call("SendMessage", request)[2] == "InvalidParameterValue;Sender"


def test_lone_surrogates_are_refused(client):
    """JSON can spell what UTF-8 cannot."""
    body = json.dumps({"QueueUrl": QUEUE, "MessageBody": "\ud800"}).encode()

    assert client.call("SendMessage", body)[2] == "InvalidMessageContents;Sender"


@pytest.mark.parametrize(
    ("action", "request_"),
    [
        ("ListQueues", {"MaxResults": 0}),
        ("ListQueues", {"MaxResults": 1001}),
        ("ListQueues", {"NextToken": "%"}),
        ("ListMessageMoveTasks", {"SourceArn": "x", "MaxResults": 11}),
    ],
)
def test_bad_pages_are_refused(client, action, request_):
    """Limits of a page, and a token that is none."""
    assert client.call(action, request_)[2] == "InvalidParameterValue;Sender"


def test_sources_of_a_dlq_come_in_pages(client):
    """MaxResults limits, NextToken goes on."""
    policy = json.dumps({"deadLetterTargetArn": client.wire._broker.get("q").arn})
    for name in "abc":
        client.call("CreateQueue", {"QueueName": name, "Attributes": {"RedrivePolicy": policy}})

    first = client.call("ListDeadLetterSourceQueues", {"QueueUrl": QUEUE, "MaxResults": 2})[1]
    token = first["NextToken"]
    request = {"QueueUrl": QUEUE, "MaxResults": 2, "NextToken": token}
    second = client.call("ListDeadLetterSourceQueues", request)[1]

    names = [url[-1] for page in (first, second) for url in page["queueUrls"]]
    assert (names, "NextToken" in second) == (["a", "b", "c"], False)


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ("{", "not a valid JSON map"),
        ("[]", "not a valid JSON map"),
        ("{}", "Invalid value for deadLetterTargetArn"),
        ('{"deadLetterTargetArn": "nonsense"}', "Invalid value for deadLetterTargetArn"),
    ],
)
def test_bad_redrive_policies_are_refused(client, policy, reason):
    """A policy is a JSON map with an ARN."""
    request = {"QueueName": "n", "Attributes": {"RedrivePolicy": policy}}

    _, answer, error = client.call("CreateQueue", request)

    assert error == "InvalidParameterValue;Sender"
    assert reason in answer["message"]


@pytest.mark.parametrize(
    ("allow", "allowed"),
    [
        ({"redrivePermission": "allowAll"}, True),
        ({"redrivePermission": "denyAll"}, False),
        (
            {
                "redrivePermission": "byQueue",
                "sourceQueueArns": ["arn:aws:sqs:us-east-1:000000000000:source"],
            },
            True,
        ),
        (
            {
                "redrivePermission": "byQueue",
                "sourceQueueArns": ["arn:aws:sqs:us-east-1:000000000000:other"],
            },
            False,
        ),
    ],
)
def test_dlq_says_who_may_use_it(client, allow, allowed):
    """RedriveAllowPolicy is obeyed, and shown."""
    text = json.dumps(allow)
    request = {"QueueUrl": QUEUE, "Attributes": {"RedriveAllowPolicy": text}}
    client.call("SetQueueAttributes", request)
    policy = json.dumps({"deadLetterTargetArn": "arn:aws:sqs:us-east-1:000000000000:q"})

    created = client.call(
        "CreateQueue", {"QueueName": "source", "Attributes": {"RedrivePolicy": policy}}
    )
    shown = client.call(
        "GetQueueAttributes", {"QueueUrl": QUEUE, "AttributeNames": ["RedriveAllowPolicy"]}
    )

    assert created[0] == (200 if allowed else 400)
    assert shown[1] == {"Attributes": {"RedriveAllowPolicy": text}}


@pytest.mark.parametrize(
    "allow",
    [
        {"redrivePermission": "some"},
        {"redrivePermission": "byQueue"},
        {"redrivePermission": "byQueue", "sourceQueueArns": []},
        {"redrivePermission": "byQueue", "sourceQueueArns": ["a"] * 11},
        {"redrivePermission": "allowAll", "sourceQueueArns": ["a"]},
        {"redrivePermission": "denyAll", "sourceQueueArns": "a"},
    ],
)
def test_bad_allow_policies_are_refused(client, allow):
    """Sources are listed with byQueue and only there."""
    request = {"QueueUrl": QUEUE, "Attributes": {"RedriveAllowPolicy": json.dumps(allow)}}

    assert client.call("SetQueueAttributes", request)[2] == "InvalidParameterValue;Sender"


def test_allow_policy_is_taken_off_by_an_empty_one(client):
    """As every attribute that is kept as it was given."""
    attributes = {"RedriveAllowPolicy": '{"redrivePermission": "denyAll"}', "Policy": "{}"}
    client.call("SetQueueAttributes", {"QueueUrl": QUEUE, "Attributes": attributes})

    emptied = {"RedriveAllowPolicy": "", "Policy": "", "KmsDataKeyReusePeriodSeconds": "60"}
    client.call("SetQueueAttributes", {"QueueUrl": QUEUE, "Attributes": emptied})

    names = list(emptied)
    request = {"QueueUrl": QUEUE, "AttributeNames": names}
    shown = client.call("GetQueueAttributes", request)[1]
    assert shown == {"Attributes": {"KmsDataKeyReusePeriodSeconds": "60"}}


def test_failed_entries_of_a_batch_without_their_parameters(client):
    """An entry that lacks its handle fails for itself."""
    request = {"QueueUrl": QUEUE, "Entries": [{"Id": "1"}]}

    _, answer, _ = client.call("DeleteMessageBatch", request)

    assert [failed["Code"] for failed in answer["Failed"]] == ["MissingParameter"]

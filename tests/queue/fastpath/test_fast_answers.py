"""What boto3 returns with the fast path is what it returns without."""

import json
from typing import Any

import botocore.loaders
from botocore.awsrequest import HeadersDict
from botocore.model import ServiceModel
from botocore.parsers import create_parser
from hypothesis import given
from hypothesis import strategies as st

from tracebaton.queue.fastpath.answers import parsed
from tracebaton.queue.fastpath.http1 import Reply

SERVICE = ServiceModel(botocore.loaders.Loader().load_service_model("sqs", "service-2"), "sqs")
HEADERS = {"x-amzn-requestid": "1234", "content-type": "application/x-amz-json-1.0"}

text = st.text(max_size=10)
attributes = st.dictionaries(
    text,
    st.fixed_dictionaries(
        {"DataType": st.sampled_from(["String", "Number", "Binary.png"])},
        optional={
            "StringValue": st.none() | text,
            "BinaryValue": st.sampled_from(["", "AAEC", "/+8="]),
        },
    ),
    max_size=3,
)
messages = st.lists(
    st.fixed_dictionaries(
        {"MessageId": text, "ReceiptHandle": text, "Body": text},
        optional={
            "MD5OfBody": st.none() | text,
            "Attributes": st.dictionaries(
                st.sampled_from(["SentTimestamp", "SenderId"]), text, max_size=2
            ),
            "MessageAttributes": attributes,
        },
    ),
    max_size=3,
)
receives = st.fixed_dictionaries({}, optional={"Messages": st.none() | messages})
failures = st.lists(
    st.fixed_dictionaries(
        {"Id": text, "SenderFault": st.booleans(), "Code": text},
        optional={"Message": st.none() | text},
    ),
    max_size=3,
)
deletes = st.fixed_dictionaries(
    {"Successful": st.lists(st.fixed_dictionaries({"Id": text}), max_size=3)},
    optional={"Failed": st.none() | failures},
)


def by_botocore(body: bytes, operation: str) -> dict[str, Any]:
    """What stock boto3 makes of an answer of status 200."""
    response = {"headers": HeadersDict(HEADERS), "status_code": 200, "body": body, "context": {}}
    model = SERVICE.operation_model(operation)
    document: dict[str, Any] = create_parser("json").parse(response, model.output_shape)
    return document


def by_us(body: bytes, operation: str) -> dict[str, Any]:
    """What boto3 with the fast path makes of it."""
    return parsed(Reply(200, dict(HEADERS), body), SERVICE.operation_model(operation))


@given(receives)
def test_received_messages_are_the_same(document: dict[str, Any]) -> None:
    """Bodies, attributes, binary values; null members are left out."""
    body = json.dumps(document).encode()

    assert by_us(body, "ReceiveMessage") == by_botocore(body, "ReceiveMessage")


@given(deletes)
def test_outcomes_of_batches_are_the_same(document: dict[str, Any]) -> None:
    """Successful and failed entries alike."""
    body = json.dumps(document).encode()

    assert by_us(body, "DeleteMessageBatch") == by_botocore(body, "DeleteMessageBatch")


@given(st.binary(max_size=20) | st.sampled_from([b"", b"{}", b"[]", b"null", b"\xff"]))
def test_an_answer_that_is_no_document_is_read_alike(body: bytes) -> None:
    """Whatever botocore does with it, it does with it for us."""
    outcomes: list[object] = []
    for reading in (by_botocore, by_us):
        try:
            outcomes.append(reading(body, "SendMessage"))
        except Exception as exc:
            outcomes.append(type(exc))

    assert outcomes[0] == outcomes[1]

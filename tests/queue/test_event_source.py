"""The same handlers behind an SQS event source of AWS Lambda, by partial batch responses."""

import asyncio
import base64
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from pydantic import BaseModel

from tracebaton import Reject, RetryLater, Tracebaton, current
from tracebaton.errors import ConfigurationError
from tracebaton.local import LocalSqs
from tracebaton.testing import Stage, assert_one_trace

app = Tracebaton()


class Order(BaseModel):
    """What is ordered."""

    item: str


seen: list[str] = []


@app.task("order", model=Order)
async def order(data: Order) -> str | None:
    """Do what the item says."""
    seen.append(data.item)
    match data.item:
        case "later":
            raise RetryLater(90)
        case "never":
            raise Reject("No.")
        case "broken":
            raise ValueError("boom")
        case "slow":
            await asyncio.sleep(60)
    return current().correlation_id


@app.route("/orders", methods=["POST"])
async def submit(request: Any) -> Any:
    """Enqueue an order."""
    return await app.enqueue("order", await app.body(request, Order))


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    """Yield the application with its API and queue, and no worker."""
    seen.clear()
    async with Stage(app) as stage:
        yield stage


def client_of(url: str) -> Any:
    """Return boto3's client of the SQS at *url*."""
    return boto3.client(
        "sqs",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
    )


def received(url: str, queue_url: str, count: int) -> dict[str, Any]:
    """
    Receive as Lambda's pollers do and return the event they make of it.

    Its shape is the one in "Using Lambda with Amazon SQS", standard queue and FIFO queue.
    """
    client = client_of(url)
    messages: list[Any] = []
    while len(messages) < count:
        messages += client.receive_message(
            QueueUrl=queue_url,
            MaxNumberOfMessages=10,
            WaitTimeSeconds=5,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["All"],
        )["Messages"]
    client.close()
    return {"Records": [record(message, queue_url) for message in messages]}


def record(message: Any, queue_url: str) -> dict[str, Any]:
    """Return one message as a record of the event."""
    attributes = {
        name: {
            "stringValue": value.get("StringValue"),
            "binaryValue": base64.b64encode(value["BinaryValue"]).decode()
            if "BinaryValue" in value
            else None,
            "stringListValues": [],
            "binaryListValues": [],
            "dataType": value["DataType"],
        }
        for name, value in message.get("MessageAttributes", {}).items()
    }
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": message["Attributes"],
        "messageAttributes": attributes,
        "md5OfBody": message["MD5OfBody"],
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:us-east-1:000000000000:{queue_url.rsplit('/', 1)[-1]}",
        "awsRegion": "us-east-1",
    }


async def event_of(stage: Stage, *items: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Order *items* and return Lambda's event, and the task id of each item."""
    tasks = {}
    for item in items:
        answer = await stage.http.post(
            "/orders", json={"item": item}, headers={"X-Correlation-ID": f"c-{item}"}
        )
        tasks[item] = answer.json()["task_id"]
    event = await asyncio.to_thread(
        received, stage.sqs.url, stage.sqs.queue_url("tasks"), len(items)
    )
    return event, tasks


def failures(answer: dict[str, Any], event: dict[str, Any]) -> list[str]:
    """Return the items of the messages that Lambda shall not delete."""
    ids = [one["itemIdentifier"] for one in answer["batchItemFailures"]]
    items = {one["messageId"]: json.loads(one["body"])["data"]["item"] for one in event["Records"]}
    return sorted(items[one] for one in ids)


async def test_an_event_is_handled_in_the_trace_of_its_request(stage: Stage) -> None:
    """One trace over API, queue and function; nothing is left for Lambda to keep."""
    event, tasks = await event_of(stage, "book")
    answer = await app.worker().event_source().handle(event, seconds=10)
    task = await stage.task(tasks["book"])

    assert answer == {"batchItemFailures": []}
    assert (task.status.value, task.result) == ("succeeded", "c-book")
    assert_one_trace(stage.spans)
    assert [span.name for span in stage.spans] == ["send tasks", "POST /orders", "process tasks"]


async def test_what_failed_is_named_and_backs_off(stage: Stage) -> None:
    """Only what comes again is a failure; when it comes is what the handler asked for."""
    event, tasks = await event_of(stage, "book", "later", "never", "broken")
    answer = await app.worker().event_source().handle(event, seconds=10)
    statuses = {item: (await stage.task(tasks[item])).status.value for item in tasks}
    handles = {
        json.loads(one["body"])["data"]["item"]: one["receiptHandle"] for one in event["Records"]
    }
    again = await asyncio.to_thread(received, stage.sqs.url, stage.sqs.queue_url("tasks"), 1)

    assert failures(answer, event) == ["broken", "later"]
    assert statuses == {
        "book": "succeeded",
        "later": "queued",
        "never": "failed",
        "broken": "queued",
    }
    # The back-off of the broken one is over at once here; the other asked for 90 s.
    assert [json.loads(one["body"])["data"]["item"] for one in again["Records"]] == ["broken"]
    assert handles.keys() == tasks.keys()


async def test_what_does_not_end_in_time_comes_again(stage: Stage) -> None:
    """It is cancelled before Lambda would freeze it, and its result is nobody's."""
    event, tasks = await event_of(stage, "book", "slow")
    began = time.monotonic()
    answer = await app.worker().event_source().handle(event, seconds=2.3)

    assert time.monotonic() - began < 2.3
    assert failures(answer, event) == ["slow"]
    assert (await stage.task(tasks["slow"])).status.value == "running"
    assert (await stage.task(tasks["book"])).status.value == "succeeded"


async def test_behind_a_failure_a_group_waits(stage: Stage) -> None:
    """The rest of its FIFO group is not run and comes again in order; other groups go on."""
    event, _ = await event_of(stage, "one", "broken", "two", "three")
    groups = {"one": "a", "broken": "a", "two": "a", "three": "b"}
    event["Records"].sort(key=lambda one: one["attributes"]["SentTimestamp"])
    for number, one in enumerate(event["Records"]):
        item = json.loads(one["body"])["data"]["item"]
        one["attributes"] |= {"MessageGroupId": groups[item], "SequenceNumber": f"{number:020}"}
    order_of = [json.loads(one["body"])["data"]["item"] for one in event["Records"]]
    answer = await app.worker().event_source().handle(event, seconds=10)
    behind = order_of[order_of.index("broken") + 1 :]
    held = [item for item in behind if groups[item] == "a"]

    assert failures(answer, event) == sorted(["broken", *held])
    assert not set(held) & set(seen)


@pytest.mark.parametrize(
    "event", [{}, {"Records": [{}]}, {"Records": 1}, {"Records": []}, {"detail-type": "x"}]
)
async def test_another_event_is_refused(stage: Stage, event: Any) -> None:
    """A function that is wired to the wrong source says so instead of answering success."""
    with pytest.raises(ConfigurationError, match="event"):
        await app.worker().event_source().handle(event, seconds=10)


_FUNCTION = """
import json, sys
from test_event_source import app
handler = app.lambda_handler()
class Context:
    def get_remaining_time_in_millis(self): return 20_000
for line in sys.stdin:
    print("ANSWER", json.dumps(handler(json.loads(line), Context())), flush=True)
handler.close()
"""


@pytest.mark.acceptance
def test_a_function_handles_one_event_after_the_other(
    tmp_path: Path, clean_env: Callable[..., dict[str, str]]
) -> None:
    """In a process of its own, as Lambda keeps it: settings from the environment, one loop."""
    with LocalSqs.in_thread() as sqs:
        sqs.create_queue("tasks")
        env = clean_env(
            PYTHONPATH=str(Path(__file__).parent),
            AWS_ENDPOINT_URL_SQS=sqs.url,
            TRACEBATON_QUEUE_URL=sqs.queue_url("tasks"),
            TRACEBATON_STORE="none",
        )
        body = {"specversion": "1.0", "type": "order", "source": "/t", "data": {"item": "x"}}
        client = client_of(sqs.url)
        for number in range(2):
            message = json.dumps(body | {"id": f"t-{number}"})
            client.send_message(QueueUrl=sqs.queue_url("tasks"), MessageBody=message)
        client.close()
        event = received(sqs.url, sqs.queue_url("tasks"), 2)
        events = [{"Records": [one]} for one in event["Records"]]
        done = subprocess.run(
            [sys.executable, "-c", _FUNCTION],
            input="\n".join(map(json.dumps, events)),
            capture_output=True,
            text=True,
            env=env,
            cwd=tmp_path,
            timeout=60,
        )
    lines = done.stdout.splitlines()
    answers = [line for line in lines if line.startswith("ANSWER")]
    told = [json.loads(line)["event"] for line in lines if line.startswith("{")]

    assert done.returncode == 0, done.stderr
    assert answers == ['ANSWER {"batchItemFailures": []}'] * 2
    assert told.count("task.succeeded") == 2

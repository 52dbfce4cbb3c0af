"""Signed messages: by our producer, by nobody, and by somebody else."""

import json
from typing import Any

import pytest

from tracebaton.context import RequestStore, current, entered
from tracebaton.errors import UntrustedMessage
from tracebaton.queue.event import parse
from tracebaton.queue.foreign import ForeignMessage
from tracebaton.queue.message import Received
from tracebaton.queue.quarantine import quarantined
from tracebaton.queue.signature import MessageKeys
from tracebaton.tasks import TaskStatus

from .conftest import Bench, Note, working

KEYS = MessageKeys(["s3cret"])
TEN = {f"own-{number}": "x" for number in range(10)}


async def run(bench: Bench, **options: Any) -> list[RequestStore]:
    """Let a worker with the key empty the queue and return the stores its handler saw."""
    seen: list[RequestStore] = []

    async def handler(note: Note) -> None:
        seen.append(current())

    bench.registry = type(bench.registry)()
    bench.handle(handler)
    options = {"keys": KEYS, "quarantine": bench.quarantine, "wait_seconds": 0} | options
    async with working(bench.worker(**options)):
        await bench.holds(0)
    return seen


async def sent(bench: Bench, keys: MessageKeys | None = KEYS, **options: Any) -> Received:
    """Take the message that our producer sends out of the queue and return it."""
    bench.handle(lambda note: None)
    with entered(RequestStore(user_id="u-1")):
        await bench.producer(keys=keys).enqueue("note", Note(), **options)
    (message,) = await bench.take("tasks")
    await bench.sqs.delete(bench.local.queue_url("tasks"), [message.receipt_handle])
    return message


@pytest.mark.parametrize("attributes", [{}, TEN], ids=["attribute", "envelope"])
async def test_a_signed_message_is_handled(bench: Bench, attributes: dict[str, str]) -> None:
    """The signature is an attribute, or in the envelope where ten attributes are the caller's."""
    message = await sent(bench, attributes=attributes)
    await bench.send(message.body, message.every)
    (store,) = await run(bench)

    signature = message.attributes.get("tracebaton-signature", "")
    assert store.user_id == "u-1"
    assert signature.startswith("v1=") is not bool(attributes)
    assert ("signature" in json.loads(message.body)) is bool(attributes)
    assert len(message.every) <= 10


@pytest.mark.parametrize(
    "change",
    [
        {"tracebaton-signature": None},
        {"tracebaton-signature": "v1=" + "0" * 64},
        {"tracebaton-signature": "v2=x"},
        {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"},
        {"traceparent": None},
        {"baggage": "tracebaton.user_id=root"},
        {"tracestate": "vendor=1"},
    ],
    ids=lambda change: "-".join(f"{name}-{str(value)[:4]}" for name, value in change.items()),
)
async def test_a_changed_attribute_is_not_believed(
    bench: Bench, change: dict[str, str | None]
) -> None:
    """The signature covers what is believed before the envelope; without one nothing is."""
    message = await sent(bench)
    attributes = {name: value for name, value in message.every.items() if name not in change}
    attributes |= {name: value for name, value in change.items() if value is not None}
    await bench.send(message.body, attributes)
    seen = await run(bench)
    (copy,) = await bench.take("tasks-quarantine")

    assert seen == []
    assert quarantined(copy).reason == "untrusted_message"
    assert [outcome.code for _, outcome, _ in bench.reports] == ["untrusted_message"]


@pytest.mark.parametrize("attributes", [{}, TEN], ids=["attribute", "envelope"])
async def test_a_changed_body_is_not_believed(bench: Bench, attributes: dict[str, str]) -> None:
    """One character is enough."""
    message = await sent(bench, attributes=attributes)
    await bench.send(message.body.replace("u-1", "u-2"), message.every)

    assert await run(bench) == []
    assert bench.count("tasks-quarantine") == 1


async def test_attributes_beside_a_signed_envelope_are_not_believed(bench: Bench) -> None:
    """They are nobody's: the envelope alone is signed."""
    message = await sent(bench, attributes=TEN)
    await bench.send(message.body, {"baggage": "tracebaton.user_id=root"})
    (store,) = await run(bench)

    assert store.user_id == "u-1"


async def test_an_unsigned_message_has_no_user_and_no_task(bench: Bench) -> None:
    """Nothing it says of itself is believed; the task still waits for its own message."""
    message = await sent(bench, keys=None)
    await bench.send(message.body, message.every)
    await run(bench)

    task = await bench.store.get(json.loads(message.body)["id"])
    process = bench.spans()["process tasks"]
    assert task is not None
    assert (task.status, task.attempt) == (TaskStatus.QUEUED, 0)
    assert bench.count("tasks-quarantine") == 1
    assert process.attributes is not None
    assert "tracebaton.user_id" not in process.attributes


async def test_an_operator_sees_whose_tasks_wait(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """A producer lacks the key: each message is one line with the remedy, and one event."""
    message = await sent(bench, keys=None)
    await bench.producer(keys=None).enqueue("note", Note())
    await bench.send(message.body, message.every)
    await run(bench)

    lines = [vars(line)["fields"] for line in caplog.records if line.msg == "message.quarantined"]
    process = bench.spans()["process tasks"]
    assert [line["code"] for line in lines] == ["untrusted_message"] * 2
    assert all("TRACEBATON_MESSAGE_KEY" in line["remedy"] for line in lines)
    assert len(bench.reports) == 2
    assert process.attributes is not None
    assert process.attributes["error.type"] == "UntrustedMessage"


@pytest.mark.parametrize("status", ["running", "succeeded", "retried", "of another type"])
async def test_a_forged_message_ends_no_task_that_has_run(bench: Bench, status: str) -> None:
    """Whoever wrote it may have taken the id of somebody's task."""
    message = await sent(bench, keys=None)
    task_id = json.loads(message.body)["id"]
    body = message.body
    if status == "of another type":
        body = body.replace('"type":"note"', '"type":"other"')
    else:
        await bench.store.start(task_id, attempt=1)
    if status == "succeeded":
        await bench.store.finish(task_id, TaskStatus.SUCCEEDED, attempt=1)
    if status == "retried":
        await bench.store.retry(task_id, attempt=1, failure=None)
    before = await bench.store.get(task_id)
    await bench.send(body, message.every)
    await run(bench)

    assert await bench.store.get(task_id) == before
    assert bench.count("tasks-quarantine") == 1


async def test_foreign_messages_are_not_believed_either(bench: Bench) -> None:
    """A route makes no difference: nobody signed it."""
    await bench.send({"text": "x"})

    def route(message: ForeignMessage) -> str:
        raise AssertionError("asked")

    assert await run(bench, foreign=[route]) == []
    assert bench.count("tasks-quarantine") == 1


async def test_keys_can_rotate(bench: Bench) -> None:
    """The first one signs, every one verifies."""
    message = await sent(bench, keys=MessageKeys(["old"]))
    await bench.send(message.body, message.every)

    assert len(await run(bench, keys=MessageKeys(["new", "old"]))) == 1


async def test_without_a_key_nobody_asks(bench: Bench) -> None:
    """A signature that nobody can check is no reason to refuse."""
    message = await sent(bench)
    await bench.send(message.body, message.every)

    assert len(await run(bench, keys=None)) == 1


async def test_a_replayed_message_runs_once(bench: Bench) -> None:
    """Its signature is good; that its task has ended is what stops it."""
    message = await sent(bench)
    for _ in range(2):
        await bench.send(message.body, message.every)

    assert len(await run(bench, concurrency=1)) == 1


def test_the_order_of_names_in_an_envelope_does_not_count() -> None:
    """A tool may write the document anew."""
    document = {"b": [1.5, None], "a": {"z": "é\ud800", "y": True}}
    signed = document | {"signature": KEYS.sign_document(document)}
    again = dict(reversed(signed.items()))

    assert KEYS.check("", {}, again) is False


@pytest.mark.parametrize("document", [None, [], {}, {"signature": 7}, {"signature": "\ud800"}])
def test_what_carries_no_signature_is_refused(document: object) -> None:
    """Whatever it is."""
    with pytest.raises(UntrustedMessage):
        KEYS.check("", {}, document)


def test_a_document_too_deep_to_verify_is_refused() -> None:
    """Reading and writing may differ in how deep they go."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]

    with pytest.raises(UntrustedMessage):
        KEYS.check("", {}, {"signature": "v1=", "data": deep})


def test_body_and_attributes_cannot_run_into_each_other() -> None:
    """What moves from one to the other is another message."""
    one = KEYS.sign('"]]\n{}', {"baggage": "a"})

    assert one != KEYS.sign("{}", {"baggage": 'a"]]\n'})
    assert parse("{}") == {}

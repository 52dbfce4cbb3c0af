"""Messages that no producer of ours wrote: plain JSON, SNS's, and what OTel's stock sends carry."""

import sys
from typing import Any

import pytest
from opentelemetry import trace

from tracebaton.context import RequestStore, current
from tracebaton.queue.event import TaskEvent, encode
from tracebaton.queue.foreign import ForeignMessage
from tracebaton.queue.message import Attribute
from tracebaton.queue.quarantine import quarantined
from tracebaton.tasks import TaskStatus

from .conftest import Bench, Note, working

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"


def notification(message: str, attributes: object = None) -> dict[str, Any]:
    """Return what SNS puts into a queue that is subscribed without raw delivery."""
    return {
        "Type": "Notification",
        "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
        "TopicArn": "arn:aws:sns:us-east-1:123456789012:orders",
        "Message": message,
        "Timestamp": "2026-11-23T21:00:00.000Z",
        "SignatureVersion": "1",
        "Signature": "EXAMPLE",
        "SigningCertURL": "https://sns.us-east-1.amazonaws.com/cert.pem",
        "UnsubscribeURL": "https://sns.us-east-1.amazonaws.com/?Action=Unsubscribe",
    } | ({} if attributes is None else {"MessageAttributes": attributes})


class Seen(list[tuple[Note, RequestStore]]):
    """A handler that remembers its data and its store."""

    async def __call__(self, note: Note) -> str:
        """Remember."""
        self.append((note, current()))
        return "done"


async def handled(bench: Bench, *routes: Any, **options: Any) -> Seen:
    """Let a worker with *routes* empty the queue and return what its handler saw."""
    seen = Seen()

    async def handler(note: Note) -> str:
        return await seen(note)

    bench.handle(handler)
    worker = bench.worker(foreign=routes, quarantine=bench.quarantine, wait_seconds=0, **options)
    async with working(worker):
        await bench.holds(0)
    return seen


def to_note(message: ForeignMessage) -> str | None:
    """Take everything."""
    return "note"


async def test_plain_json_becomes_the_data_of_a_task(bench: Bench) -> None:
    """Its task is made on arrival, with the trace id of the process span as correlation id."""
    await bench.send({"text": "from far", "number": 3})
    ((note, store),) = await handled(bench, to_note)

    process = bench.spans()["process tasks"]
    trace_id = trace.format_trace_id(process.context.trace_id)
    assert store.task_id is not None
    task = await bench.store.get(store.task_id)
    assert note == Note(text="from far", number=3)
    assert store == RequestStore(correlation_id=trace_id, task_id=store.task_id, attempt=1)
    assert task is not None
    assert (task.status, task.type, task.result) == (TaskStatus.SUCCEEDED, "note", "done")
    assert (task.correlation_id, task.trace_id, task.user_id) == (trace_id, trace_id, None)
    assert process.parent is None


async def test_a_redelivery_is_the_same_task(bench: Bench) -> None:
    """The id comes from SQS's, so that the second run is the second attempt."""
    await bench.send({"text": "again"})
    stores: list[RequestStore] = []

    async def handler(note: Note) -> None:
        stores.append(current())
        if len(stores) == 1:
            raise ConnectionError("first time")

    bench.handle(handler)
    async with working(bench.worker(foreign=[to_note])):
        await bench.holds(0)

    assert [store.attempt for store in stores] == [1, 2]
    assert stores[0].task_id == stores[1].task_id
    assert stores[0].task_id is not None
    task = await bench.store.get(stores[0].task_id)
    assert task is not None
    assert (task.status, task.attempt, len(task.failures)) == (TaskStatus.SUCCEEDED, 2, 1)


async def test_sns_is_unwrapped_with_its_attributes(bench: Bench) -> None:
    """The route sees the message inside; the trace in its attributes is joined."""
    seen: list[ForeignMessage] = []

    def route(message: ForeignMessage) -> str | None:
        seen.append(message)
        return message.attributes.get("kind")

    attributes = {
        "kind": {"Type": "String", "Value": "note"},
        "traceparent": {"Type": "String", "Value": TRACEPARENT},
        "blob": {"Type": "Binary", "Value": "AP8="},
        "odd": "no object",
    }
    await bench.send(notification('{"text": "by SNS"}', attributes))
    ((note, _),) = await handled(bench, route)

    assert note.text == "by SNS"
    assert seen[0].topic == "arn:aws:sns:us-east-1:123456789012:orders"
    assert set(seen[0].attributes) == {"kind", "traceparent"}
    assert trace.format_trace_id(bench.spans()["process tasks"].context.trace_id) == TRACE


async def test_sns_that_delivers_twice_is_one_task(bench: Bench) -> None:
    """Two SQS messages of one notification: the second one is recognised."""
    body = notification('{"text": "once"}')
    await bench.send(body)
    await bench.send(body)

    assert len(await handled(bench, to_note, concurrency=1)) == 1


async def test_sns_that_is_no_unicode_is_not_believed(bench: Bench) -> None:
    """An id that nothing can write is none; the task's id comes from SQS's then."""
    seen: list[ForeignMessage] = []

    def route(message: ForeignMessage) -> str | None:
        seen.append(message)
        return "note"

    odd = {"Type": "String", "Value": "\ud800"}
    body = notification('{"text": "odd"}', {"odd": odd, "even": odd | {"Value": "é"}})
    sent_id = await bench.send(body | {"MessageId": "\ud800", "TopicArn": "\ud800"})

    assert len(await handled(bench, route)) == 1
    assert seen[0].message_id == sent_id
    assert (seen[0].topic, dict(seen[0].attributes)) == (None, {"even": "é"})


async def test_an_event_of_ours_may_come_by_sns(bench: Bench) -> None:
    """Fan-out through a topic keeps task, user and trace."""
    bench.handle(Seen().__call__)
    task = await bench.producer().enqueue("note", Note(text="fan-out"))
    (message,) = await bench.take("tasks")
    await bench.sqs.delete(bench.local.queue_url("tasks"), [message.receipt_handle])
    await bench.send(notification(message.body, None))
    bench.registry = type(bench.registry)()
    ((note, store),) = await handled(bench)

    assert (note.text, store.task_id) == ("fan-out", task.id)
    assert (
        bench.spans()["process tasks"].context.trace_id
        == bench.spans()["send tasks"].context.trace_id
    )


async def test_raw_sns_delivery_is_plain(bench: Bench) -> None:
    """The body is the message, its attributes are SQS's."""
    await bench.send({"text": "raw"}, {"traceparent": TRACEPARENT, "n": Attribute("Number", "1")})
    routes: list[ForeignMessage] = []

    def route(message: ForeignMessage) -> str:
        routes.append(message)
        return "note"

    await handled(bench, route)

    assert dict(routes[0].attributes) == {"traceparent": TRACEPARENT, "n": "1"}
    assert routes[0].topic is None


async def test_a_foreign_message_never_sets_the_user(bench: Bench) -> None:
    """Nor does an attribute that looks like ours; a valid correlation id is kept."""
    baggage = "tracebaton.user_id=root,tracebaton.correlation_id=order-7,tracebaton.task_id=x"
    await bench.send({"text": "forged", "userid": "root"}, {"baggage": baggage})
    ((_, store),) = await handled(bench, to_note)

    assert (store.user_id, store.correlation_id) == (None, "order-7")
    assert store.task_id != "x"


def no_route(message: ForeignMessage) -> None:
    """Take nothing."""


def tripping(message: ForeignMessage) -> str:
    """Know one shape only."""
    return str(message.data["detail"]["type"])


@pytest.mark.parametrize(
    ("routes", "body", "code"),
    [
        ((), {"a": 1}, "undecodable_message"),
        ((no_route,), {"a": 1}, "unknown_task_type"),
        ((tripping,), {"a": 1}, "unknown_task_type"),
        ((lambda message: sys.exit(1),), {"a": 1}, "unknown_task_type"),
        ((lambda message: "unheard.of",), {"a": 1}, "unknown_task_type"),
        ((lambda message: "\ud800",), {"a": 1}, "unknown_task_type"),
        ((lambda message: ["note"],), {"a": 1}, "unknown_task_type"),
        ((to_note,), {"number": "seven"}, "invalid_task_data"),
        ((to_note,), [1, 2], "invalid_task_data"),
        ((to_note,), "plain text", "undecodable_message"),
        ((to_note,), notification("plain text"), "undecodable_message"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isascii() else "",
)
async def test_what_no_route_takes_is_quarantined(
    bench: Bench, routes: Any, body: object, code: str
) -> None:
    """With its reason; never acked silently."""
    await bench.send(body)
    seen = await handled(bench, *routes)
    (copy,) = await bench.take("tasks-quarantine")

    assert seen == []
    assert quarantined(copy).reason == code
    assert [outcome.code for _, outcome, _ in bench.reports] == [code]


async def test_a_route_may_refuse_by_an_error_of_ours(bench: Bench) -> None:
    """Its code is the reason."""
    from tracebaton.errors import MessageTooOld

    def route(message: ForeignMessage) -> str:
        raise MessageTooOld("Yesterday's news.")

    await bench.send({"a": 1})
    await handled(bench, route)
    (copy,) = await bench.take("tasks-quarantine")

    assert (quarantined(copy).reason, quarantined(copy).detail) == (
        "message_too_old",
        "Yesterday's news.",
    )


async def test_the_task_of_invalid_foreign_data_has_failed(bench: Bench) -> None:
    """It is made on arrival too, so that it can be looked at."""
    await bench.send({"number": "seven"})
    await handled(bench, to_note)
    (copy,) = await bench.take("tasks-quarantine")

    task = await bench.store.get(quarantined(copy).story["task_id"])
    assert task is not None
    assert task.error is not None
    assert (task.status, task.error["code"]) == (TaskStatus.FAILED, "invalid_task_data")


async def test_the_first_route_that_names_a_type_decides(bench: Bench) -> None:
    """A route that is not meant says None."""
    await bench.send({"text": "x"})

    assert len(await handled(bench, no_route, to_note, tripping)) == 1


async def test_a_worker_without_a_store_runs_foreign_messages(bench: Bench) -> None:
    """There is no task then."""
    await bench.send({"text": "x"})

    assert len(await handled(bench, to_note, store=None)) == 1


async def test_aws_trace_header_alone_joins_the_trace(bench: Bench) -> None:
    """What botocore's instrumentation and AWS's own services send."""
    header = f"Root=1-{TRACE[:8]}-{TRACE[8:]};Parent=b7ad6b7169203331;Sampled=1"
    url = bench.local.queue_url("tasks")
    await bench.sqs.send(url, '{"text": "x"}', attributes={}, trace_header=header)
    await handled(bench, to_note)

    process = bench.spans()["process tasks"]
    assert trace.format_trace_id(process.context.trace_id) == TRACE
    assert process.parent is not None
    assert trace.format_span_id(process.parent.span_id) == "b7ad6b7169203331"


@pytest.mark.parametrize(
    "traceparent",
    [
        TRACEPARENT.upper(),
        f"ff-{TRACE}-b7ad6b7169203331-01",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        "x" * 9000,
    ],
)
async def test_a_malformed_traceparent_starts_a_new_trace(bench: Bench, traceparent: str) -> None:
    """And never costs the message."""
    await bench.send({"text": "x"}, {"traceparent": traceparent})
    seen = await handled(bench, to_note)

    assert len(seen) == 1
    assert bench.spans()["process tasks"].parent is None


async def test_the_tracestate_of_another_traceparent_is_left(bench: Bench) -> None:
    """An attribute beats the envelope, and takes its own state along only."""
    carrier = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01", "tracestate": "old=1"}
    body = encode(TaskEvent(id="1", source="/a", type="note", time="", data={}, carrier=carrier))
    await bench.send(body, {"traceparent": TRACEPARENT})
    await handled(bench, store=None)

    context = bench.spans()["process tasks"].context
    assert trace.format_trace_id(context.trace_id) == TRACE
    assert dict(context.trace_state) == {}


async def test_a_time_nobody_can_read_is_sqs_own(bench: Bench) -> None:
    """The age of a message counts from when SQS took it then."""
    seen: list[Note] = []

    async def handler(note: Note) -> None:
        seen.append(note)

    bench.handle(handler, max_age=60)
    for time in ("yesterday", "2999-01-01T00:00:00"):
        event = TaskEvent(id=time, source="/a", type="note", time=time, data={})
        await bench.send(encode(event))
    async with working(bench.worker(store=None, wait_seconds=0)):
        await bench.holds(0)

    assert len(seen) == 2

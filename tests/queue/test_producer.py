"""What a producer sends, and what it refuses to send, over the wire to a real SQS."""

import asyncio
import threading
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import INVALID_SPAN

from tracebaton.context import RequestStore, current, entered
from tracebaton.errors import (
    InvalidTaskData,
    MessageTooLarge,
    QueueUnavailable,
    RequestError,
    StoreUnavailable,
    UnknownTaskType,
)
from tracebaton.propagation import Propagator
from tracebaton.queue.batches import batches
from tracebaton.queue.event import decode
from tracebaton.queue.message import Outgoing
from tracebaton.queue.producer import Item, Producer
from tracebaton.queue.sending import Sending
from tracebaton.queue.signature import MessageKeys
from tracebaton.queue.sqs import Queue
from tracebaton.tasks import Task, TaskStatus
from tracebaton.tasks.sqlite import SqliteTaskStore

from .conftest import Bench, Note, working
from .scripted_sqs import ScriptedSqs

MIB = 1024 * 1024


async def nothing(note: Note) -> None:
    """A handler that does nothing."""


def named(bench: Bench, name: str) -> list[ReadableSpan]:
    """Return every ended span called *name*."""
    return [span for span in bench.exporter.get_finished_spans() if span.name == name]


async def chain(bench: Bench, propagate: Any, propagator: Propagator | None = None) -> Any:
    """Enqueue a parent whose handler enqueues a child; return the child's store and the tasks."""
    seen: list[RequestStore] = []
    children: list[Task] = []
    if propagator is not None:
        bench.propagator = propagator
    producer = bench.producer()

    async def parent(note: Note) -> None:
        children.append(await producer.enqueue("child", Note(), propagate=propagate))

    async def child(note: Note) -> None:
        seen.append(current())

    bench.handle(parent, name="parent")
    bench.handle(child, name="child")
    with entered(RequestStore(correlation_id="c-1", user_id="u-1")):
        task = await producer.enqueue("parent", Note())
    async with working(bench.worker(wait_seconds=0)):
        await bench.ended(task.id)
        await bench.ended(children[0].id)
    return task, children[0], seen[0]


async def test_a_child_task_keeps_identity_and_trace(bench: Bench) -> None:
    """Correlation id, user and trace go on, and the child names its parent."""
    task, child, store = await chain(bench, "parent")

    spans = bench.exporter.get_finished_spans()
    by_id = {span.context.span_id: span.name for span in spans}
    sent, processed = named(bench, "send tasks")[1], named(bench, "process tasks")[-1]
    assert store == RequestStore(correlation_id="c-1", user_id="u-1", task_id=child.id, attempt=1)
    assert (child.parent_task_id, child.correlation_id, child.user_id) == (task.id, "c-1", "u-1")
    assert {span.context.trace_id for span in spans} == {sent.context.trace_id}
    assert sent.parent is not None
    assert by_id[sent.parent.span_id] == "process tasks"
    assert len(processed.links) == 0


@pytest.mark.parametrize(("propagate", "links"), [("link", 1), ("none", 0)])
async def test_a_new_trace_keeps_the_identity(bench: Bench, propagate: str, links: int) -> None:
    """The process span starts a trace of its own, which links the send span or knows nothing."""
    task, child, store = await chain(bench, propagate)

    sent = next(
        s for s in named(bench, "send tasks") if s.attributes["tracebaton.task.id"] == child.id
    )
    processed = next(
        s for s in named(bench, "process tasks") if s.attributes["tracebaton.task.id"] == child.id
    )
    assert store == RequestStore(correlation_id="c-1", user_id="u-1", task_id=child.id, attempt=1)
    assert child.parent_task_id == task.id
    assert processed.parent is None
    assert processed.context.trace_id != sent.context.trace_id
    assert [link.context.span_id for link in processed.links] == [sent.context.span_id] * links


@pytest.mark.parametrize("propagate", ["parent", "link", "none"])
async def test_what_travels_for_each_way(bench: Bench, propagate: Any) -> None:
    """``none`` takes no trace along, nor Sentry's members; attributes repeat the envelope."""

    class Members:
        public_key, org = "abc", None

        def items(self, context: object) -> list[tuple[str, str]]:
            return [("sentry-trace_id", "1" * 32)]

    bench.propagator = Propagator(sentry=Members())
    bench.handle(nothing)
    with entered(RequestStore(user_id="u-1")):
        await bench.producer().enqueue("note", Note(), propagate=propagate)
    (message,) = await bench.take("tasks")

    event = decode(message.body)
    assert event.propagate == propagate
    assert dict(event.carrier) == dict(message.attributes)
    assert ("traceparent" in event.carrier) is (propagate != "none")
    assert ("sentry-trace_id" in event.carrier["baggage"]) is (propagate != "none")
    assert "tracebaton.user_id=u-1" in event.carrier["baggage"]


async def test_aws_trace_header_does_not_undo_none(bench: Bench) -> None:
    """AWS may add one on its way; the sender wanted no trace."""
    bench.handle(nothing)
    await bench.producer().enqueue("note", Note(), propagate="none")
    (message,) = await bench.take("tasks")
    url = bench.local.queue_url("tasks")
    await bench.sqs.delete(url, [message.receipt_handle])
    header = f"Root=1-{'a' * 8}-{'b' * 24};Parent={'c' * 16};Sampled=1"
    await bench.sqs.send(url, message.body, attributes={}, trace_header=header)
    async with working(bench.worker(wait_seconds=0)):
        process = await bench.spanned("process tasks")

    assert process.parent is None


async def test_the_callers_attributes_go_along(bench: Bench) -> None:
    """A context that the caller chose stays; at nine there is room for one of ours."""
    bench.handle(nothing)
    given = {f"own-{number}": "x" for number in range(8)} | {
        "traceparent": f"00-{'1' * 32}-{'2' * 16}-01"
    }
    await bench.producer().enqueue("note", Note(), attributes=given)
    (message,) = await bench.take("tasks")

    assert dict(message.attributes) == given | {"baggage": message.attributes["baggage"]}


async def test_with_ten_attributes_of_the_caller_the_trace_arrives(bench: Bench) -> None:
    """By the envelope."""
    bench.handle(nothing)
    task = await bench.producer().enqueue(
        "note", Note(), attributes={f"own-{number}": "x" for number in range(10)}
    )
    async with working(bench.worker(wait_seconds=0)):
        await bench.ended(task.id)

    sent, processed = bench.spans()["send tasks"], bench.spans()["process tasks"]
    assert processed.parent is not None
    assert processed.parent.span_id == sent.context.span_id


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"delay_seconds": 901}, "0 to 900"),
        ({"delay_seconds": -1}, "0 to 900"),
        ({"deduplication_id": "x"}, "no FIFO queue"),
        ({"group_id": "two words"}, "visible ASCII"),
        ({"group_id": "x" * 129}, "visible ASCII"),
        ({"propagate": "child"}, "parent, link or none"),
        ({"attributes": dict.fromkeys(map(str, range(11)), "x")}, "11 message attributes"),
        ({"attributes": {"AWS.x": "x"}}, "cannot be the name"),
        ({"attributes": {"a..b": "x"}}, "cannot be the name"),
        ({"attributes": {"tracebaton-signature": "x"}}, "cannot be the name"),
        ({"attributes": {"x": ""}}, "is empty"),
    ],
)
async def test_what_sqs_would_refuse_is_refused_before(
    bench: Bench, options: dict[str, Any], said: str
) -> None:
    """Our own error; nothing is saved or sent."""
    bench.handle(nothing)
    with pytest.raises(RequestError, match=said):
        await bench.producer().enqueue("note", Note(), **options)

    assert bench.count() == 0
    assert named(bench, "send tasks") == []


async def test_size_counts_all_of_the_message(bench: Bench) -> None:
    """At the limit attributes are left out, one byte further it is refused with both numbers."""
    bench.handle(nothing)
    await bench.producer().enqueue("note", Note(text=""))
    (empty,) = await bench.take("tasks")
    room = MIB - len(empty.body)
    await bench.producer().enqueue("note", Note(text="x" * room))
    (full,) = await bench.take("tasks")
    with pytest.raises(MessageTooLarge, match=f"{MIB + 1} bytes.*{MIB}"):
        await bench.producer().enqueue("note", Note(text="x" * (room + 1)))

    failed = named(bench, "send tasks")[-1]
    assert (len(full.body), dict(full.attributes)) == (MIB, {})
    assert failed.attributes is not None
    assert failed.attributes["error.type"] == "MessageTooLarge"


async def test_attributes_leave_last_first(bench: Bench) -> None:
    """Baggage before traceparent; a signature is never left out."""
    bench.handle(nothing)
    await bench.producer(keys=MessageKeys(["k"])).enqueue("note", Note(text=""))
    (empty,) = await bench.take("tasks")
    signature = len("tracebaton-signature") + len("String") + 67
    traceparent = len("traceparent") + len("String") + 55
    room = MIB - len(empty.body) - signature - traceparent
    for text in ("x" * room, "x" * (room + 1)):
        await bench.producer(keys=MessageKeys(["k"])).enqueue("note", Note(text=text))
    messages = [*await bench.take("tasks"), *await bench.take("tasks", seconds=0)]

    assert [sorted(message.attributes) for message in messages] == [
        ["traceparent", "tracebaton-signature"][::-1],
        ["tracebaton-signature"],
    ]


async def test_many_are_sent_in_batches(bench: Bench) -> None:
    """Each with its own span as creation context; results come in the order of the items."""
    bench.handle(nothing)
    with entered(RequestStore(correlation_id="c-1")):
        tasks = await bench.producer().enqueue_many(
            [("note", Note(number=number)) for number in range(25)]
        )
    assert all(isinstance(task, Task) for task in tasks)
    ids = [task.id for task in tasks if isinstance(task, Task)]
    async with working(bench.worker(wait_seconds=0)):
        for task_id in ids:
            await bench.ended(task_id)

    sent = {span.attributes["tracebaton.task.id"]: span for span in named(bench, "send tasks")}
    processed = {
        span.attributes["tracebaton.task.id"]: span for span in named(bench, "process tasks")
    }
    assert list(sent) == ids
    assert len(sent) == len(processed) == 25
    assert [processed[one].parent.span_id for one in ids] == [
        sent[one].context.span_id for one in ids
    ]
    assert len({span.attributes["messaging.message.id"] for span in sent.values()}) == 25


async def test_one_bad_item_takes_no_other_along(bench: Bench) -> None:
    """Its place in the result holds the error that `enqueue()` would raise."""
    bench.handle(nothing)
    results = await bench.producer().enqueue_many(
        [
            ("note", {"number": 1}),
            ("note", {"number": "seven"}),
            ("unheard.of", {}),
            Item("note", Note(), delay_seconds=901),
            Item("note", Note(text="x" * MIB)),
            Item("note", Note(), delay_seconds=1, attributes={"own": "x"}),
        ]
    )

    assert [type(result) for result in results] == [
        Task,
        InvalidTaskData,
        UnknownTaskType,
        RequestError,
        MessageTooLarge,
        Task,
    ]
    assert bench.count() == 2


async def test_nothing_to_send_is_no_call(bench: Bench) -> None:
    """Of an empty list, or of one that holds nothing good."""
    producer = bench.producer()

    assert await producer.enqueue_many([]) == []
    assert [type(one) for one in await producer.enqueue_many([("x", {})])] == [UnknownTaskType]


def test_batches_split_by_ten_and_by_bytes() -> None:
    """In order; a large one goes alone, and nothing is no batch."""
    assert list(batches([])) == []
    sizes = [1] * 12 + [600, 600, 400, 1001, 1]
    messages = [Outgoing(body="x" * size) for size in sizes]

    assert list(batches(messages, limit=1000)) == [
        [*range(10)],
        [10, 11, 12],
        [13, 14],
        [15],
        [16],
    ]


async def test_a_batch_stays_within_sqs_limit(bench: Bench) -> None:
    """Ten messages of 300 KiB are four calls and no error."""
    bench.handle(nothing)
    items = [("note", Note(text="x" * 300 * 1024)) for _ in range(10)]
    results = await bench.producer().enqueue_many(items)

    assert [type(result) for result in results] == [Task] * 10
    assert bench.count() == 10


def scripted(bench: Bench, sqs: ScriptedSqs) -> Producer:
    """Return a producer that sends to *sqs*."""
    client = sqs.client()
    bench.clients.append(client)
    bench.handle(nothing)
    return Producer(
        client,
        Queue(client, url=sqs.queue_url),
        registry=bench.registry,
        store=bench.store,
        tracer=bench.provider.get_tracer("tracebaton"),
        propagator=bench.propagator,
        source="/api",
    )


def answering(*rounds: dict[str, str]) -> Any:
    """Return a script: each send call fails the ids of its round, by a code, and takes the rest."""
    left = list(rounds)

    def answer(action: str, request: dict[str, Any]) -> Any:
        if action == "GetQueueAttributes":
            return {"Attributes": {}}
        fails = left.pop(0) if left else {}
        ids = [entry["Id"] for entry in request["Entries"]]
        return {
            "Successful": [
                {"Id": one, "MessageId": f"m-{one}", "MD5OfMessageBody": ""}
                for one in ids
                if one not in fails
            ],
            "Failed": [
                {"Id": one, "Code": fails[one], "SenderFault": fails[one] != "InternalError"}
                for one in ids
                if one in fails
            ],
        }

    return answer


async def test_only_failed_entries_are_tried_again(bench: Bench) -> None:
    """Those that SQS failed for its own reasons, until they are sent."""
    script = answering({"1": "InternalError", "2": "InternalError"}, {"0": "InternalError"})
    with ScriptedSqs(script) as sqs:
        results = await scripted(bench, sqs).enqueue_many([("note", Note())] * 3)
        calls = [len(request["Entries"]) for action, request in sqs.requests if "Send" in action]

    assert [type(result) for result in results] == [Task] * 3
    assert calls == [3, 2, 1]


async def test_a_partial_failure_marks_only_the_failed(bench: Bench) -> None:
    """Its span, its result; its task is not kept."""
    refused = {"1": "InvalidMessageContents"}
    with ScriptedSqs(answering(refused)) as sqs:
        results = await scripted(bench, sqs).enqueue_many([("note", Note())] * 3)

    spans = named(bench, "send tasks")
    tasks = [await bench.store.get(span.attributes["tracebaton.task.id"]) for span in spans]
    assert [type(result) for result in results] == [Task, QueueUnavailable, Task]
    assert [span.attributes.get("error.type") for span in spans] == [None, "QueueUnavailable", None]
    assert [task is None for task in tasks] == [False, True, False]
    assert "InvalidMessageContents" in str(results[1].__cause__)  # type: ignore[union-attr]


async def test_an_entry_that_never_succeeds_is_given_up(bench: Bench) -> None:
    """After four tries, the others long sent."""
    with ScriptedSqs(answering(*[{"0": "InternalError"}] * 9)) as sqs:
        results = await scripted(bench, sqs).enqueue_many([("note", Note())] * 2)
        calls = [len(request["Entries"]) for action, request in sqs.requests if "Send" in action]

    assert [type(result) for result in results] == [QueueUnavailable, Task]
    assert calls == [2, 1, 1, 1]


class Unforgetting(SqliteTaskStore):
    """A store from which nothing can be removed."""

    async def forget(self, task_id: str) -> None:
        """Fail."""
        raise StoreUnavailable()


async def test_the_failed_send_is_what_the_caller_hears_of(
    bench: Bench, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Not that its task could not be taken back, which is said in the log."""

    def answer(action: str, request: dict[str, Any]) -> Any:
        return {"Attributes": {}} if action == "GetQueueAttributes" else (403, "AccessDenied")

    bench.store = Unforgetting(tmp_path / "tasks.db")
    with ScriptedSqs(answer) as sqs, pytest.raises(QueueUnavailable):
        await scripted(bench, sqs).enqueue("note", Note())
    await bench.store.close()

    assert "task_store.failed" in [record.message for record in caplog.records]


async def test_a_cancelled_batch_keeps_what_failed_before_it(bench: Bench) -> None:
    """Only what was prepared has something to take back."""
    loop, called, release = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def answer(action: str, request: dict[str, Any]) -> Any:
        if action != "GetQueueAttributes":
            loop.call_soon_threadsafe(called.set)
            release.wait(5)
        return {"Attributes": {}}

    with ScriptedSqs(answer) as sqs:
        items = [("unheard.of", {}), ("note", Note())]
        sending = asyncio.create_task(scripted(bench, sqs).enqueue_many(items))
        await asyncio.wait_for(called.wait(), 5)
        sending.cancel()
        await asyncio.wait([sending])
        release.set()

    assert sending.cancelled()
    assert len(named(bench, "send tasks")) == 1


async def test_only_so_many_sends_are_remembered(bench: Bench) -> None:
    """To notice a dropped one; the oldest is forgotten first."""
    acceptance = bench.producer()._acceptance
    task = Task(id="t", type="note", created_at=0, updated_at=0)
    item = Item("note", Note(), deduplication_id="d")
    sending = Sending(item, Context(), INVALID_SPAN, task, Outgoing(body=""))
    for number in range(1001):
        assert acceptance._earlier(sending, f"m-{number}") is None

    assert len(acceptance._remembered) == 1000
    assert "m-0" not in acceptance._remembered


async def test_a_failing_call_fails_each_of_its_messages(bench: Bench) -> None:
    """Each has an error and a span of its own."""

    def answer(action: str, request: dict[str, Any]) -> Any:
        return {"Attributes": {}} if action == "GetQueueAttributes" else (403, "AccessDenied")

    with ScriptedSqs(answer) as sqs:
        results = await scripted(bench, sqs).enqueue_many([("note", Note())] * 2)

    spans = named(bench, "send tasks")
    assert [type(result) for result in results] == [QueueUnavailable] * 2
    assert results[0] is not results[1]
    assert [len(span.events) for span in spans] == [1, 1]


async def test_a_failing_send_leaves_no_task(bench: Bench) -> None:
    """And its span says what failed."""

    def answer(action: str, request: dict[str, Any]) -> Any:
        return {"Attributes": {}} if action == "GetQueueAttributes" else (403, "AccessDenied")

    with ScriptedSqs(answer) as sqs, pytest.raises(QueueUnavailable):
        await scripted(bench, sqs).enqueue("note", Note())

    (span,) = named(bench, "send tasks")
    assert await bench.store.get(span.attributes["tracebaton.task.id"]) is None
    assert span.attributes["error.type"] == "QueueUnavailable"


async def test_a_store_that_is_away_sends_nothing(bench: Bench, tmp_path: Any) -> None:
    """Of one or of many."""
    bench.handle(nothing)
    bench.store = SqliteTaskStore(tmp_path)  # a folder cannot be opened as a database
    producer = bench.producer()
    with pytest.raises(StoreUnavailable):
        await producer.enqueue("note", Note())
    (result,) = await producer.enqueue_many([("note", Note())])
    await bench.store.close()

    assert isinstance(result, StoreUnavailable)
    assert bench.count() == 0


async def test_a_cancelled_send_takes_its_tasks_back(bench: Bench) -> None:
    """All of them, and ends their spans."""
    called = asyncio.Event()
    loop = asyncio.get_running_loop()

    def answer(action: str, request: dict[str, Any]) -> Any:
        if action != "GetQueueAttributes":
            loop.call_soon_threadsafe(called.set)
            release.wait(5)
        return {"Attributes": {}}

    release = threading.Event()
    with ScriptedSqs(answer) as sqs:
        sending = asyncio.create_task(scripted(bench, sqs).enqueue_many([("note", Note())] * 3))
        await asyncio.wait_for(called.wait(), 5)
        sending.cancel()
        await asyncio.wait([sending])
        release.set()

    spans = named(bench, "send tasks")
    tasks = [await bench.store.get(span.attributes["tracebaton.task.id"]) for span in spans]
    assert sending.cancelled()
    assert tasks == [None] * 3
    assert [span.status.status_code.name for span in spans] == ["UNSET"] * 3


async def test_a_producer_without_a_store_sends(bench: Bench) -> None:
    """There is no task to keep or to take back."""
    bench.handle(nothing)
    producer = bench.producer(store=None)
    task = await producer.enqueue("note", Note())
    (many,) = await producer.enqueue_many([("note", Note())])

    assert isinstance(many, Task)
    assert (task.status, many.status) == (TaskStatus.QUEUED, TaskStatus.QUEUED)
    assert bench.count() == 2


async def test_every_way_to_send_carries_trace_and_store(bench: Bench) -> None:
    """Each public way goes through the same line."""
    bench.handle(nothing)
    producer = bench.producer()
    ways = [name for name in vars(Producer) if not name.startswith("_")]
    ways.remove("close")
    with entered(RequestStore(correlation_id="c-9")):
        await producer.enqueue("note", Note())
        await producer.enqueue_many([("note", Note())])
    messages = [*await bench.take("tasks"), *await bench.take("tasks", seconds=0)]

    assert ways == ["enqueue", "enqueue_many"]
    assert len(messages) == 2
    for message in messages:
        assert set(message.attributes) == {"traceparent", "baggage"}
        assert "tracebaton.correlation_id=c-9" in message.attributes["baggage"]
    assert not trace.get_current_span().get_span_context().is_valid

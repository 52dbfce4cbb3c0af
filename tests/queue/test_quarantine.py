"""Messages that no handler can take, over the wire to a real SQS."""

import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace

from tracebaton.context import RequestStore, entered
from tracebaton.errors import StoreUnavailable
from tracebaton.queue.event import TaskEvent, encode
from tracebaton.queue.message import Attribute, Received
from tracebaton.queue.quarantine import quarantined
from tracebaton.tasks import Task, TaskStatus
from tracebaton.tasks.sqlite import SqliteTaskStore

from .conftest import Bench, Note, said, working

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"
EVENT = TaskEvent(
    id="0191", source="/elsewhere", type="note", time="2026-11-23T21:00:00Z", data={"text": "hi"}
)


async def never(note: Note) -> None:
    """A handler that must not run."""
    raise AssertionError("The message reached the handler.")


async def quarantine(bench: Bench, **options: Any) -> None:
    """Run a worker until the queue is empty."""
    async with working(bench.worker(quarantine=bench.quarantine, wait_seconds=0, **options)):
        await bench.holds(0)


def event(**changes: Any) -> str:
    """Return a message body of ours with *changes* to its document."""
    return json.dumps(json.loads(encode(EVENT)) | changes)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("\t{ not JSON é", "undecodable_message"),
        (json.dumps({"hello": "world"}), "undecodable_message"),
        (event(specversion="0.3"), "undecodable_message"),
        (event(type="unheard.of"), "unknown_task_type"),
        (event(schemaversion="2"), "unknown_schema_version"),
        (event(data={"number": "seven"}), "invalid_task_data"),
        (event(time="2020-01-01T00:00:00Z"), "message_too_old"),
    ],
    ids=lambda value: value if value.isidentifier() else "",
)
async def test_what_cannot_be_handled_is_moved(
    bench: Bench, body: str, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The very bytes and attributes, the reason beside them, one event, one error line."""
    bench.handle(never, max_age=3600.0 if code == "message_too_old" else None)
    sent_id = await bench.send(body, {"traceparent": TRACEPARENT, "n": Attribute("Number", "7")})
    with caplog.at_level(logging.INFO):
        await quarantine(bench)
    (copy,) = await bench.take("tasks-quarantine")

    told = quarantined(copy)
    lines = said(caplog, "message.quarantined")
    assert copy.body == body
    assert copy.every["n"] == Attribute("Number", "7")
    assert copy.attributes["traceparent"] == TRACEPARENT
    assert (told.reason, told.story["message_id"], told.story["queue"]) == (code, sent_id, "tasks")
    assert told.detail == copy.attributes["tracebaton-detail"] != ""
    assert [outcome.code for _, outcome, _ in bench.reports] == [code]
    assert [(line.levelname, vars(line)["fields"]["code"]) for line in lines] == [("ERROR", code)]


@pytest.mark.parametrize(("data", "where"), [(None, ""), ({"number": "seven"}, ": number")])
async def test_the_detail_says_what_is_wrong(bench: Bench, data: Any, where: str) -> None:
    """The fields that do not fit, none of them where the data is no object."""
    bench.handle(never)
    await bench.send(event(data=data))
    await quarantine(bench)
    (copy,) = await bench.take("tasks-quarantine")

    assert quarantined(copy).detail == f"The data does not fit the model of 'note'{where}."


async def test_the_copy_belongs_to_the_trace(bench: Bench) -> None:
    """Its send span is in the original trace, links where the message came from, and is named."""
    await bench.send("no JSON", {"traceparent": TRACEPARENT})
    await quarantine(bench)
    (copy,) = await bench.take("tasks-quarantine")

    spans = bench.spans()
    send, process = spans["send tasks-quarantine"], spans["process tasks"]
    assert {trace.format_trace_id(span.context.trace_id) for span in (send, process)} == {TRACE}
    assert [trace.format_span_id(link.context.span_id) for link in send.links] == [
        "b7ad6b7169203331"
    ]
    assert send.parent == process.context
    assert process.attributes is not None
    assert process.attributes["error.type"] == "UndecodableMessage"
    assert quarantined(copy).story["trace_id"] == TRACE
    assert send.attributes is not None
    assert send.attributes["messaging.message.id"] == copy.message_id


async def test_its_task_fails_with_the_problem(bench: Bench) -> None:
    """The owner of the task reads why."""
    bench.handle(never, version="1")
    with entered(RequestStore(correlation_id="c-1", user_id="u-1")):
        task = await bench.producer().enqueue("note", Note())
    bench.registry = type(bench.registry)()
    bench.handle(never, version="2")
    await quarantine(bench)

    ended = await bench.store.get(task.id)
    assert ended is not None
    assert (ended.status, ended.attempt, ended.owner is not None) == (TaskStatus.FAILED, 1, True)
    assert ended.error is not None
    assert (ended.error["code"], ended.error["correlation_id"]) == ("unknown_schema_version", "c-1")
    assert bench.reports[0][2]["tags"] == {"task_type": "note", "task_id": task.id, "attempt": "1"}


async def test_without_a_quarantine_queue_it_stays_until_the_dlq(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said at each attempt, and reported once, when SQS gives the message up."""
    bench.handle(never)
    task = await bench.producer().enqueue("note", Note())
    bench.registry = type(bench.registry)()
    with caplog.at_level(logging.INFO):
        async with working(bench.worker()):
            ended = await bench.ended(task.id)
            await bench.holds(1, "tasks-dlq")

    lines = said(caplog, "message.not_quarantined")
    assert ended.status is TaskStatus.DEAD
    assert len(lines) == bench.attempts
    assert "TRACEBATON_QUARANTINE_URL" in vars(lines[0])["fields"]["reason"]
    assert [outcome.code for _, outcome, _ in bench.reports] == ["unknown_task_type"]


async def test_what_nobody_can_read_is_reported_once_too(bench: Bench) -> None:
    """It has no task; after its attempts SQS moves it to the DLQ."""
    await bench.send("no JSON")
    async with working(bench.worker()):
        await bench.holds(1, "tasks-dlq")

    assert [outcome.code for _, outcome, _ in bench.reports] == ["undecodable_message"]


async def test_a_copy_that_fails_leaves_the_message(bench: Bench) -> None:
    """The quarantine queue is away: nothing is deleted, the send span says so, and it retries."""
    await bench.send("no JSON")
    worker = bench.worker(quarantine=bench.named("tasks-nowhere"), wait_seconds=0)
    async with working(worker):
        span = await bench.spanned("send tasks-nowhere")

    assert span.attributes is not None
    assert span.attributes["error.type"] == "QueueUnavailable"
    assert bench.local.stats()["tasks"]["deleted"] == 0
    assert bench.count() == 1
    assert bench.reports == []


async def test_a_second_copy_of_a_quarantined_message_goes(bench: Bench) -> None:
    """Its task has ended: it is not moved and not reported again."""
    bench.handle(never)
    task = await bench.producer().enqueue("note", Note())
    bench.registry = type(bench.registry)()
    (first,) = await bench.take("tasks")
    await bench.send(first.body)
    await bench.send(first.body)
    await quarantine_others(bench)

    ended = await bench.store.get(task.id)
    assert ended is not None
    assert ended.status is TaskStatus.FAILED
    assert (bench.count("tasks-quarantine"), len(bench.reports)) == (1, 1)


@pytest.mark.parametrize("own", [True, False], ids=["the same message", "another one"])
async def test_an_unfit_message_with_an_ended_tasks_id(bench: Bench, own: bool) -> None:
    """A second delivery goes; what only bears the id is kept in quarantine."""
    bench.handle(never)
    task = await bench.producer().enqueue("note", Note())
    (message,) = await bench.take("tasks")
    owner = message.message_id if own else "another-message"
    await bench.store.start(task.id, attempt=1, owner=owner)
    await bench.store.finish(task.id, TaskStatus.SUCCEEDED, attempt=1, result="done")
    bench.registry = type(bench.registry)()
    url = bench.local.queue_url("tasks")
    await bench.sqs.change_visibility(url, [(message.receipt_handle, 0)])
    async with working(bench.worker(quarantine=bench.quarantine, wait_seconds=0)):
        await bench.holds(0)

    ended = await bench.store.get(task.id)
    assert ended is not None
    assert (ended.status, ended.result) == (TaskStatus.SUCCEEDED, "done")
    assert bench.count("tasks-quarantine") == (0 if own else 1)


async def quarantine_others(bench: Bench) -> None:
    """Run a worker until only the message in our hands is left."""
    worker = bench.worker(quarantine=bench.quarantine, wait_seconds=0, concurrency=1)
    async with working(worker):
        await bench.holds(1)


@pytest.mark.parametrize("count", [7, 8, 9, 10])
async def test_ten_attributes_are_never_exceeded(bench: Bench, count: int) -> None:
    """What finds no room beside the reason is folded into the story and can be put back."""
    given: dict[str, str | Attribute] = {f"a{number}": str(number) for number in range(count - 1)}
    given["binary"] = Attribute("Binary", b"\x00\xff")
    await bench.send("no JSON", given)
    await quarantine(bench)
    (copy,) = await bench.take("tasks-quarantine")

    told = quarantined(copy)
    assert len(copy.every) <= 10
    assert copy.attributes["tracebaton-reason"] == told.reason == "undecodable_message"
    assert told.detail == "The message body is not JSON."
    assert set(told.attributes) == set(given)
    assert told.attributes["binary"] == given["binary"]
    assert told.attributes["a0"] == Attribute("String", "0")


@pytest.mark.parametrize("room", [0, 60, 3000])
async def test_a_full_message_loses_attributes_and_never_its_body(bench: Bench, room: int) -> None:
    """The last ones are dropped until the rest fits the queue's limit."""
    body = "x" * (1024 * 1024 - room - 8)
    await bench.send(body, {"k": "v"} if room else {})
    await quarantine(bench)
    (copy,) = await bench.take("tasks-quarantine")

    reason, all_of_it = "tracebaton-reason", ["k", "tracebaton-detail", "tracebaton-quarantine"]
    assert copy.body == body
    assert sorted(copy.every) == {0: [], 60: [reason], 3000: [*all_of_it, reason]}[room]


async def test_a_body_over_the_quarantine_queues_limit_stays(bench: Bench) -> None:
    """Half a message would be no copy."""
    bench.local.create_queue("small", {"MaximumMessageSize": "1024"})
    await bench.send("x" * 2000)
    async with working(bench.worker(quarantine=bench.named("small"), wait_seconds=0)):
        await bench.spanned("send small")

    assert (bench.count(), bench.count("small")) == (1, 0)


async def test_a_message_that_comes_back_from_quarantine_keeps_one_story(bench: Bench) -> None:
    """Its old reason is replaced, not piled up."""
    await bench.send("no JSON", {"tracebaton-reason": "old", "tracebaton-quarantine": "[1]"})
    await quarantine(bench)
    (copy,) = await bench.take("tasks-quarantine")

    assert quarantined(copy).reason == "undecodable_message"
    assert quarantined(copy).attributes == {}


class ReadOnly(SqliteTaskStore):
    """A store that can be read and not be written."""

    async def start(self, task_id: str, **details: Any) -> Task | None:
        """Fail."""
        raise StoreUnavailable()


async def test_a_state_that_cannot_be_written_keeps_the_message(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A second copy is better than a task that nobody ever ends."""
    bench.handle(never)
    await bench.producer().enqueue("note", Note())
    bench.registry = type(bench.registry)()
    bench.store = ReadOnly(tmp_path / "tasks.db")
    async with working(bench.worker(quarantine=bench.quarantine, wait_seconds=0)):
        await bench.holds(1, "tasks-quarantine")
        await bench.spanned("process tasks")
    await bench.store.close()

    assert bench.count() == 1
    assert "task_store.failed" in [record.message for record in caplog.records]
    assert bench.reports == []


async def test_a_task_that_a_copy_runs_is_left_alone(bench: Bench) -> None:
    """The message goes to quarantine; the task is the other one's to end."""
    bench.handle(never)
    task = await bench.producer().enqueue("note", Note())
    running = await bench.store.start(
        task.id, attempt=1, owner="another message", lease_until=time.time() + 60
    )
    bench.registry = type(bench.registry)()
    await quarantine(bench)

    assert bench.count("tasks-quarantine") == 1
    assert await bench.store.get(task.id) == running


@pytest.mark.parametrize(
    "story",
    [
        "no JSON",
        "7",
        '{"attributes": [1]}',
        '{"attributes": {"a": "b"}}',
        '{"attributes": {"a": {}}}',
    ],
)
def test_a_story_that_is_not_ours_is_none(story: str) -> None:
    """Whoever may send to the quarantine queue may write anything."""
    message = Received(
        message_id="m",
        receipt_handle="h",
        body="",
        attributes={"tracebaton-quarantine": story, "tracebaton-detail": "why"},
    )
    told = quarantined(message)

    assert (told.reason, told.detail, told.story, told.attributes) == ("", "why", {}, {})


async def test_a_store_that_is_away_keeps_the_message(bench: Bench, tmp_path: Path) -> None:
    """Its task's state cannot be read, so nothing is decided yet."""
    bench.handle(never)
    await bench.producer().enqueue("note", Note())
    bench.registry = type(bench.registry)()
    bench.store = SqliteTaskStore(tmp_path)  # a folder cannot be opened as a database
    async with working(bench.worker(quarantine=bench.quarantine, wait_seconds=0)):
        await bench.spanned("process tasks")
    await bench.store.close()

    assert (bench.count(), bench.count("tasks-quarantine"), bench.reports) == (1, 0, [])

"""What becomes of a message when something fails at a bad moment."""

import asyncio
import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.trace import NoOpTracer

from tracebaton.context import RequestStore, current, entered
from tracebaton.errors import RequestError, StoreUnavailable
from tracebaton.problems import NO_REPORTER, Outcome
from tracebaton.propagation import Propagator
from tracebaton.queue import settle
from tracebaton.queue.event import TaskEvent, encode
from tracebaton.queue.sqs import Queue
from tracebaton.queue.worker import Worker
from tracebaton.tasks import Registry, Task, TaskStatus, TaskType
from tracebaton.tasks.sqlite import SqliteTaskStore

from .conftest import Bench, Note, Reports, said, spoken, until, working
from .scripted_sqs import ScriptedSqs, failed

EVENT = TaskEvent(id="0191", source="/elsewhere", type="note", time="", data={})


def without_table(path: Path, *, away: bool) -> None:
    """Take the store's table away, or bring it back."""
    old, new = ("tasks", "hidden") if away else ("hidden", "tasks")
    connection = sqlite3.connect(path, timeout=5)
    connection.execute(f"ALTER TABLE {old} RENAME TO {new}")
    connection.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenancy(RequestStore):
    """A store with a field of an application's own."""

    tenant: str | None = None


async def test_custom_fields_of_the_store_arrive(bench: Bench) -> None:
    """They travel with the message like the others; a foreign one brings none."""
    seen: set[tuple[str | None, str | None]] = set()

    async def handler(note: Note) -> None:
        store = current()
        assert isinstance(store, Tenancy)
        seen.add((store.user_id, store.tenant))

    bench.handle(handler)
    with entered(Tenancy(user_id="u-1", tenant="t/1")):
        await bench.producer().enqueue("note", Note())
    await bench.send({"text": "x"}, {"baggage": "tracebaton.tenant=forged"})
    worker = bench.worker(store_type=Tenancy, foreign=[lambda message: "note"], wait_seconds=0)
    async with working(worker):
        await bench.holds(0)

    assert seen == {("u-1", "t/1"), (None, None)}


async def test_a_released_task_waits_again(bench: Bench) -> None:
    """Its resource says queued, no failure is listed, and the next worker runs it."""
    started = asyncio.Event()

    async def handler(note: Note) -> None:
        started.set()
        await asyncio.Event().wait()

    bench.handle(handler)
    task = await bench.producer().enqueue("note", Note())
    async with working(bench.worker(drain_seconds=0)):
        await asyncio.wait_for(started.wait(), 10)

    released = await bench.store.get(task.id)
    assert released is not None
    assert (released.status, released.attempt, released.failures) == (TaskStatus.QUEUED, 1, ())


async def test_a_stop_waits_for_the_ack_of_finished_work() -> None:
    """The drain time is over while the delete is on its way: it is counted, and not released."""
    deleting, release = threading.Event(), threading.Event()

    def answer(action: str, request: dict[str, Any]) -> Any:
        if action == "ReceiveMessage":
            body = encode(EVENT)
            message = {"MessageId": "m", "ReceiptHandle": "h", "Body": body}
            first = sum(one == action for one, _ in sqs.requests) == 1
            return {"Messages": [message]} if first else {}
        if action == "DeleteMessageBatch":
            deleting.set()
            release.wait(10)
        return {"Successful": [], "Failed": []}

    registry = Registry()
    registry.add(TaskType(name="note", model=Note, handler=lambda note: None))
    with ScriptedSqs(answer) as sqs:
        client = sqs.client()
        worker = Worker(
            client,
            Queue(client, url=sqs.queue_url),
            registry=registry,
            store=None,
            tracer=NoOpTracer(),
            propagator=Propagator(),
            concurrency=1,
            drain_seconds=0,
        )
        running = asyncio.create_task(worker.run())
        assert await asyncio.to_thread(deleting.wait, 10)
        worker.stop()
        await asyncio.sleep(0)  # one turn of the loop, in which a drain would begin
        asyncio.get_running_loop().call_later(0.1, release.set)
        report = await asyncio.wait_for(running, 10)
        await client.close()
        actions = {action for action, _ in sqs.requests}

    assert (report.acked, report.released, report.abandoned) == (1, 0, 0)
    assert "ChangeMessageVisibilityBatch" not in actions


@pytest.mark.parametrize("failure", [asyncio.CancelledError, TimeoutError, StopIteration])
async def test_what_looks_like_the_workers_own_doing_is_the_handlers(
    bench: Bench, failure: type[BaseException]
) -> None:
    """A handler that cancels itself, or times out by itself, has failed and is tried again."""
    attempts: list[int | None] = []

    async def handler(note: Note) -> None:
        attempts.append(current().attempt)
        if len(attempts) == 1:
            raise failure

    bench.handle(handler, deadline=60)
    task = await bench.producer().enqueue("note", Note())
    async with working(bench.worker()):
        ended = await bench.ended(task.id)

    assert attempts == [1, 2]
    assert (ended.status, [one["code"] for one in ended.failures]) == ("succeeded", ["internal"])


async def test_a_foreign_message_waits_for_the_store(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its task cannot be made yet, so it is tried again."""
    runs: list[str] = []
    bench.handle(lambda note: runs.append(note.text))
    await bench.send({"text": "x"})
    await bench.store.check()
    without_table(tmp_path / "tasks.db", away=True)
    async with working(bench.worker(foreign=[lambda message: "note"])):
        await spoken(caplog, "task.retried")
        without_table(tmp_path / "tasks.db", away=False)
        await bench.holds(0)

    assert runs == ["x"]


async def test_a_state_that_cannot_be_written_keeps_the_message(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The last attempt failed while the store is away: nothing is reported until it is back."""
    runs: list[int | None] = []

    async def handler(note: Note) -> None:
        runs.append(current().attempt)
        if len(runs) == 1:
            without_table(tmp_path / "tasks.db", away=True)
        raise ValueError("always")

    bench.handle(handler)
    bench.attempts = 1
    task = await bench.producer().enqueue("note", Note())
    async with working(bench.worker()):
        await spoken(caplog, "task_store.failed")
        before = len(bench.reports)
        without_table(tmp_path / "tasks.db", away=False)
        ended = await bench.ended(task.id)

    assert before == 0
    assert (ended.status, len(bench.reports)) == (TaskStatus.DEAD, 1)


class Unreadable(SqliteTaskStore):
    """A store that can be written and not be read."""

    async def get(self, task_id: str) -> Task | None:
        """Fail."""
        raise StoreUnavailable()


async def test_a_final_failure_is_reported_without_its_list(bench: Bench, tmp_path: Path) -> None:
    """The event matters more than the attempts that it lists."""

    async def handler(note: Note) -> None:
        raise ValueError("always")

    bench.handle(handler)
    bench.attempts = 1
    await bench.producer().enqueue("note", Note())
    bench.store = Unreadable(tmp_path / "tasks.db")
    async with working(bench.worker()):
        await until(_reports(bench), lambda count: count == 1)
    await bench.store.close()

    assert bench.reports[0][2]["failures"] == ()


def _reports(bench: Bench) -> Any:
    async def ask() -> int:
        return len(bench.reports)

    return ask


@pytest.mark.parametrize("status", [TaskStatus.CANCELLED, None])
async def test_a_result_that_comes_too_late_is_discarded(
    bench: Bench, caplog: pytest.LogCaptureFixture, status: TaskStatus | None
) -> None:
    """The task ended meanwhile, or another delivery runs it: then its message stays that one's."""

    async def handler(note: Note) -> str:
        task_id = current().task_id or ""
        if status is None:
            running = await bench.store.get(task_id)
            await bench.store.start(task_id, attempt=2, owner=running.owner if running else None)
        else:
            await bench.store.finish(task_id, status, attempt=1)
        return "late"

    bench.handle(handler)
    task = await bench.producer().enqueue("note", Note())
    async with working(bench.worker(wait_seconds=0)):
        await spoken(caplog, "task.superseded")
        await bench.holds(1 if status is None else 0)

    stored = await bench.store.get(task.id)
    assert stored is not None
    assert stored.result is None


@pytest.mark.parametrize("attempts", [1, 3], ids=["the last attempt", "a refusal"])
@pytest.mark.parametrize("status", [TaskStatus.DEAD, TaskStatus.CANCELLED, None])
async def test_a_failure_that_comes_too_late_is_not_reported(
    bench: Bench, caplog: pytest.LogCaptureFixture, status: TaskStatus | None
) -> None:
    """The task ended meanwhile or runs elsewhere: its one event is, or will be, that one's."""

    async def handler(note: Note) -> str:
        task_id = current().task_id or ""
        if status is None:
            running = await bench.store.get(task_id)
            await bench.store.start(task_id, attempt=2, owner=running.owner if running else None)
        else:
            await bench.store.finish(task_id, status, attempt=1)
        raise (ConnectionError("late") if bench.attempts == 1 else RequestError("late"))

    bench.handle(handler)
    await bench.producer().enqueue("note", Note())
    async with working(bench.worker(wait_seconds=0)):
        await spoken(caplog, "task.superseded")
        # The message of a dead task is for SQS to move.
        await bench.holds(0 if status is TaskStatus.CANCELLED else 1)

    assert bench.reports == []
    assert {"task.dead", "task.failed"} & {record.message for record in caplog.records} == set()


async def test_a_reporter_that_sends_nothing_names_no_event(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """Without Sentry the log line is all there is."""
    bench.handle(lambda note: 1 // 0)
    bench.attempts = 1
    await bench.send("no JSON")
    await bench.producer().enqueue("note", Note())
    worker = bench.worker(reporter=NO_REPORTER, quarantine=bench.quarantine)
    async with working(worker):
        await spoken(caplog, "task.dead")
        await spoken(caplog, "message.quarantined")

    for event in ("task.dead", "message.quarantined"):
        (line,) = said(caplog, event)
        assert "sentry_event_id" not in vars(line)["fields"]


class Broken(Reports):
    """A reporter with a mistake in it."""

    def report(self, exc: BaseException, outcome: Outcome, **details: Any) -> str | None:
        """Fail."""
        raise RuntimeError("our own mistake")


async def test_a_broken_sink_loses_no_message(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """The message is settled as if the sink worked, and the sink's failure is said."""
    await bench.send("no JSON")
    worker = bench.worker(reporter=Broken(), quarantine=bench.quarantine, concurrency=1)
    async with working(worker):
        await bench.holds(0)

    assert bench.count("tasks-quarantine") == 1
    assert said(caplog, "telemetry.failed")


class Mistaken(SqliteTaskStore):
    """A store with a mistake in it."""

    async def get(self, task_id: str) -> Task | None:
        """Fail as no store should."""
        raise LookupError("our own mistake")


async def test_our_own_mistake_gives_the_message_back(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged each time, reported once, and SQS moves the message to the DLQ at the end."""
    store = Mistaken(tmp_path / "mistaken.db")
    await bench.send({"specversion": "1.0", "id": "1", "source": "/a", "type": "unheard.of"})
    worker = bench.worker(store=store, quarantine=bench.quarantine, concurrency=1)
    async with working(worker):
        await bench.holds(1, "tasks-dlq")
    await store.close()

    assert len(said(caplog, "worker.failure")) == bench.attempts
    assert [(type(exc), told["tags"]) for exc, _, told in bench.reports] == [
        (LookupError, {"attempt": "3"})
    ]
    assert worker.in_hand == 0


@pytest.mark.parametrize(
    ("fails", "body", "event"),
    [
        ("DeleteMessageBatch", encode(EVENT), "ack.failed"),
        ("ChangeMessageVisibilityBatch", "no JSON", "visibility.failed"),
    ],
)
async def test_a_settle_that_sqs_refuses_is_said(
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    fails: str,
    body: str,
    event: str,
) -> None:
    """Nothing else can be done: the message comes again when its lease runs out."""
    monkeypatch.setattr(settle, "_PAUSE", 0.001)

    def answer(action: str, request: dict[str, Any]) -> Any:
        if action == "ReceiveMessage":
            message = {"MessageId": "m", "ReceiptHandle": "h", "Body": body}
            first = sum(one == action for one, _ in sqs.requests) == 1
            return {"Messages": [message]} if first else {}
        if action == fails and action == "ChangeMessageVisibilityBatch":
            return 403, "AccessDenied"
        return failed("0", code="ReceiptHandleIsInvalid", sender=True)

    registry = Registry()
    registry.add(TaskType(name="note", model=Note, handler=lambda note: None))
    with ScriptedSqs(answer) as sqs:
        client = sqs.client()
        worker = Worker(
            client,
            Queue(client, url=sqs.queue_url),
            registry=registry,
            store=None,
            tracer=NoOpTracer(),
            propagator=Propagator(),
        )
        async with working(worker):
            await spoken(caplog, event)
        await client.close()

    assert [line.levelname for line in said(caplog, event)] == ["WARNING"]

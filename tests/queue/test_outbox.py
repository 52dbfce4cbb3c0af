"""Saved but not sent, sent but not saved: neither lasts, and the trace stays whole."""

import asyncio
import gc
import json
import sys
import time
from pathlib import Path
from typing import Any, cast

import pytest
from opentelemetry.trace import SpanKind

from tracebaton.context import RequestStore, current, entered
from tracebaton.errors import QueueUnavailable, StoreUnavailable
from tracebaton.local.fault import Fault
from tracebaton.queue.event import decode
from tracebaton.queue.outbox import Outbox
from tracebaton.queue.resender import Resender
from tracebaton.queue.signature import MessageKeys
from tracebaton.queue.upkeep import Upkeep
from tracebaton.tasks import Task, TaskStatus, TaskStore
from tracebaton.tasks.sqlite import SqliteTaskStore

from .conftest import Bench, Note, working

DAY = 86_400.0


async def nothing(note: Note) -> None:
    """A handler that does nothing."""


def resender(bench: Bench, **options: Any) -> Resender:
    """Return the sweep of a process that lives."""
    defaults: dict[str, Any] = {
        "store": bench.store,
        "tracer": bench.provider.get_tracer("tracebaton"),
        "propagator": bench.propagator,
    }
    return Resender(bench.sqs, bench.queue, **defaults | options)


_DYING = """
import asyncio, os, signal, sys
from pathlib import Path
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import format_span_id, format_trace_id
from pydantic import BaseModel
from tracebaton.context import RequestStore, entered
from tracebaton.propagation import Propagator
from tracebaton.queue.producer import Item, Producer
from tracebaton.queue.signature import MessageKeys
from tracebaton.queue.sqs import Queue, Sqs, SqsAccess
from tracebaton.tasks import Registry, TaskType
from tracebaton.tasks.sqlite import SqliteTaskStore

class Note(BaseModel):
    text: str = "hello"

class Dies(Sqs):
    async def send(self, *args, **kwargs):
        os.kill(os.getpid(), signal.SIGKILL)

async def run(endpoint, queue_url, database, propagate, key):
    sqs = Dies(SqsAccess(endpoint=endpoint, region="us-east-1", anonymous=True))
    registry = Registry()
    registry.add(TaskType(name="note", model=Note, handler=print))
    tracer = TracerProvider().get_tracer("tracebaton")
    producer = Producer(
        sqs, Queue(sqs, url=queue_url), registry=registry,
        store=SqliteTaskStore(Path(database)), tracer=tracer, propagator=Propagator(),
        source="/api", keys=MessageKeys((key,)) if key else None,
    )
    store = RequestStore(correlation_id="c-1", user_id="ann")
    with entered(store), tracer.start_as_current_span("POST /notes") as span:
        ids = span.get_span_context()
        print(format_trace_id(ids.trace_id), format_span_id(ids.span_id), flush=True)
        await producer.enqueue(
            "note", Note(), delay_seconds=900, propagate=propagate, attributes={"shop": "7"}
        )

asyncio.run(run(*sys.argv[1:]))
"""


async def died(bench: Bench, database: Path, propagate: str = "parent", key: str = "") -> list[str]:
    """Let a process save a task and die in its send; return trace and span of its request."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _DYING, bench.local.url, bench.local.queue_url("tasks")),
        *(str(database), propagate, key),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == -9
    return output.decode().split()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """The file of the bench's store."""
    return tmp_path / "tasks.db"


async def test_a_task_of_a_killed_process_is_sent(
    bench: Bench, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, in the trace of its request, for its user, with what is left of its delay."""
    trace_id, request_span = await died(bench, database)
    fresh = await resender(bench).sweep()
    later = SqliteTaskStore(database, now=lambda: time.time() + 31)
    sweeps = await asyncio.gather(*(resender(bench, store=later).sweep() for _ in range(3)))
    rest = await resender(bench).sweep(older_than=0)
    await later.close()
    stats = bench.local.stats()["tasks"]

    (span,) = [span for span in bench.exporter.get_finished_spans() if span.kind.name == "PRODUCER"]
    assert (fresh, sorted(sweeps), rest) == (0, [0, 0, 1], 0)
    assert stats["delayed"] == 1
    assert f"{span.context.trace_id:032x}" == trace_id
    assert f"{span.parent.span_id:016x}" == request_span
    assert [f"{link.context.trace_id:032x}" for link in span.links] == [trace_id]
    assert f"{span.links[0].context.span_id:016x}" != request_span
    assert span.name == "send tasks"
    assert span.attributes["tracebaton.correlation_id"] == "c-1"
    assert span.attributes["tracebaton.user_id"] == "ann"
    assert "task.resent" in [record.message for record in caplog.records]


@pytest.mark.parametrize("key", ["", "secret-key-of-sixteen"])
async def test_the_worker_joins_the_sweeps_span(bench: Bench, database: Path, key: str) -> None:
    """The envelope is the first one's, the attributes name the new span; a signature still fits."""
    trace_id, _ = await died(bench, database, key=key)
    seen: list[RequestStore] = []
    bench.handle(lambda note: seen.append(current()))
    keys = MessageKeys((key,)) if key else None
    # By now the delay is over.
    assert await resender(bench, keys=keys, now=lambda: 2e10).sweep(older_than=0) == 1
    [message] = await bench.take("tasks")
    await bench.sqs.change_visibility(await bench.queue.url(), [(message.receipt_handle, 0)])
    async with working(bench.worker(keys=keys)):
        task = await bench.ended(decode(message.body).id)
        process = await bench.spanned("process tasks")
    send = bench.spans()["send tasks"]

    event = decode(message.body)
    assert event.carrier["traceparent"].split("-")[1] == trace_id
    assert event.carrier["traceparent"].split("-")[2] != f"{send.context.span_id:016x}"
    assert message.attributes["traceparent"].split("-")[2] == f"{send.context.span_id:016x}"
    assert message.attributes["baggage"] == event.carrier["baggage"]
    assert message.attributes["shop"] == "7"
    assert (task.status, task.user_id) == ("succeeded", "ann")
    assert process.parent is not None
    assert process.parent.span_id == send.context.span_id
    assert f"{process.context.trace_id:032x}" == trace_id
    assert [(store.correlation_id, store.user_id) for store in seen] == [("c-1", "ann")]


@pytest.mark.parametrize(("propagate", "links"), [("link", 1), ("none", 0)])
async def test_a_sweep_keeps_what_was_asked_for(
    bench: Bench, database: Path, propagate: str, links: int
) -> None:
    """The handler's span is a new trace that links the send, or knows nothing of it."""
    await died(bench, database, propagate)
    bench.handle(nothing)
    await resender(bench, now=lambda: 2e10).sweep(older_than=0)
    async with working(bench.worker()):
        process = await bench.spanned("process tasks")
    send = bench.spans()["send tasks"]

    assert process.context.trace_id != send.context.trace_id
    assert [link.context.span_id for link in process.links] == [send.context.span_id] * links


async def test_a_sweep_waits_for_the_queue(
    bench: Bench, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """While SQS is away the message stays, and the span of the try is a failure."""
    await died(bench, database)
    bench.local.faults.add(Fault(effect="error", action="SendMessage", first=2, status=503))
    first = await resender(bench).sweep(older_than=0)
    second = await resender(bench).sweep(older_than=0)
    spans = [span for span in bench.exporter.get_finished_spans() if span.kind is SpanKind.PRODUCER]

    assert (first, second) == (0, 1)
    assert [span.status.is_ok or span.status.is_unset for span in spans] == [False, True]
    assert "task.not_resent" in [record.message for record in caplog.records]


async def test_what_was_sent_is_not_swept(bench: Bench) -> None:
    """The store hears of a send in a moment, at the latest when the producer is flushed."""
    bench.handle(nothing)
    producer = bench.producer()
    await producer.enqueue("note", Note())
    await producer.enqueue_many([("note", Note()), ("note", Note())])
    await producer.outbox.flush()

    assert list(await bench.store.unsent(older_than=0)) == []
    assert bench.count() == 3


def test_a_loop_that_closes_leaves_no_confirmation_half_done() -> None:
    """The moment in which sent messages are collected ends with the loop; the sweep has them."""
    said: list[dict[str, Any]] = []
    others: list[asyncio.Task[None]] = []

    class Slow:
        async def sent(self, task_ids: Any) -> None:
            await asyncio.sleep(60)

    async def stay() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            time.sleep(0.1)  # noqa: ASYNC251 - that moment is over when the loop has cancelled all

    async def confirm() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
        task = Task(id="1", type="note", created_at=0.0, updated_at=0.0)
        Outbox(cast("TaskStore", Slow())).confirm(task)
        others.append(asyncio.create_task(stay()))
        await asyncio.sleep(0)

    asyncio.run(confirm())
    gc.collect()

    assert said == []


async def test_a_store_that_fails_behind_the_send_costs_a_copy(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller has his task; the message is sent again and runs nothing."""
    runs: list[str] = []
    bench.handle(lambda note: runs.append(note.text))

    class Deaf(SqliteTaskStore):
        async def sent(self, task_ids: Any) -> None:
            raise StoreUnavailable

    deaf = Deaf(tmp_path / "tasks.db")
    producer = bench.producer(store=deaf)
    task = await producer.enqueue("note", Note())
    await producer.outbox.flush()
    swept = await resender(bench).sweep(older_than=0)
    copies = bench.count()
    async with working(bench.worker(concurrency=1)):
        await bench.holds(0)
    await deaf.close()

    ended = await bench.store.get(task.id)
    assert (swept, copies, runs) == (1, 2, ["hello"])
    assert ended is not None
    assert ended.status == "succeeded"
    assert "task_store.failed" in [record.message for record in caplog.records]


async def test_a_send_whose_answer_is_lost_leaves_nothing(bench: Bench) -> None:
    """The caller is told to try again, so what arrived all the same is not run."""
    runs: list[str] = []
    bench.handle(lambda note: runs.append(note.text))
    bench.local.faults.add(Fault(effect="reset", action="SendMessage", first=2, after=True))
    with pytest.raises(QueueUnavailable):
        await bench.producer().enqueue("note", Note(text="lost"))
    arrived = bench.count()
    worker = bench.worker()
    async with working(worker):
        task = await bench.producer().enqueue("note", Note(text="again"))
        await bench.ended(task.id)
        await bench.holds(0)
        health = worker.health()

    assert arrived > 0
    assert runs == ["again"]
    assert health["task_store"] is True


async def test_a_send_that_only_seemed_to_fail_is_none(bench: Bench, tmp_path: Path) -> None:
    """A worker had the task before it could be taken back: the caller gets it."""
    bench.handle(nothing)

    class Slow(SqliteTaskStore):
        async def forget(self, task_id: str) -> bool:
            await bench.ended(task_id)
            return await super().forget(task_id)

    slow = Slow(tmp_path / "tasks.db")
    bench.local.faults.add(Fault(effect="reset", action="SendMessage", first=2, after=True))
    bench.local.faults.add(Fault(effect="reset", action="SendMessageBatch", first=8, after=True))
    async with working(bench.worker()):
        one = await bench.producer(store=slow).enqueue("note", Note())
        [many] = await bench.producer(store=slow).enqueue_many([("note", Note())])
        await bench.holds(0)
    await slow.close()

    assert one.status == "succeeded"
    assert isinstance(many, Task)
    assert many.status == "succeeded"


async def test_a_queue_that_is_away_leaves_no_half_state(bench: Bench) -> None:
    """Neither a task nor a message that would come later."""
    bench.handle(nothing)
    bench.local.faults.add(Fault(effect="error", action="SendMessage", status=503))
    with pytest.raises(QueueUnavailable):
        await bench.producer().enqueue("note", Note())

    assert list(await bench.store.unsent(older_than=0)) == []
    assert bench.count() == 0


async def test_a_store_that_fails_behind_a_failed_send_sends_later(
    bench: Bench, tmp_path: Path
) -> None:
    """Nobody could take the task back, so it must not wait for ever."""
    bench.handle(nothing)

    class Deaf(SqliteTaskStore):
        async def forget(self, task_id: str) -> bool:
            raise StoreUnavailable

    deaf = Deaf(tmp_path / "tasks.db")
    bench.local.faults.add(Fault(effect="error", action="SendMessage", first=2, status=503))
    with pytest.raises(QueueUnavailable):
        await bench.producer(store=deaf).enqueue("note", Note())
    await deaf.close()

    assert await resender(bench).sweep(older_than=0) == 1


def upkeep(bench: Bench, *, now: float = 0.0, retention: float = 7 * DAY) -> Upkeep:
    """Return the chores of a process, at a time of its own."""
    clock = {"now": lambda: now} if now else {}
    return Upkeep(
        bench.store,
        resender(bench),
        retention_seconds=retention,
        reporter=bench.reports,
        **clock,
    )


async def test_a_task_whose_worker_died_waits_again(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """Half a minute after its lease; the line is the task's own."""
    bench.handle(nothing)
    with entered(RequestStore(correlation_id="c-1")):
        task = await bench.producer().enqueue("note", Note())
    await bench.store.start(task.id, attempt=1, owner="m", lease_until=1_000.0)
    await upkeep(bench, now=1_029.0).reap()
    before = await bench.store.get(task.id)
    await upkeep(bench, now=1_031.0).reap()
    after = await bench.store.get(task.id)

    assert before is not None
    assert after is not None
    assert (before.status, after.status) == ("running", "queued")
    assert [record.message for record in caplog.records].count("task.reaped") == 1


async def test_a_task_without_a_message_ends(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """When SQS cannot have it any more: ``dead``, one event, with a problem that says so."""
    bench.handle(nothing)
    task = await bench.producer().enqueue("note", Note())
    await upkeep(bench, now=task.created_at + 14 * DAY).abandon()
    before = await bench.store.get(task.id)
    await upkeep(bench, now=task.created_at + 16 * DAY).abandon()
    await upkeep(bench, now=task.created_at + 16 * DAY).abandon()
    after = await bench.store.get(task.id)

    assert before is not None
    assert after is not None
    assert (before.status, after.status) == ("queued", "dead")
    assert after.error is not None
    assert after.error["code"] == "message_lost"
    [(_, outcome, details)] = bench.reports
    assert (outcome.code, details["tags"]["task_id"]) == ("message_lost", task.id)


async def test_what_ended_is_kept_as_long_as_it_should(bench: Bench) -> None:
    """However many there are."""
    bench.handle(nothing)
    ids = [(await bench.producer().enqueue("note", Note())).id for _ in range(3)]
    for task_id in ids[:2]:
        await bench.store.start(task_id, attempt=1)
        await bench.store.finish(task_id, TaskStatus.SUCCEEDED, attempt=1)
    first = await bench.store.get(ids[0])
    assert first is not None
    assert first.ended_at is not None
    await upkeep(bench, now=first.ended_at + DAY - 60, retention=DAY).purge()
    kept = await bench.store.get(ids[0])
    await upkeep(bench, now=first.ended_at + DAY + 60, retention=DAY).purge()

    assert kept is not None
    assert [await bench.store.get(task_id) is None for task_id in ids] == [True, True, False]


async def test_chores_survive_what_fails(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """A store that is away, and a mistake of our own, cost a round and a line each."""
    done = asyncio.Event()

    class Broken(Upkeep):
        async def reap(self) -> None:
            raise StoreUnavailable

        async def purge(self) -> None:
            raise ZeroDivisionError

        async def abandon(self) -> None:
            done.set()

    chores = Broken(bench.store, resender(bench), retention_seconds=1.0)
    async with chores.running():
        await asyncio.wait_for(done.wait(), 5)

        async def failed() -> list[str]:
            return [record.levelname for record in caplog.records if record.name.endswith("upkeep")]

        async with asyncio.timeout(5):
            while len(await failed()) < 2:
                await asyncio.sleep(0.01)

    assert sorted(await failed()) == ["ERROR", "WARNING"]


def test_a_packed_message_is_one_text() -> None:
    """Whatever stands in the body, the head is its first line."""
    from opentelemetry.trace import INVALID_SPAN_CONTEXT

    from tracebaton.queue.outbox import packed, unpacked
    from tracebaton.queue.outgoing import Item

    body = json.dumps(
        {"specversion": "1.0", "id": "i", "source": "/s", "type": "t", "data": {"a": "x\ny"}}
    )
    item = Item("t", {}, 5, "g", "d", "link", {"a": "b\nc"})
    parcel = unpacked(packed(body, item, INVALID_SPAN_CONTEXT))

    assert (parcel.body, parcel.item, parcel.parent) == (body, item, None)
    assert parcel.event.data == {"a": "x\ny"}

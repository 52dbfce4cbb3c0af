"""Copies of a message that arrive while the first one runs, or after it."""

import asyncio
import logging
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tracebaton.context import current
from tracebaton.queue.lease import Lease
from tracebaton.queue.message import Received
from tracebaton.queue.records import LeaseRecords
from tracebaton.tasks import TaskStatus
from tracebaton.tasks.sqlite import SqliteTaskStore

from .conftest import Bench, Note, said, spoken, until, working


class Gate:
    """A handler that says when it started and waits to be let go."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.go = asyncio.Event()
        self.runs: list[int | None] = []

    async def __call__(self, note: Note) -> str:
        """Wait."""
        self.runs.append(current().attempt)
        self.started.set()
        await self.go.wait()
        return "done"


@pytest.fixture
def gate(bench: Bench) -> Gate:
    """The handler of the type ``note``."""
    gate = Gate()

    async def handler(note: Note) -> str:
        return await gate(note)

    bench.handle(handler)
    return gate


async def twice(bench: Bench) -> str:
    """Put two messages of one task into the queue and return its id."""
    task = await bench.producer().enqueue("note", Note())
    (message,) = await bench.take("tasks")
    url = bench.local.queue_url("tasks")
    await bench.sqs.send(url, message.body, attributes=message.every)
    await bench.sqs.change_visibility(url, [(message.receipt_handle, 0)])
    return task.id


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_copy_of_what_runs_is_released_quietly(
    bench: Bench, gate: Gate, caplog: pytest.LogCaptureFixture, workers: int
) -> None:
    """In this worker or in another: it is not run, and it is no error."""
    task_id = await twice(bench)
    with caplog.at_level(logging.INFO):
        async with AsyncExitStack() as stack:
            for _ in range(workers):
                await stack.enter_async_context(working(bench.worker(wait_seconds=0)))
            await asyncio.wait_for(gate.started.wait(), 10)
            await spoken(caplog, "task.duplicate")
            gate.go.set()
            ended = await bench.ended(task_id)
            await bench.holds(1)

    (line,) = said(caplog, "task.duplicate")
    counts = bench.local.stats()["tasks"]
    assert len(gate.runs) == 1
    assert (ended.status, ended.result, ended.failures) == (TaskStatus.SUCCEEDED, "done", ())
    assert (counts["deleted"], counts["in_flight"]) == (1, 1)
    assert vars(line)["fields"] == {"status": "running"}
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []
    assert bench.reports == []


async def test_a_copy_goes_after_its_last_look(bench: Bench, gate: Gate) -> None:
    """The first one is in the queue and comes again if it fails, so a copy never dies for it."""
    bench.attempts = 1
    task_id = await twice(bench)
    async with working(bench.worker(wait_seconds=0)):
        await asyncio.wait_for(gate.started.wait(), 10)
        await bench.holds(1)
        running = await bench.store.get(task_id)
        gate.go.set()
        ended = await bench.ended(task_id)

    assert running is not None
    assert running.status is TaskStatus.RUNNING
    assert (ended.status, len(gate.runs), bench.count("tasks-dlq")) == ("succeeded", 1, 0)


async def test_a_copy_runs_once_the_lease_of_the_first_is_over(bench: Bench, gate: Gate) -> None:
    """An interrupted task is run again, by whichever message comes."""
    task = await bench.producer().enqueue("note", Note())
    await bench.store.start(
        task.id, attempt=1, owner="a message whose worker died", lease_until=time.time() - 1
    )
    gate.go.set()
    async with working(bench.worker(wait_seconds=0)):
        ended = await bench.ended(task.id)

    assert (ended.status, gate.runs) == ("succeeded", [1])


async def test_a_redelivery_takes_over_from_a_worker_that_is_gone(bench: Bench, gate: Gate) -> None:
    """SQS hands the message out again: its lease is over, whatever the record says."""
    task = await bench.producer().enqueue("note", Note())
    (message,) = await bench.take("tasks")
    await bench.store.start(
        task.id, attempt=1, owner=message.message_id, lease_until=time.time() + 600
    )
    url = bench.local.queue_url("tasks")
    await bench.sqs.change_visibility(url, [(message.receipt_handle, 0)])
    gate.go.set()
    async with working(bench.worker(wait_seconds=0)):
        ended = await bench.ended(task.id)

    assert (ended.status, gate.runs, ended.attempt) == ("succeeded", [2], 2)


async def test_a_redelivery_to_the_worker_that_runs_it_is_adopted(
    bench: Bench, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """Made visible by hand, it is handled on under its new handle: one run, one delete."""
    task = await bench.producer().enqueue("note", Note())
    worker = bench.worker(wait_seconds=0)
    with caplog.at_level(logging.INFO):
        async with working(worker):
            await asyncio.wait_for(gate.started.wait(), 10)
            (lease,) = worker._consumers[0].running.values()
            url = bench.local.queue_url("tasks")
            await bench.sqs.change_visibility(url, [(lease.message.receipt_handle, 0)])
            await spoken(caplog, "message.redelivered")
            gate.go.set()
            ended = await bench.ended(task.id)
            await bench.holds(0)

    counts = bench.local.stats()["tasks"]
    assert (ended.status, gate.runs, counts["deleted"]) == ("succeeded", [1], 1)
    assert (worker.in_hand, worker._room.in_use) == (0, 0)


async def test_the_record_lives_as_long_as_the_lease(bench: Bench, gate: Gate) -> None:
    """Each extension of the lease is written to the task."""
    task = await bench.producer().enqueue("note", Note())

    async def lease_until() -> float:
        stored = await bench.store.get(task.id)
        return stored.lease_until or 0.0 if stored else 0.0

    async with working(bench.worker(wait_seconds=0, visibility_seconds=5)):
        await asyncio.wait_for(gate.started.wait(), 10)
        first = await lease_until()
        await until(lease_until, lambda now: now > first)
        gate.go.set()
        await bench.ended(task.id)

    assert first - task.created_at == pytest.approx(5, abs=2)


async def test_a_store_that_is_away_does_not_cost_the_lease(
    bench: Bench, gate: Gate, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """The heartbeat goes on; that the record was not renewed is said."""
    store = SqliteTaskStore(tmp_path)  # a folder cannot be opened as a database
    records = LeaseRecords(store)
    lease = Lease(
        Received(message_id="m", receipt_handle="h", body=""), received_at=0, visibility=5
    )
    lease.task_id = "t"
    records.renew([lease])
    await spoken(caplog, "task_store.failed")
    idle = Lease(lease.message, received_at=0, visibility=5)
    await records.give_back([lease, idle])
    records.renew([lease])
    records.close()
    LeaseRecords(None).renew([lease])
    await LeaseRecords(None).give_back([lease])
    await store.close()

    assert [line.levelname for line in said(caplog, "task_store.failed")] == ["WARNING"] * 2


async def test_a_redriven_message_runs_its_dead_task_again(bench: Bench) -> None:
    """AWS gives it a new id: same task, same trace, and the span links the attempt that died."""
    fails = [True]

    async def handler(note: Note) -> str:
        if fails:
            raise ValueError("until it is repaired")
        return "done"

    bench.handle(handler)
    task = await bench.producer().enqueue("note", Note())
    async with working(bench.worker()):
        await bench.holds(1, "tasks-dlq")
        dead = bench.spans()["process tasks"]
        fails.clear()
        (message,) = await bench.take("tasks-dlq")
        await bench.send(message.body, message.every)

        async def succeeded() -> bool:
            stored = await bench.store.get(task.id)
            return stored is not None and stored.status is TaskStatus.SUCCEEDED

        await until(succeeded, bool)

    again = bench.spans()["process tasks"]
    ended = await bench.store.get(task.id)
    assert ended is not None
    assert (ended.error, ended.result) == (None, "done")
    assert again.context.trace_id == dead.context.trace_id
    assert [link.context.span_id for link in again.links] == [dead.context.span_id]


async def test_a_copy_of_a_dead_tasks_message_is_not_run(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """Sent twice, because an answer was lost: one death and one report, however late it comes."""
    runs: list[int] = []

    async def handler(note: Note) -> None:
        runs.append(note.number)
        raise ValueError(note.text)

    bench.handle(handler)
    await bench.producer().enqueue("note", Note())
    (message,) = await bench.take("tasks")
    await bench.send(message.body, message.every)
    (copy,) = await bench.take("tasks")
    url = await bench.queue.url()
    await bench.sqs.change_visibility(url, [(message.receipt_handle, 0)])
    with caplog.at_level(logging.INFO):
        async with working(bench.worker(wait_seconds=0)):
            await bench.holds(1, "tasks-dlq")
            await bench.sqs.change_visibility(url, [(copy.receipt_handle, 0)])
            await spoken(caplog, "task.duplicate")

    assert len(bench.reports) == 1
    assert len(runs) == bench.attempts - 1  # one receive was ours


async def test_a_redriven_message_that_cannot_be_handled_is_moved(bench: Bench) -> None:
    """It is no copy of something that ended, and must not be lost."""
    bench.handle(print)
    task = await bench.producer().enqueue("note", Note())
    await bench.store.start(task.id, attempt=1)
    await bench.store.finish(task.id, TaskStatus.DEAD, attempt=1)
    bench.registry = type(bench.registry)()
    async with working(bench.worker(quarantine=bench.quarantine, wait_seconds=0)):
        await bench.holds(1, "tasks-quarantine")
        await bench.holds(0)

    ended = await bench.store.get(task.id)
    assert ended is not None
    assert ended.status is TaskStatus.FAILED


async def test_a_dead_message_that_comes_once_more_waits_for_the_dlq(bench: Bench) -> None:
    """Its queue allows more attempts than the worker: it is kept, and neither run nor reported."""
    bench.attempts = 1
    bench.handle(lambda note: 1 // 0)
    task = await bench.producer().enqueue("note", Note())
    async with working(bench.worker(wait_seconds=0)):
        await bench.holds(1, "tasks-dlq")

    ended = await bench.store.get(task.id)
    assert ended is not None
    assert (ended.status, ended.attempt, len(bench.reports)) == (TaskStatus.DEAD, 1, 1)
    assert bench.local.stats()["tasks"]["deleted"] == 0

"""What a worker does with its places and connections: full, parked, crowded, or misused."""

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from opentelemetry.trace import NoOpTracer
from sqs_client import sqs_client

from tracebaton.errors import Reject
from tracebaton.propagation import Propagator
from tracebaton.queue.sqs import Queue
from tracebaton.queue.worker import Worker
from tracebaton.tasks import TaskStatus
from tracebaton.testing import FaultProxy

from .conftest import Bench, Note, until, working
from .moved_clock import Skip, moved_on, skip
from .scripted_sqs import ScriptedSqs
from .test_receiver import MESSAGE, worker_of
from .test_worker_queues import empty, fill, in_hand

__all__ = ["skip"]


class Fatal(BaseException):
    """No ``Exception``, so that nothing that catches those catches it."""


@pytest.mark.parametrize("exc", [Fatal("all over"), SystemExit(3)], ids=["own", "sys.exit"])
@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
@pytest.mark.parametrize("batch", [None, 1], ids=["single", "batch"])
async def test_no_exception_of_a_handler_ends_the_worker(
    bench: Bench, exc: BaseException, sync: bool, batch: int | None
) -> None:
    """It fails its own task like any other; the next one is handled."""

    def handler(data: Any) -> None:
        if "bad" in str(data):
            raise exc

    async def async_handler(data: Any) -> None:
        handler(data)

    bench.attempts = 1
    bench.handle(handler if sync else async_handler, batch=batch)
    producer = bench.producer()
    bad = await producer.enqueue("note", Note(text="bad"))
    async with working(bench.worker(wait_seconds=0)) as running:
        ended = await bench.ended(bad.id)
        good = await producer.enqueue("note", Note())
        after = await bench.ended(good.id)
        assert not running.done()

    (reported, _, _), *others = bench.reports
    assert (ended.status, after.status) == (TaskStatus.DEAD, TaskStatus.SUCCEEDED)
    assert (repr(reported.__cause__), others) == (repr(exc), [])


@dataclass
class Road:
    """The bench's queue behind a proxy that counts the calls."""

    bench: Bench
    proxy: FaultProxy

    def worker(self, **options: Any) -> Worker:
        """A worker whose calls go by the proxy."""
        sqs = sqs_client(self.proxy.url)
        self.bench.clients.append(sqs)
        queue = Queue(sqs, url=self.proxy.queue_url("tasks"))
        return Worker(
            sqs,
            queue,
            registry=self.bench.registry,
            store=self.bench.store,
            tracer=NoOpTracer(),
            propagator=Propagator(),
            **options,
        )


@pytest.fixture
async def road(bench: Bench) -> AsyncIterator[Road]:
    """A proxy in front of the bench's SQS."""
    async with FaultProxy(bench.local.url) as proxy:
        yield Road(bench, proxy)


async def test_a_full_worker_asks_for_nothing(road: Road, skip: Skip) -> None:
    """Half a minute with messages waiting: only the heartbeat calls."""
    go = asyncio.Event()

    async def handler(note: Note) -> None:
        await go.wait()

    road.bench.handle(handler)
    await fill(road.bench, road.bench.queue, 8)
    worker = road.worker(concurrency=2, prefetch=3, wait_seconds=1)
    async with working(worker):
        await until(in_hand(worker), lambda held: held == 5)
        road.proxy.calls.clear()
        await moved_on([worker], skip, 60)
        calls = dict(road.proxy.calls)
        go.set()
        await empty(road.bench, "tasks")

    assert set(calls) == {"ChangeMessageVisibilityBatch"}
    assert calls["ChangeMessageVisibilityBatch"] <= 3


async def test_no_extension_outlives_its_handler(road: Road, skip: Skip) -> None:
    """Ten handlers end, however they do: no lease is left, and nothing is extended any more."""
    go = asyncio.Event()

    async def handler(note: Note) -> None:
        await go.wait()
        if note.number % 2:
            raise Reject("every second one")

    road.bench.handle(handler)
    notes = [("note", Note(number=number)) for number in range(10)]
    await road.bench.producer().enqueue_many(notes)
    worker = road.worker(concurrency=10, wait_seconds=1)
    async with working(worker):
        await until(in_hand(worker), lambda held: held == 10)
        await moved_on([worker], skip, 30)
        extended = road.proxy.calls["ChangeMessageVisibilityBatch"]
        go.set()
        await until(in_hand(worker), lambda held: held == 0, seconds=1_000)
        road.proxy.calls.clear()
        await moved_on([worker], skip, 60)
        after = road.proxy.calls["ChangeMessageVisibilityBatch"]
        left = len(worker._consumers[0]._leases)

    assert (extended > 0, after, left) == (True, 0, 0)


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "boto3"])
async def test_a_delete_waits_for_no_poll(fast: bool) -> None:
    """Every poll loop is parked at SQS; a finished message is deleted all the same."""
    parked, deleted, over = (threading.Event() for _ in range(3))
    polls: list[int] = []

    def answer(action: str, request: dict[str, Any]) -> Any:
        if action == "DeleteMessageBatch":
            deleted.set()
        if action != "ReceiveMessage":
            return {"Successful": [], "Failed": []}
        polls.append(len(polls))
        if len(polls) == 1:
            return {"Messages": [MESSAGE | {"MessageId": f"m{n}"} for n in range(10)]}
        if len(polls) == 5:  # all four loops, after the first answer
            parked.set()
        over.wait(60)
        return {}

    async def handler(note: Note) -> None:
        await asyncio.to_thread(parked.wait, 30)

    with ScriptedSqs(answer) as sqs:
        client, worker = worker_of(sqs, handler, concurrency=60, fast=fast)
        running = asyncio.create_task(worker.run())
        gone = await asyncio.to_thread(deleted.wait, 30)
        waiting = (len(polls), over.is_set())
        worker.stop()
        over.set()
        await asyncio.wait_for(running, 30)
        await client.close()

    assert (gone, waiting) == (True, (5, False))


async def test_a_receive_without_an_answer_is_given_up(skip: Skip) -> None:
    """Ten seconds after its long poll is over, and the next one brings the message."""
    parked, over, runs = threading.Event(), threading.Event(), asyncio.Event()
    polls: list[int] = []

    def answer(action: str, request: dict[str, Any]) -> Any:
        if action != "ReceiveMessage":
            return {"Successful": [], "Failed": []}
        polls.append(len(polls))
        if len(polls) == 1:
            parked.set()
            over.wait(60)
        return {"Messages": [MESSAGE]} if len(polls) == 2 else {}

    async def handler(note: Note) -> None:
        runs.set()

    with ScriptedSqs(answer) as sqs:
        client, worker = worker_of(sqs, handler)
        running = asyncio.create_task(worker.run())
        assert await asyncio.to_thread(parked.wait, 30)
        skip(25)
        for _ in range(10):
            await asyncio.sleep(0)
        early = len(polls)
        skip(10)
        await asyncio.wait_for(runs.wait(), 30)
        alive = dict(worker.alive())
        over.set()
        worker.stop()
        await asyncio.wait_for(running, 60)
        await client.close()

    assert (early, alive) == (1, {"pollers": True})

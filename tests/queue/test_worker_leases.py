"""A lost lease, a back-off and a handler that looks: what the worker makes of its leases."""

import asyncio
import logging
import threading
import time
from typing import Any

import pytest

from tracebaton.queue.lease import current_lease
from tracebaton.queue.retry import RetryPolicy
from tracebaton.tasks import TaskStatus

from .conftest import Bench, Note, until, working
from .scripted_sqs import ScriptedSqs, failed
from .test_receiver import MESSAGE, worker_of


def said(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    """Return what the lines of *event* tell."""
    return [vars(record) for record in caplog.records if record.message == event]


async def stolen(bench: Bench) -> None:
    """Delete every message behind the worker's back, as an operator may."""
    url = bench.local.queue_url("tasks")
    await asyncio.to_thread(bench.sqs._actions.purge_queue, QueueUrl=url)


async def test_what_a_handler_does_without_its_lease_is_discarded(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """It will not be cancelled and returns a result: nobody keeps it, nothing is deleted."""
    started, tried, go = asyncio.Event(), asyncio.Event(), asyncio.Event()
    lost: list[bool] = []

    async def handler(note: Note) -> str:
        lease = current_lease()
        assert lease is not None
        lost.append(lease.lost)
        started.set()
        try:
            await go.wait()
        except asyncio.CancelledError:
            tried.set()
            await go.wait()
        lost.append(lease.lost)
        return "a result"

    bench.handle(handler)
    task = await bench.producer().enqueue("note", Note())
    async with working(bench.worker(visibility_seconds=5)) as running:
        await asyncio.wait_for(started.wait(), 10)
        await stolen(bench)
        await asyncio.wait_for(tried.wait(), 10)
        go.set()
        span = await bench.spanned("process tasks")
        assert not running.done()

    stored = await bench.store.get(task.id)
    assert stored is not None
    assert (stored.status, stored.result) == (TaskStatus.RUNNING, None)
    assert lost == [False, True]
    assert bench.local.stats()["tasks"]["deleted"] == 0
    assert span.attributes is not None
    assert (span.attributes["tracebaton.lease.lost"], span.attributes["error.type"]) == (
        True,
        "LeaseLost",
    )
    assert [event.name for event in span.events] == ["lease.lost"]
    assert len(said(caplog, "lease.lost")) == 1


async def test_a_sync_handler_sees_that_its_lease_is_lost(bench: Bench) -> None:
    """It cannot be cancelled, so it looks; the worker goes on meanwhile."""
    started, seen = threading.Event(), threading.Event()

    def handler(note: Note) -> str:
        lease = current_lease()
        assert lease is not None
        started.set()
        while not lease.lost:
            time.sleep(0.01)
        seen.set()
        return "a result"

    bench.handle(handler)
    task = await bench.producer().enqueue("note", Note())
    async with working(bench.worker(visibility_seconds=5)) as running:
        assert await asyncio.to_thread(started.wait, 10)
        await stolen(bench)
        assert await asyncio.to_thread(seen.wait, 10)
        assert not running.done()

    stored = await bench.store.get(task.id)
    assert stored is not None
    assert stored.result is None


async def test_the_deadline_of_a_lease_moves_on(bench: Bench) -> None:
    """Later than the visibility timeout alone would let it be."""
    deadlines: list[float] = []

    async def handler(note: Note) -> None:
        lease = current_lease()
        assert lease is not None
        first = lease.deadline
        deadlines.append(first - time.monotonic())

        async def deadline() -> float:
            return lease.deadline

        await until(deadline, lambda now: now > first)

    bench.handle(handler)
    task = await bench.producer().enqueue("note", Note())
    async with working(bench.worker(visibility_seconds=5)):
        ended = await bench.ended(task.id)

    assert ended.status is TaskStatus.SUCCEEDED
    assert 3 < deadlines[0] <= 5


async def test_a_type_has_its_own_back_off(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """The worker's is for the others; how often is the queue's to say for all."""

    async def handler(note: Note) -> None:
        raise ConnectionError("always")

    own = RetryPolicy(base_seconds=2, cap_seconds=2, uniform=lambda low, high: high)
    bench.handle(handler, name="slow", retry=own)
    bench.handle(handler, name="quick")
    slow = await bench.producer().enqueue("slow", Note())
    quick = await bench.producer().enqueue("quick", Note())
    bench.attempts = 2
    with caplog.at_level(logging.INFO):
        async with working(bench.worker(wait_seconds=0)):
            ended = [await bench.ended(task.id) for task in (slow, quick)]

    delays = {
        one["fields"]["task_type"]: one["fields"]["retry_in_seconds"]
        for one in said(caplog, "task.retried")
    }
    assert delays == {"slow": 2, "quick": 1}
    assert [(task.status, task.attempt) for task in ended] == [(TaskStatus.DEAD, 2)] * 2


async def test_a_back_off_is_not_overwritten_by_a_beat(bench: Bench) -> None:
    """The heartbeat was on its way when the handler failed: the message is away for the delay."""
    beating, go = asyncio.Event(), asyncio.Event()
    change = bench.sqs.change_visibility
    seconds: list[list[int]] = []

    async def slow(queue_url: str, changes: Any) -> Any:
        asked = [delay for _, delay in changes]
        if asked == [5]:
            beating.set()
            await go.wait()
        seconds.append(asked)
        return await change(queue_url, changes)

    bench.sqs.change_visibility = slow  # type: ignore[method-assign]

    async def handler(note: Note) -> None:
        await beating.wait()
        asyncio.get_running_loop().call_later(0.2, go.set)
        raise ConnectionError("now")

    own = RetryPolicy(base_seconds=300, cap_seconds=300, uniform=lambda low, high: high)
    bench.handle(handler, retry=own)
    await bench.producer().enqueue("note", Note())

    async def settled() -> bool:
        return [300] in seconds

    async with working(bench.worker(visibility_seconds=5)):
        await until(settled, bool)

    assert seconds == [[5], [300]]


async def test_later_is_never_later_than_sqs_allows(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """A delay of a day is what is left of the 12 hours, and said so."""
    from tracebaton.errors import RetryLater

    async def handler(note: Note) -> None:
        raise RetryLater(delay=86_400)

    bench.handle(handler)
    await bench.producer().enqueue("note", Note())

    async def later() -> list[dict[str, Any]]:
        return said(caplog, "task.retried")

    async with working(bench.worker(wait_seconds=0)):
        (line,) = await until(later, bool)
        await until(in_flight(bench, 1), bool)

    assert 43_190 < line["fields"]["retry_in_seconds"] < 43_200
    assert said(caplog, "visibility.failed") == []


def in_flight(bench: Bench, count: int) -> Any:
    """Ask whether *count* messages are in flight and none is in hand any more."""

    async def ask() -> bool:
        counts: dict[str, int] = bench.local.stats()["tasks"]
        return counts["in_flight"] == count

    return ask


async def test_a_beat_that_lands_after_the_delete_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The message was done and gone; SQS says that the handle is none, and nobody minds."""
    beating, deleted, go, answered = (threading.Event() for _ in range(4))

    def answer(action: str, request: dict[str, Any]) -> Any:
        if action == "ReceiveMessage":
            first = sum(one == action for one, _ in sqs.requests) == 1
            return {"Messages": [MESSAGE]} if first else {}
        if action == "DeleteMessageBatch":
            deleted.set()
            return {"Successful": [], "Failed": []}
        beating.set()
        go.wait(10)
        answered.set()
        return failed("0", code="ReceiptHandleIsInvalid", sender=True)

    async def handler(note: Note) -> None:
        await asyncio.to_thread(beating.wait, 10)

    with ScriptedSqs(answer) as sqs:
        client, worker = worker_of(sqs, handler, visibility_seconds=5)

        async def in_hand() -> int:
            return worker.in_hand

        async with working(worker):
            assert await asyncio.to_thread(deleted.wait, 10)
            go.set()
            assert await asyncio.to_thread(answered.wait, 10)
            await until(in_hand, lambda held: held == 0)
        await client.close()

    # An earlier test may have made the root logger talk of tasks, too.
    warned = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert warned == []

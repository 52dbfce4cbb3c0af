"""A worker's places, threads and sockets over many messages and many starts."""

import asyncio
import gc
import os
import random
import signal
import threading
import time
from typing import Any

import pytest

from tracebaton.context import current
from tracebaton.errors import Reject, RetryLater
from tracebaton.queue.retry import RetryPolicy
from tracebaton.tasks import TaskStatus

from .conftest import Bench, Note, until, working


async def test_every_place_is_free_after_any_outcome(
    bench: Bench, request: pytest.FixtureRequest
) -> None:
    """
    Succeeded, failed, timed out, cancelled by itself, rejected, not readable: none keeps one.

    The long form is ``--cases 10000``.
    """
    count: int = request.config.getoption("--cases") or 300
    chance = random.Random(7)

    async def handler(note: Note) -> Any:
        match note.number % 8:
            case 0:
                raise ValueError("always")
            case 1:
                await asyncio.Event().wait()
            case 2:
                raise asyncio.CancelledError
            case 3:
                raise Reject("no")
            case 4 if current().attempt == 1:
                raise RetryLater(delay=0)
            case 5:
                return object()  # no JSON
        await asyncio.sleep(chance.uniform(0, 0.002))
        return note.number

    bench.attempts = 2
    zero = RetryPolicy(base_seconds=0.001, cap_seconds=0.001)
    bench.handle(handler, deadline=0.02, retry=zero)
    producer = bench.producer()
    await producer.enqueue_many([("note", Note(number=number)) for number in range(count)])
    for _ in range(10):
        await bench.send("no JSON")
    worker = bench.worker(concurrency=20, prefetch=5, quarantine=bench.quarantine)
    async with working(worker):
        await until(empty(bench), bool, seconds=60 + count / 20)
        (consumer,) = worker._consumers

        async def settled() -> int:
            return worker.in_hand

        await until(settled, lambda held: held == 0)
        slots = consumer._slots

    assert slots is not None
    assert (worker._room.in_use, slots._value, len(consumer._leases)) == (0, 20, 0)
    assert bench.count("tasks-quarantine") == 10


def empty(bench: Bench) -> Any:
    """Ask whether nothing is left in the queue."""

    async def ask() -> bool:
        return bench.count() == 0

    return ask


async def test_a_hundred_starts_and_stops_leave_nothing_behind(bench: Bench) -> None:
    """No thread, no file descriptor, no task, no signal handler, inside somebody's process."""
    bench.handle(lambda note: note.text)

    async def once() -> None:
        task = await bench.producer().enqueue("note", Note())
        async with working(bench.worker(wait_seconds=0, block_seconds=5)):
            await bench.ended(task.id)
            await bench.holds(0)

    def left() -> dict[str, int]:
        gc.collect()
        names = [thread.name for thread in threading.enumerate()]
        own = ("tracebaton-handler", "tracebaton-poll", "tracebaton-blocks")
        return {
            "threads": sum(name.startswith(own) for name in names),
            "descriptors": len(os.listdir("/proc/self/fd")),
            "tasks": len(asyncio.all_tasks()),
        }

    async def same() -> bool:
        now = left()  # an earlier test may have left something, which is not looked for here
        return all(now[name] <= before[name] for name in before)

    async def rounds(count: int) -> None:
        # A client keeps its connections, and how many it has is chance: it ends with the rounds.
        bench.sqs = bench.client()
        for _ in range(count):
            await once()
        await bench.sqs.close()

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    await rounds(3)
    before = left()
    await rounds(100)
    try:
        await until(same, bool)
    except TimeoutError:
        pytest.fail(f"left {left()}, before {before}")
    assert handlers == {number: signal.getsignal(number) for number in handlers}


async def test_a_crash_frees_the_task_within_the_visibility_time(bench: Bench) -> None:
    """The worker is gone without a word; the next one runs the task as soon as SQS hands it out."""
    started = asyncio.Event()
    runs: list[int | None] = []

    async def handler(note: Note) -> str:
        runs.append(current().attempt)
        started.set()
        if len(runs) == 1:
            await asyncio.Event().wait()
        return "done"

    bench.handle(handler)
    task = await bench.producer().enqueue("note", Note())
    crashing = asyncio.create_task(bench.worker(visibility_seconds=3).run())
    await asyncio.wait_for(started.wait(), 10)
    crashed = time.monotonic()
    crashing.cancel()
    await asyncio.wait([crashing])
    async with working(bench.worker(visibility_seconds=3)):
        ended = await bench.ended(task.id)
        waited = time.monotonic() - crashed

    assert (ended.status, ended.result, runs) == (TaskStatus.SUCCEEDED, "done", [1, 2])
    assert waited < 3 + 3  # the machine may be busy; an hour is what the row is about

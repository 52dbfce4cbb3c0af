"""Work that outlasts the queue's visibility timeout, on a clock that is moved by hand."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest

from tracebaton.context import current
from tracebaton.queue.worker import Worker

from .conftest import Bench, Note, until, working
from .moved_clock import PATIENCE, STEP, Skip, moved_on, skip
from .test_worker_queues import in_hand

__all__ = ["skip"]


async def counted(values: Sequence[Any], count: int) -> None:
    """Wait until *values* are *count*."""

    async def length() -> int:
        return len(values)

    await until(length, lambda now: now == count, seconds=PATIENCE)


async def worked_off(
    workers: Sequence[Worker], skip: Skip, done: Sequence[Any], count: int
) -> None:
    """Move the clock on until *done* are *count*."""
    deadline = time.monotonic() + PATIENCE
    while len(done) < count and time.monotonic() < deadline:
        await moved_on(workers, skip, STEP)


def create(bench: Bench, name: str, **attributes: str) -> None:
    """Make a queue whose messages are invisible for 30 s, and let *bench* use it."""
    bench.local.create_queue(name, {"VisibilityTimeout": "30"} | attributes)
    bench.name = name


@pytest.mark.parametrize("options", [{}, {"visibility_seconds": 30}], ids=["default", "30 s"])
async def test_a_handler_of_95_s_runs_once_on_a_queue_of_30_s(
    bench: Bench, skip: Skip, options: dict[str, Any]
) -> None:
    """While another worker polls for what comes again."""
    create(bench, "short")
    runs: list[int | None] = []
    done: list[float] = []

    async def handler(note: Note) -> None:
        runs.append(current().attempt)
        began = time.monotonic()
        await asyncio.sleep(95)
        done.append(time.monotonic() - began)

    bench.handle(handler)
    await bench.producer().enqueue("note", Note())
    workers = [bench.worker(**options), bench.worker(**options)]
    async with working(workers[0]), working(workers[1]):
        await counted(runs, 1)
        await worked_off(workers, skip, done, 1)
        await bench.holds(0, "short")

    assert runs == [1]
    assert done[0] >= 95


async def test_what_waits_here_for_a_handler_is_not_run_twice(bench: Bench, skip: Skip) -> None:
    """Ten of 20 s each, one after the other, all held from the first moment on."""
    create(bench, "short")
    runs: list[tuple[int, int | None]] = []
    done: list[int] = []

    async def handler(note: Note) -> None:
        runs.append((note.number, current().attempt))
        await asyncio.sleep(20)
        done.append(note.number)

    bench.handle(handler)
    await bench.producer().enqueue_many([("note", Note(number=number)) for number in range(10)])
    options = {"visibility_seconds": 30, "concurrency": 1}
    workers = [bench.worker(prefetch=9, **options)]
    async with working(workers[0]):
        await until(in_hand(workers[0]), lambda held: held == 10, seconds=PATIENCE)
        async with working(bench.worker(**options)):
            await worked_off(workers, skip, done, 10)
            await bench.holds(0, "short")

    assert sorted(runs) == [(number, 1) for number in range(10)]


async def test_a_fifo_group_of_long_tasks_runs_once_and_in_order(bench: Bench, skip: Skip) -> None:
    """Ten of 20 s each on a queue of 30 s, with two workers."""
    create(bench, "short.fifo", FifoQueue="true")
    runs: list[tuple[int, int | None]] = []
    done: list[int] = []

    async def handler(note: Note) -> None:
        runs.append((note.number, current().attempt))
        await asyncio.sleep(20)
        done.append(note.number)

    bench.handle(handler)
    notes = [("note", Note(number=number)) for number in range(10)]
    await bench.producer().enqueue_many(notes, group_id="a")
    workers = [bench.worker(visibility_seconds=30) for _ in range(2)]
    async with working(workers[0]), working(workers[1]):
        await counted(runs, 1)
        await worked_off(workers, skip, done, 10)
        await bench.holds(0, "short.fifo")

    assert runs == [(number, 1) for number in range(10)]

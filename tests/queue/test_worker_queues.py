"""Several queues in one worker, messages held beyond the handlers, and what a stop does to them."""

import asyncio
import json
from collections import Counter
from typing import Any

import pytest

from tracebaton.context import current
from tracebaton.queue.sqs import Queue

from .conftest import Bench, Note, until, working


def second(bench: Bench, name: str = "bulk") -> Queue:
    """Make another queue with the same DLQ and return it."""
    target = "arn:aws:sqs:us-east-1:000000000000:tasks-dlq"
    policy = {"deadLetterTargetArn": target, "maxReceiveCount": str(bench.attempts)}
    bench.local.create_queue(name, {"RedrivePolicy": json.dumps(policy)})
    return bench.named(name)


async def fill(bench: Bench, queue: Queue, count: int) -> None:
    """Enqueue *count* notes whose text is the queue's name."""
    bench.name = queue.name
    producer = bench.producer()
    await producer.enqueue_many([("note", Note(text=queue.name)) for _ in range(count)])


async def empty(bench: Bench, *names: str) -> None:
    """Wait until all is settled."""
    for name in names:
        await bench.holds(0, name)


async def test_a_worker_serves_several_queues(bench: Bench) -> None:
    """Each message has the span, the settle and the heartbeat of its own queue."""
    texts: Counter[str] = Counter()

    async def handler(note: Note) -> None:
        texts[note.text] += 1

    bench.handle(handler)
    tasks, bulk = bench.named("tasks"), second(bench)
    await fill(bench, tasks, 12)
    await fill(bench, bulk, 12)
    worker = bench.worker(queue={tasks: 3, bulk: 1}, concurrency=4)
    async with working(worker):
        await empty(bench, "tasks", "bulk")
        await until(ready(worker), bool)

    assert texts == {"tasks": 12, "bulk": 12}
    assert {"process tasks", "process bulk"} <= bench.spans().keys()
    assert worker.in_hand == 0


def ready(worker: Any) -> Any:
    """Ask whether *worker* is ready."""

    async def ask() -> bool:
        return all(worker.health().values())

    return ask


async def test_an_idle_worker_is_ready_at_once(bench: Bench) -> None:
    """Its first receive waits for no message: whether SQS answers is known long before 20 s."""
    worker = bench.worker(wait_seconds=20)
    async with working(worker):
        await until(ready(worker), bool, seconds=5)


async def test_the_heavier_queue_gets_more_handlers(bench: Bench) -> None:
    """Three to one while both have messages; the lighter one is served all the same."""
    running: Counter[str] = Counter()
    most: list[tuple[int, int]] = []
    done = 0

    async def handler(note: Note) -> None:
        nonlocal done
        running[note.text] += 1
        most.append((running["tasks"], running["bulk"]))
        await asyncio.sleep(0.02)
        running[note.text] -= 1
        done += 1

    bench.handle(handler)
    tasks, bulk = bench.named("tasks"), second(bench)
    await fill(bench, tasks, 150)
    await fill(bench, bulk, 50)

    async def half() -> int:
        return done

    async with working(bench.worker(queue={tasks: 3, bulk: 1}, concurrency=8)):
        await until(half, lambda count: count >= 120)
        while_both = list(most)
        await empty(bench, "tasks", "bulk")

    heavy, light = (sum(counts) / len(while_both) for counts in zip(*while_both, strict=True))
    assert heavy > light > 0
    assert max(heavy + light for heavy, light in most) <= 8


async def test_no_queue_waits_for_the_handlers_of_another(bench: Bench) -> None:
    """One queue's handlers never end; a message of the other one is handled all the same."""
    go, served = asyncio.Event(), asyncio.Event()

    async def handler(note: Note) -> None:
        if note.text == "bulk":
            served.set()
        else:
            await go.wait()

    bench.handle(handler)
    tasks, bulk = bench.named("tasks"), second(bench)
    await fill(bench, tasks, 20)
    worker = bench.worker(queue={tasks: 100, bulk: 1}, concurrency=3)
    async with working(worker):
        await until(in_hand(worker), lambda count: count >= 2)
        await fill(bench, bulk, 1)
        await asyncio.wait_for(served.wait(), 10)
        go.set()
        await empty(bench, "tasks", "bulk")


def in_hand(worker: Any) -> Any:
    """Ask how many messages *worker* holds."""

    async def ask() -> int:
        count: int = worker.in_hand
        return count

    return ask


async def test_one_handler_serves_more_queues_than_it_is(bench: Bench) -> None:
    """A message of each is held, one after the other runs."""
    running = most = 0

    async def handler(note: Note) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    bench.handle(handler)
    queues = [bench.named("tasks"), second(bench, "b"), second(bench, "c")]
    for queue in queues:
        await fill(bench, queue, 3)
    async with working(bench.worker(queue=dict.fromkeys(queues, 1), concurrency=1)):
        await empty(bench, "tasks", "b", "c")

    assert most == 1


async def test_prefetch_is_bounded_and_leased(bench: Bench) -> None:
    """Two run, three wait here, the rest is in the queue; each runs once although it waited."""
    go = asyncio.Event()
    attempts: list[int | None] = []

    async def handler(note: Note) -> None:
        attempts.append(current().attempt)
        await go.wait()

    bench.handle(handler)
    await fill(bench, bench.named("tasks"), 10)
    worker = bench.worker(concurrency=2, prefetch=3, visibility_seconds=4, wait_seconds=0)
    async with working(worker):
        await until(in_hand(worker), lambda count: count == 5)
        (consumer,) = worker._consumers
        first = max(lease.deadline for lease in consumer.running.values())

        async def extended() -> bool:
            return min(lease.deadline for lease in consumer.running.values()) > first

        await until(extended, bool)
        held = (worker.in_hand, len(attempts), bench.local.stats()["tasks"]["visible"])
        go.set()
        await empty(bench, "tasks")

    assert held == (5, 2, 5)
    assert attempts == [1] * 10


async def test_a_stop_gives_back_at_once_what_has_not_begun(bench: Bench) -> None:
    """The one that runs may end; the ones behind it are visible again before it does."""
    started, go = asyncio.Event(), asyncio.Event()

    async def handler(note: Note) -> None:
        started.set()
        await go.wait()

    bench.handle(handler)
    await fill(bench, bench.named("tasks"), 4)
    worker = bench.worker(concurrency=1, prefetch=3, wait_seconds=0)
    running = asyncio.create_task(worker.run())
    await asyncio.wait_for(started.wait(), 10)
    await until(in_hand(worker), lambda count: count == 4)
    worker.stop()

    async def visible() -> int:
        count: int = bench.local.stats()["tasks"]["visible"]
        return count

    await until(visible, lambda count: count == 3)
    go.set()
    report = await asyncio.wait_for(running, 10)

    assert (report.acked, report.released, report.abandoned) == (1, 3, 0)


async def test_what_arrives_after_the_stop_is_not_begun(bench: Bench) -> None:
    """A parked poll brings a message within its two seconds of grace: it is given back."""
    runs: list[str] = []
    bench.handle(lambda note: runs.append(note.text))
    worker = bench.worker(wait_seconds=20)
    running = asyncio.create_task(worker.run())
    parked = worker._consumers[0]

    async def polls() -> bool:
        """Tell whether the poll behind the first one is on its way: that one waits for nothing."""
        receiver = parked._pollers.receivers[0] if parked._pollers else None
        answered = receiver is not None and receiver.answered_at is not None
        return answered and receiver.quiet_since is not None

    await until(polls, bool)
    worker.stop()
    await fill(bench, bench.named("tasks"), 1)
    report = await asyncio.wait_for(running, 10)

    assert runs == []
    assert (report.released, bench.local.stats()["tasks"]["visible"]) == (1, 1)


@pytest.mark.parametrize("concurrency", [1, 100, 1_000])
async def test_any_concurrency_is_reached(bench: Bench, concurrency: int) -> None:
    """As many handlers run at once as there are places, and never one more."""
    reached, running = asyncio.Event(), 0

    async def handler(note: Note) -> None:
        nonlocal running
        running += 1
        assert running <= concurrency
        if running == concurrency:
            reached.set()
        await reached.wait()
        running -= 1

    bench.handle(handler)
    await fill(bench, bench.named("tasks"), concurrency + 10)
    async with working(bench.worker(concurrency=concurrency)):
        await asyncio.wait_for(reached.wait(), 60)
        await empty(bench, "tasks")

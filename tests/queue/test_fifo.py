"""FIFO queues, on ours and on ElasticMQ: order within a group, groups side by side."""

import asyncio
import json
import logging
import random
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.trace import NoOpTracer
from pydantic import BaseModel
from sqs_client import sqs_client

from tracebaton.context import current
from tracebaton.errors import RequestError
from tracebaton.local import LocalSqs
from tracebaton.propagation import Propagator
from tracebaton.queue.producer import Item, Producer
from tracebaton.queue.retry import RetryPolicy
from tracebaton.queue.signature import MessageKeys
from tracebaton.queue.sqs import Queue, Sqs
from tracebaton.queue.worker import Worker
from tracebaton.tasks import Registry, Task, TaskType
from tracebaton.tasks.sqlite import SqliteTaskStore

from .conformance.conftest import elasticmq
from .conftest import said, until, working

#: Receives of a message: each failure costs the second that SQS counts in.
ATTEMPTS = 3


class Step(BaseModel):
    """The number of a message in its group."""

    group: str = "a"
    number: int = 0


@dataclass
class Line:
    """A FIFO queue with its DLQ and quarantine, and what its handler saw."""

    sqs: Sqs
    store: SqliteTaskStore
    queue: Queue
    dlq: Queue
    quarantine: Queue
    attempts: int = ATTEMPTS
    registry: Registry = field(default_factory=Registry)
    ran: dict[str, list[tuple[int, int | None]]] = field(default_factory=lambda: defaultdict(list))
    running: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    overlap: int = 0
    together: int = 0

    def handle(self, handler: Any, **options: Any) -> None:
        """Register *handler*, and note what of which group runs when."""

        async def noted(step: Step) -> None:
            self.ran[step.group].append((step.number, current().attempt))
            self.running[step.group] += 1
            self.overlap = max(self.overlap, self.running[step.group])
            self.together = max(self.together, sum(self.running.values()))
            try:
                await handler(step)
            finally:
                self.running[step.group] -= 1

        self.registry.add(TaskType(name="step", model=Step, handler=noted, **options))

    def producer(self, **options: Any) -> Producer:
        """A producer of the queue."""
        return Producer(
            self.sqs,
            self.queue,
            registry=self.registry,
            store=self.store,
            tracer=NoOpTracer(),
            propagator=Propagator(),
            source="/api",
            **options,
        )

    def worker(self, **options: Any) -> Worker:
        """A worker of the queue with quick retries."""
        policy = RetryPolicy(base_seconds=0.01, cap_seconds=0.01, max_attempts=self.attempts)
        return Worker(
            self.sqs,
            self.queue,
            registry=self.registry,
            store=self.store,
            tracer=NoOpTracer(),
            propagator=Propagator(),
            policy=policy,
            quarantine=self.quarantine,
            **{"wait_seconds": 1} | options,
        )

    async def enqueue(self, *steps: Step) -> list[Task]:
        """Enqueue *steps* in this order, each in its group."""
        producer = self.producer()
        return [await producer.enqueue("step", step, group_id=step.group) for step in steps]

    async def held(self, queue: Queue, *, visible_only: bool = False) -> int:
        """Count the messages of *queue*."""
        counts = await queue.attributes()
        names = ["ApproximateNumberOfMessages"]
        if not visible_only:
            names.append("ApproximateNumberOfMessagesNotVisible")
        return sum(int(counts[name]) for name in names)

    async def holds(self, count: int, queue: Queue | None = None) -> None:
        """Wait until *queue*, the main one by default, holds *count* messages."""
        await until(
            lambda: self.held(queue or self.queue), lambda answer: answer == count, seconds=30
        )


@contextmanager
def ours() -> Iterator[str]:
    """Run our SQS."""
    with LocalSqs.in_thread() as running:
        yield running.url


@contextmanager
def theirs() -> Iterator[str]:
    """Run ElasticMQ."""
    with elasticmq() as broker:
        yield broker.endpoint
        broker.client.close()


@pytest.fixture(scope="module", params=["local", "elasticmq"])
def endpoint(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each broker in turn."""
    with {"local": ours, "elasticmq": theirs}[request.param]() as url:
        yield url


@pytest.fixture
async def line(endpoint: str, tmp_path: Path) -> AsyncIterator[Line]:
    """Fresh queues."""
    sqs = sqs_client(endpoint)
    store = SqliteTaskStore(tmp_path / "tasks.db")
    names = [f"{kind}-{uuid.uuid4().hex[:8]}.fifo" for kind in ("dlq", "quarantine", "tasks")]
    create = sqs._actions.create_queue
    fifo = {"FifoQueue": "true"}
    for name in names[:2]:
        await asyncio.to_thread(create, QueueName=name, Attributes=fifo)
    dlq, quarantine, queue = (Queue(sqs, name=name) for name in names)
    arn = (await dlq.attributes())["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": ATTEMPTS})
    await asyncio.to_thread(create, QueueName=names[2], Attributes=fifo | {"RedrivePolicy": policy})
    yield Line(sqs, store, queue, dlq, quarantine)
    await store.close()
    await sqs.close()


async def test_followers_survive_the_failures_of_their_head(line: Line) -> None:
    """They are not even received: each runs at its first attempt, after the head is dead."""

    async def handler(step: Step) -> None:
        if step.number == 0:
            raise ConnectionError("always")

    line.handle(handler)
    tasks = await line.enqueue(*(Step(number=number) for number in range(4)))
    async with working(line.worker()):
        await line.holds(0)
        await line.holds(1, line.dlq)

    ended = [await line.store.get(task.id) for task in tasks]
    heads = [(0, attempt) for attempt in range(1, ATTEMPTS + 1)]
    assert line.ran["a"] == [*heads, (1, 1), (2, 1), (3, 1)]
    assert [task.status for task in ended if task] == ["dead", *["succeeded"] * 3]


async def test_a_failing_group_holds_back_no_other(line: Line) -> None:
    """Group b is through while the head of group a still waits for its next attempt."""
    order: list[str] = []

    async def handler(step: Step) -> None:
        order.append(f"{step.group}{step.number}")
        if step == Step(group="a", number=0) and order.count("a0") == 1:
            raise ConnectionError("first time")

    line.handle(handler)
    await line.enqueue(*(Step(group=group, number=number) for number in range(3) for group in "ab"))
    async with working(line.worker()):
        await line.holds(0)

    second = order.index("a0", order.index("a0") + 1)
    assert set(order[:second]) == {"a0", "b0", "b1", "b2"}
    assert order[second:] == ["a0", "a1", "a2"]


@pytest.mark.parametrize("seed", [1, 2])
async def test_each_group_in_order_and_all_side_by_side(line: Line, seed: int) -> None:
    """Whatever the timing and whatever fails: no two of a group at once, none out of order."""
    chance = random.Random(seed)
    failed: set[tuple[str, int]] = set()

    async def handler(step: Step) -> None:
        await asyncio.sleep(chance.uniform(0, 0.03))
        key = (step.group, step.number)
        if chance.random() < 0.1 and key not in failed:
            failed.add(key)
            raise ConnectionError("now and then")

    line.handle(handler)
    steps = [Step(group=group, number=number) for number in range(5) for group in "abcdef"]
    await line.enqueue(*steps)
    async with working(line.worker()), working(line.worker()):
        await line.holds(0)

    assert (line.overlap, line.together > 1) == (1, True)
    for group in "abcdef":
        runs = [number for number, _ in line.ran[group]]
        assert runs == sorted(runs)
        assert sorted(set(runs)) == [0, 1, 2, 3, 4]


async def test_a_stop_gives_the_head_back_and_nothing_else(line: Line) -> None:
    """The followers were never received; the next worker starts at the head again."""
    started = asyncio.Event()

    async def handler(step: Step) -> None:
        if not started.is_set():
            started.set()
            await asyncio.Event().wait()

    line.handle(handler)
    await line.enqueue(*(Step(number=number) for number in range(3)))
    worker = line.worker(drain_seconds=0)
    running = asyncio.create_task(worker.run())
    await asyncio.wait_for(started.wait(), 10)
    worker.stop()
    report = await asyncio.wait_for(running, 10)
    async with working(line.worker()):
        await line.holds(0)

    assert report.released == 1
    assert line.ran["a"] == [(0, 1), (0, 2), (1, 1), (2, 1)]


async def test_a_message_in_quarantine_frees_its_group(line: Line) -> None:
    """It keeps its group there; the next one runs at its first attempt."""

    async def handler(step: Step) -> None:
        return None

    line.handle(handler)
    url = await line.queue.url()
    await line.sqs.send(url, "no JSON", attributes={}, group_id="a", deduplication_id="1")
    await line.enqueue(Step(number=1))
    async with working(line.worker()):
        await line.holds(0)

    assert line.ran["a"] == [(1, 1)]
    assert await line.held(line.quarantine) == 1


async def test_nothing_is_dropped_by_its_content(line: Line) -> None:
    """The same data twice is two tasks: the deduplication id is the task's."""

    async def handler(step: Step) -> None:
        return None

    line.handle(handler)
    await line.enqueue(Step(number=1), Step(number=1))
    async with working(line.worker()):
        await line.holds(0)

    assert line.ran["a"] == [(1, 1), (1, 1)]


async def test_a_dropped_message_is_said(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    """SQS answers with the first one's id: its task is returned, the second one is not kept."""

    async def handler(step: Step) -> None:
        return None

    line.handle(handler)
    producer = line.producer()
    first = await producer.enqueue("step", Step(), group_id="a", deduplication_id="nightly")
    other = await producer.enqueue("step", Step(), group_id="a", deduplication_id="hourly")
    with caplog.at_level(logging.INFO):
        second = await producer.enqueue("step", Step(), group_id="a", deduplication_id="nightly")
        (third,) = await producer.enqueue_many(
            [Item("step", Step(), group_id="a", deduplication_id="nightly")]
        )

    lines = said(caplog, "task.deduplicated")
    told = [vars(record) for record in lines]
    assert first == second == third != other
    assert [record.levelname for record in lines] == ["WARNING"] * 2
    assert [one["fields"]["earlier_task_id"] for one in told] == [first.id] * 2
    assert await line.held(line.queue) == 2


async def test_many_keep_their_order(line: Line) -> None:
    """Call after call; signed ones too."""

    async def handler(step: Step) -> None:
        return None

    line.handle(handler)
    keys = MessageKeys(["k"])
    steps = [("step", Step(number=number)) for number in range(25)]
    results = await line.producer(keys=keys).enqueue_many(steps, group_id="a")
    async with working(line.worker(keys=keys)):
        await line.holds(0)

    assert all(isinstance(result, Task) for result in results)
    assert [number for number, _ in line.ran["a"]] == [*range(25)]


async def test_a_type_may_name_the_group(line: Line) -> None:
    """By its data, for senders that know nothing of groups, such as ``POST /v1/tasks``."""

    async def handler(step: Step) -> None:
        if step.number == 0:
            raise ConnectionError("always")

    line.handle(handler, group=lambda step: step.group)
    producer = line.producer()
    for step in (Step(group="a", number=0), Step(group="b", number=1), Step(group="a", number=2)):
        await producer.enqueue("step", step)
    async with working(line.worker()):
        await line.holds(0)
        await line.holds(1, line.dlq)

    heads = [(0, attempt) for attempt in range(1, ATTEMPTS + 1)]
    assert dict(line.ran) == {"a": [*heads, (2, 1)], "b": [(1, 1)]}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "name it by group_id"),
        ({"group_id": "a", "delay_seconds": 1}, "delays no single message"),
        ({"group_id": "a", "deduplication_id": "é"}, "visible ASCII"),
    ],
)
async def test_what_a_fifo_queue_would_refuse(
    line: Line, options: dict[str, Any], said: str
) -> None:
    """Our own error before the call; nothing is saved or sent."""

    async def handler(step: Step) -> None:
        return None

    line.handle(handler)
    with pytest.raises(RequestError, match=said):
        await line.producer().enqueue("step", Step(), **options)

    assert await line.held(line.queue) == 0

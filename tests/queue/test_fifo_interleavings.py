"""FIFO groups under any order of sends, outcomes, redeliveries, heartbeats, stops and kills."""

import asyncio
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from opentelemetry.trace import NoOpTracer
from sqs_client import sqs_client

from tracebaton.context import current
from tracebaton.errors import Reject
from tracebaton.local import LocalSqs
from tracebaton.propagation import Propagator
from tracebaton.queue.producer import Producer
from tracebaton.queue.receiver import PARKED_SECONDS
from tracebaton.queue.retry import RetryPolicy
from tracebaton.queue.sqs import Queue, Sqs
from tracebaton.queue.worker import Worker
from tracebaton.tasks import Registry, TaskType
from tracebaton.tasks.sqlite import SqliteTaskStore

from .conftest import Note, until
from .moved_clock import PATIENCE, Skip, moved_clock, moved_on

#: The groups, the receives of a message, the back-off and the visibility timeout in seconds.
GROUPS, ATTEMPTS, BACKOFF, VISIBILITY = "abc", 3, 10, 60


@dataclass(eq=False)
class Run:
    """One run of a handler, which ends as the test says."""

    group: str
    number: int
    attempt: int
    end: "asyncio.Future[None]"


@dataclass(eq=False)
class Hand:
    """A worker with connections of its own, so that it can be killed with them."""

    sqs: Sqs
    worker: Worker
    running: "asyncio.Task[Any]"

    async def kill(self) -> None:
        """End it without a word."""
        (consumer,) = self.worker._consumers
        ended = [self.running, *consumer.running]
        for task in ended:
            task.cancel()
        await self.sqs.close()  # a parked poll goes first, as with its process
        await asyncio.wait(ended)

    async def stop(self, skip: Skip) -> None:
        """Drain it without patience: what runs is given back."""
        self.worker.stop()
        for _ in range(10):  # turns of the loop in which the stop is heard
            await asyncio.sleep(0)
        skip(PARKED_SECONDS)
        await asyncio.wait_for(self.running, PATIENCE)


@dataclass
class Head:
    """The first message of a group, as the model knows it."""

    number: int
    receives: int = 0
    #: Whether a worker has it.
    held: bool = False
    #: Whether it was handed out again meanwhile, and adopted.
    again: bool = False
    #: Until when nobody may have it: a back-off, or the lease of a killed worker, is not over.
    away_until: float = 0.0

    @property
    def away(self) -> bool:
        """Tell whether nobody may have it now."""
        return time.monotonic() < self.away_until


@dataclass
class World:
    """Queues, workers and what has to be true of them."""

    local: LocalSqs
    store: SqliteTaskStore
    skip: Skip
    hands: list[Hand] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    lines: dict[str, list[Head]] = field(default_factory=lambda: defaultdict(list))
    registry: Registry = field(default_factory=Registry)

    def __post_init__(self) -> None:
        self.local.create_queue("dlq.fifo", {"FifoQueue": "true"})
        target = "arn:aws:sqs:us-east-1:000000000000:dlq.fifo"
        policy = {"deadLetterTargetArn": target, "maxReceiveCount": str(ATTEMPTS)}
        attributes = {"FifoQueue": "true", "RedrivePolicy": json.dumps(policy)}
        self.url = self.local.create_queue("tasks.fifo", attributes)
        self.registry.add(TaskType(name="note", model=Note, handler=self._handle))
        #: The connections of the workers; the sender uses the first ones.
        self.doors = [sqs_client(self.local.url) for _ in range(2)]

    async def _handle(self, note: Note) -> None:
        run = Run(note.text, note.number, current().attempt or 0, asyncio.Future())
        others = {one.number for one in self.live(run.group)}
        assert others <= {run.number}, "two messages of one group run at once"
        self.runs.append(run)
        try:
            await run.end
        finally:
            self.runs.remove(run)

    def live(self, group: str) -> Sequence[Run]:
        """The runs of *group* that go on."""
        return [run for run in self.runs if run.group == group]

    def heads(self) -> dict[str, Head]:
        """The first message of each group that has one."""
        return {group: line[0] for group, line in self.lines.items() if line}

    async def settled(self) -> None:
        """Wait until exactly the heads that may run do, each at the receive that it should be."""

        heads = self.heads()

        async def running() -> dict[str, tuple[int, int | None]]:
            latest = {run.group: run for run in self.runs}
            return {
                group: (run.number, None if heads[group].again else run.attempt)
                for group, run in latest.items()
            }

        expected: dict[str, tuple[int, int | None]] = {}
        for group, head in heads.items():
            if not head.away and self.hands:
                head.receives += not head.held
                head.held = True
                expected[group] = (head.number, None if head.again else head.receives)
        try:
            await until(running, lambda now: now == expected, seconds=10)
        except TimeoutError:
            now = await running()
            assert now == expected, "not every head that may run does, or others do"

    # What may happen

    async def send(self, group: str) -> None:
        """One more message at the end of the group."""
        producer = Producer(
            self.doors[0],
            Queue(self.doors[0], url=self.url),
            registry=self.registry,
            store=self.store,
            tracer=NoOpTracer(),
            propagator=Propagator(),
            source="/api",
        )
        number = self.sent[group]
        self.sent[group] += 1
        await producer.enqueue("note", Note(text=group, number=number), group_id=group)
        self.lines[group].append(Head(number))

    async def end(self, group: str, exc: Exception | None = None) -> None:
        """The running head succeeds, or fails with *exc*."""
        runs, line = self.live(group), self.lines[group]
        if not runs:
            return
        for run in runs:
            if exc is None:
                run.end.set_result(None)
            else:
                run.end.set_exception(exc)
        final = not isinstance(exc, ConnectionError) or line[0].receives >= ATTEMPTS
        if final:
            line.pop(0)
        else:
            line[0].held = line[0].again = False
            line[0].away_until = time.monotonic() + BACKOFF + 1
        await until(self._gone(runs), bool, seconds=10)

    def _gone(self, runs: Sequence[Run]) -> Callable[[], Awaitable[bool]]:
        """Ask whether *runs* are over and settled."""

        async def ask() -> bool:
            held = sum(hand.worker.in_hand for hand in self.hands)
            return not set(runs) & set(self.runs) and held == len(self.runs)

        return ask

    async def show(self, group: str) -> None:
        """An operator makes the running head visible: its worker gets it once more."""
        if len(self.hands) != 1:  # another one would take it over: tests/queue/test_duplicates.py
            return
        leases = [
            lease
            for hand in self.hands
            for lease in hand.worker._consumers[0].running.values()
            if lease.message.system["MessageGroupId"] == group
        ]
        if not leases or self.lines[group][0].again or self.lines[group][0].receives >= ATTEMPTS:
            return
        before = self.received()
        await self.doors[0].change_visibility(self.url, [(leases[0].message.receipt_handle, 0)])

        async def received() -> bool:
            return self.received() > before

        await until(received, bool)
        self.lines[group][0].again = True
        self.lines[group][0].receives += 1

    def received(self) -> int:
        """How many messages SQS has handed out."""
        count: int = self.local.stats()["tasks.fifo"]["received"]
        return count

    async def pass_time(self, seconds: float) -> None:
        """Time in which back-offs and leases end; every heartbeat is on time."""
        await moved_on([hand.worker for hand in self.hands], self.skip, seconds)

    async def begin(self) -> None:
        """A worker starts."""
        free = [door for door in self.doors if door not in [hand.sqs for hand in self.hands]]
        if not free:
            return
        sqs = free[0]
        worker = Worker(
            sqs,
            Queue(sqs, url=self.url),
            registry=self.registry,
            store=self.store,
            tracer=NoOpTracer(),
            propagator=Propagator(),
            policy=RetryPolicy(
                base_seconds=BACKOFF,
                cap_seconds=BACKOFF,
                max_attempts=ATTEMPTS,
                uniform=lambda low, high: high,
            ),
            visibility_seconds=VISIBILITY,
            drain_seconds=0,
            wait_seconds=20,
        )
        self.hands.append(Hand(sqs, worker, asyncio.create_task(worker.run())))
        (consumer,) = worker._consumers

        async def polling() -> bool:
            return consumer._pollers is not None

        await until(polling, bool)

    async def leave(self, which: int, *, kill: bool) -> None:
        """A worker is killed, or stops and gives back what it holds."""
        if not self.hands:
            return
        hand = self.hands.pop(which % len(self.hands))
        (consumer,) = hand.worker._consumers
        leases = list(consumer.running.values())
        groups = {lease.message.system["MessageGroupId"]: lease.deadline for lease in leases}
        assert len(leases) == len(groups), "two messages of one group were in hand"
        await (hand.kill() if kill else hand.stop(self.skip))
        if kill:
            self.doors[self.doors.index(hand.sqs)] = sqs_client(self.local.url)
        for group, deadline in groups.items():
            head = self.lines[group][0]
            head.held = head.again = False
            head.away_until = deadline + 1 if kill else 0.0

    async def close(self) -> None:
        """Let every message end, one way or another, and tell that all have."""
        await self.begin()
        while self.heads():
            await self.pass_time(VISIBILITY + 2)
            await self.settled()
            for group in GROUPS:
                await self.end(group)
        while self.hands:
            await self.hands.pop().kill()
        for door in self.doors:
            await door.close()
        await self.store.close()


def operation(world: World, kind: str, number: int) -> Awaitable[None]:
    """Return what *kind* does, to the group or worker that *number* names."""
    group = GROUPS[number % len(GROUPS)]
    known: dict[str, Callable[[], Awaitable[None]]] = {
        "send": partial(world.send, group),
        "succeed": partial(world.end, group),
        "fail": partial(world.end, group, ConnectionError("now")),
        "reject": partial(world.end, group, Reject("no")),
        "time": partial(world.pass_time, (VISIBILITY if number % 2 else BACKOFF) + 2),
        "begin": world.begin,
        "show": partial(world.show, group),
        "kill": partial(world.leave, number, kill=True),
        "stop": partial(world.leave, number, kill=False),
    }
    return known[kind]()


KINDS = ["send"] * 3 + ["succeed", "fail", "reject", "time", "show", "begin", "kill", "stop"]
STORIES = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 5)), max_size=20)


async def tell(story: Sequence[tuple[str, int]]) -> None:
    """Let *story* happen."""
    with tempfile.TemporaryDirectory() as folder, moved_clock() as skip:
        async with LocalSqs() as local:
            world = World(local, SqliteTaskStore(Path(folder) / "tasks.db"), skip)
            await world.begin()
            for kind, number in story:
                await operation(world, kind, number)
                await world.settled()
            await world.close()
            counts = local.stats()["tasks.fifo"]

    assert (counts["visible"], counts["in_flight"]) == (0, 0)


def test_whatever_happens_a_group_keeps_its_order(request: pytest.FixtureRequest) -> None:
    """
    Only heads run, every one that may; a follower is first received when its head is through.

    The long form is ``--cases 2000``.
    """
    cases: int | None = request.config.getoption("--cases")

    # A story that fails waits for what does not come: to shorten it would take minutes.
    @settings(
        max_examples=cases or 15,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(STORIES)
    def check(story: Sequence[tuple[str, int]]) -> None:
        asyncio.run(tell(story))

    check()

"""Receiving when SQS does not answer as it should."""

import asyncio
import logging
import threading
from typing import Any

import pytest
from opentelemetry.trace import NoOpTracer

from tracebaton.propagation import Propagator
from tracebaton.queue.event import TaskEvent, encode
from tracebaton.queue.sqs import Queue
from tracebaton.queue.worker import Worker
from tracebaton.tasks import Registry, TaskType

from .conftest import Bench, Note, said, until, working
from .scripted_sqs import ScriptedSqs

EVENT = TaskEvent(id="0191", source="/elsewhere", type="note", time="", data={})
MESSAGE = {"MessageId": "m", "ReceiptHandle": "h", "Body": encode(EVENT)}


def worker_of(sqs: ScriptedSqs, handler: Any, **options: Any) -> tuple[Any, Worker]:
    """Return a client and a worker of the scripted queue."""
    registry = Registry()
    registry.add(TaskType(name="note", model=Note, handler=handler))
    client = sqs.client(fast=options.pop("fast", True))
    queue = options.pop("queue", None) or Queue(client, url=sqs.queue_url)
    return client, Worker(
        client,
        queue,
        registry=registry,
        store=None,
        tracer=NoOpTracer(),
        propagator=Propagator(),
        **{"concurrency": 1} | options,
    )


def receives(sqs: ScriptedSqs) -> int:
    """Count the receive calls so far."""
    return sum(action == "ReceiveMessage" for action, _ in sqs.requests)


@pytest.mark.parametrize(
    "refusal",
    [
        (403, "AccessDenied"),
        (400, "QueueDoesNotExist"),
        (503, "ServiceUnavailable"),
        {"Messages": [{}]},
    ],
    ids=["refused", "gone", "away", "nonsense"],
)
async def test_a_receive_that_fails_backs_off_and_recovers(
    caplog: pytest.LogCaptureFixture, refusal: Any
) -> None:
    """Said once, not ready meanwhile, no hot loop; the next answer makes it ready again."""
    broken = threading.Event()
    broken.set()

    def answer(action: str, request: dict[str, Any]) -> Any:
        if action != "ReceiveMessage":
            return {"Successful": [], "Failed": []}
        if broken.is_set():
            return refusal
        return {"Messages": [MESSAGE]} if not runs else {}

    runs: list[Note] = []
    with caplog.at_level(logging.INFO), ScriptedSqs(answer) as sqs:
        client, worker = worker_of(sqs, runs.append)

        async def ready() -> bool:
            return worker.health()["queue"]

        async with working(worker):
            await until(_logged(caplog, "receive.failed"), bool)
            unready = await ready()
            calls = receives(sqs)
            broken.clear()
            await until(ready, bool)
            await until(_length(runs), bool)
        await client.close()

    lines = said(caplog, "receive.failed")
    assert unready is False
    assert calls <= 2  # boto3 itself tries a 503 twice
    assert [line.levelname for line in lines] == ["WARNING"]
    assert [r.message for r in caplog.records].count("receive.recovered") == 1


async def test_a_queue_whose_name_is_unknown_yet_is_waited_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The URL is asked for again with each poll, until there is one."""

    def answer(action: str, request: dict[str, Any]) -> Any:
        if action == "GetQueueUrl":
            asked.append(action)
            # The worker asks first, then its receiver, which has to bear with a refusal.
            return {"QueueUrl": sqs.queue_url} if len(asked) != 2 else (403, "AccessDenied")
        return {}

    asked: list[str] = []
    with ScriptedSqs(answer) as sqs:
        client = sqs.client()

        class Forgetful(Queue):
            """A queue that looks its URL up each time."""

            async def url(self) -> str:
                """Ask."""
                return await client.queue_url(self.name)

        other, worker = worker_of(sqs, print, queue=Forgetful(client, name="tasks"))

        async def ready() -> bool:
            return worker.health()["queue"]

        async with working(worker):
            await until(_logged(caplog, "receive.failed"), bool)
            await until(ready, bool)
        await client.close()
        await other.close()

    assert len(asked) >= 3


async def test_a_parked_poll_is_closed_at_the_stop(bench: Bench) -> None:
    """It takes no message that comes, or was released, after it, and no attempt of one."""
    bench.handle(print)
    worker = bench.worker(wait_seconds=20)
    running = asyncio.create_task(worker.run())

    async def waiting() -> int:
        return bench.local.stats()["tasks"]["waiting"]

    await until(waiting, bool)
    worker.stop()
    report = await asyncio.wait_for(running, 10)
    await until(waiting, lambda polls: polls == 0)
    await bench.send("for another worker")

    stats = bench.local.stats()["tasks"]
    assert (report.acked, report.released, report.abandoned) == (0, 0, 0)
    assert (stats["visible"], stats["received"]) == (1, 0)


async def test_what_a_poll_brings_after_the_stop_is_given_back() -> None:
    """boto3 cannot close a parked poll: it is left behind, its message visible again at once."""
    parked, released, go = threading.Event(), threading.Event(), threading.Event()

    def answer(action: str, request: dict[str, Any]) -> Any:
        if action == "ReceiveMessage":
            parked.set()
            go.wait(20)
            return {"Messages": [MESSAGE]}
        if action == "ChangeMessageVisibility":
            assert request["VisibilityTimeout"] == 0
            released.set()
        return {}

    runs: list[Note] = []
    with ScriptedSqs(answer) as sqs:
        client, worker = worker_of(sqs, runs.append, fast=False)
        running = asyncio.create_task(worker.run())
        assert await asyncio.to_thread(parked.wait, 10)
        worker.stop()
        report = await asyncio.wait_for(running, 10)
        go.set()
        assert await asyncio.to_thread(released.wait, 10)
        await client.close()

    assert (report.acked, report.released, report.abandoned) == (0, 0, 0)
    assert runs == []


async def test_a_give_back_that_fails_is_left_to_its_timeout() -> None:
    """Nobody waits for it any more; nothing is raised in its thread."""
    parked, refused, go = threading.Event(), threading.Event(), threading.Event()

    def answer(action: str, request: dict[str, Any]) -> Any:
        if action == "ReceiveMessage":
            parked.set()
            go.wait(20)
            return {"Messages": [MESSAGE, MESSAGE]}
        refused.set()
        return 403, "AccessDenied"

    with ScriptedSqs(answer) as sqs:
        client, worker = worker_of(sqs, print, fast=False)
        running = asyncio.create_task(worker.run())
        assert await asyncio.to_thread(parked.wait, 10)
        worker.stop()
        await asyncio.wait_for(running, 10)
        go.set()
        assert await asyncio.to_thread(refused.wait, 10)
        polls = [thread for thread in threading.enumerate() if thread.name == "tracebaton-poll"]
        for poll in polls:
            await asyncio.to_thread(poll.join, 10)
        await client.close()
        changes = [action for action, _ in sqs.requests if action == "ChangeMessageVisibility"]

    assert len(changes) == 1


def _logged(caplog: pytest.LogCaptureFixture, event: str) -> Any:
    async def ask() -> bool:
        return event in [record.message for record in caplog.records]

    return ask


def _length(values: list[Any]) -> Any:
    async def ask() -> int:
        return len(values)

    return ask


async def test_a_hung_receive_is_not_alive_and_is_replaced() -> None:
    """Nothing is answered for longer than it may take: no probe says that all is well."""
    go, hung = threading.Event(), threading.Event()

    def answer(action: str, request: dict[str, Any]) -> Any:
        if action == "ReceiveMessage" and not hung.is_set():
            hung.set()
            go.wait(20)
        return {}

    with ScriptedSqs(answer) as sqs:
        client, worker = worker_of(sqs, print, patience=0.2)
        before = worker.alive()

        async def alive() -> bool:
            return worker.alive()["pollers"]

        async with working(worker):
            await until(alive, lambda well: not well)
            await until(alive, bool)
            go.set()
        await client.close()

    assert before == {"pollers": True}
    assert receives(sqs) > 1


async def test_a_late_heartbeat_makes_the_worker_not_ready() -> None:
    """SQS does not answer it: known before the lease is lost."""
    go, beating = threading.Event(), threading.Event()

    def answer(action: str, request: dict[str, Any]) -> Any:
        if action == "ReceiveMessage":
            return {"Messages": [MESSAGE]} if receives(sqs) == 1 else {}
        if action == "ChangeMessageVisibilityBatch":
            beating.set()
            go.wait(20)
        return {"Successful": [], "Failed": []}

    async def handler(note: Note) -> None:
        await asyncio.to_thread(go.wait, 20)

    with ScriptedSqs(answer) as sqs:
        client, worker = worker_of(sqs, handler, visibility_seconds=6)

        async def on_time() -> bool:
            return worker.health()["heartbeat"]

        async with working(worker):
            assert await asyncio.to_thread(beating.wait, 10)
            before = (await on_time(), worker.in_hand)
            await until(on_time, lambda well: not well)
            held = worker.in_hand
            go.set()
            await until(on_time, bool)
        await client.close()

    assert (before, held) == ((True, 1), 1)

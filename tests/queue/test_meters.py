"""What a worker measures, read where an exporter would."""

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from tracebaton.errors import Reject
from tracebaton.queue.depth import watch_depth
from tracebaton.queue.meters import WorkerMeters
from tracebaton.queue.stop import Stop
from tracebaton.tasks import TaskStatus

from .conftest import Bench, Note, until, working
from .scripted_sqs import ScriptedSqs
from .test_receiver import worker_of

QUEUE = "messaging.destination.name"


class Meters:
    """A meter provider and what was measured with it."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider(metric_readers=[self._reader], shutdown_on_exit=False)

    def points(self, name: str) -> list[tuple[dict[str, Any], Any]]:
        """Return the attributes and the value, or the count and the sum, of each point."""
        data = self._reader.get_metrics_data()
        metrics = [
            metric
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
        ]
        return [
            (dict(point.attributes or {}), getattr(point, "value", None) or _summed(point))
            for metric in metrics
            for point in metric.data.data_points
        ]

    def by(self, name: str, *keys: str) -> dict[Any, Any]:
        """Return the values of *name* by the attributes *keys*."""
        return {
            tuple(attributes.get(key) for key in keys) if len(keys) > 1 else attributes[keys[0]]: (
                value
            )
            for attributes, value in self.points(name)
        }


def _summed(point: Any) -> Any:
    return (point.count, point.sum) if hasattr(point, "sum") else 0


@pytest.fixture
def meters() -> Iterator[Meters]:
    """A fresh provider."""
    meters = Meters()
    yield meters
    meters.provider.shutdown()


async def test_a_message_is_measured_where_it_waits(bench: Bench, meters: Meters) -> None:
    """Delay, backlog and prefetch apart, as on its span."""
    go = asyncio.Event()

    async def handler(note: Note) -> None:
        await go.wait()

    bench.handle(handler)
    for _ in range(2):
        await bench.producer().enqueue("note", Note())
    worker = bench.worker(concurrency=1, prefetch=1, meter_provider=meters.provider)
    async with working(worker):

        async def in_hand() -> int:
            return worker.in_hand

        await until(in_hand, lambda count: count == 2)
        asyncio.get_running_loop().call_later(0.2, go.set)
        await bench.holds(0)

    waited = meters.by("tracebaton.queue.time", "tracebaton.queue.stage")
    assert {stage: count for stage, (count, _) in waited.items()} == {
        "delay": 2,
        "backlog": 2,
        "prefetch": 2,
    }
    assert waited["prefetch"][1] > 0.15
    assert waited["delay"][1] == 0


async def test_attempts_and_settles_are_counted(bench: Bench, meters: Meters) -> None:
    """Every attempt by how it ended, every message by how it was settled, every call."""

    async def handler(note: Note) -> None:
        if note.number == 1:
            raise Reject("no")
        if note.number == 2:
            raise ValueError("always")

    bench.attempts = 3
    bench.handle(handler)
    for number in range(3):
        await bench.producer().enqueue("note", Note(number=number))
    worker = bench.worker(meter_provider=meters.provider, wait_seconds=0)
    async with working(worker):
        await bench.holds(0)

    calls = meters.by("tracebaton.queue.calls", "messaging.operation.name")
    assert meters.by(
        "tracebaton.task.attempts", "tracebaton.task.type", "tracebaton.task.status"
    ) == {
        ("note", "succeeded"): 1,
        ("note", "failed"): 1,
        ("note", "queued"): 2,
        ("note", "dead"): 1,
    }
    assert meters.by(
        "tracebaton.messages.settled", "messaging.operation.name", "tracebaton.outcome"
    ) == {("ack", "ok"): 2, ("nack", "ok"): 3}
    assert calls["receive"] >= 3
    assert (calls["ack"] <= 2, calls["nack"] <= 3) == (True, True)


async def test_what_did_not_run_is_no_success(bench: Bench, meters: Meters) -> None:
    """A copy of what has ended, and what went to quarantine, count as what they are."""
    bench.handle(lambda note: None)
    task = await bench.producer().enqueue("note", Note())
    await bench.store.start(task.id, attempt=1)
    await bench.store.finish(task.id, TaskStatus.SUCCEEDED, attempt=1)
    await bench.send("no JSON")
    worker = bench.worker(
        wait_seconds=0, quarantine=bench.quarantine, meter_provider=meters.provider
    )
    async with working(worker):
        await bench.holds(0)

    assert meters.by("tracebaton.task.attempts", "tracebaton.task.status") == {
        "duplicate": 1,
        "quarantined": 1,
    }


async def test_leases_are_counted_by_what_became_of_them(bench: Bench, meters: Meters) -> None:
    """Extended, then refused; how late the extension was; a lost attempt is one of its own."""
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def handler(note: Note) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    bench.handle(handler)
    await bench.producer().enqueue("note", Note())
    worker = bench.worker(visibility_seconds=4, meter_provider=meters.provider)
    async with working(worker):
        await asyncio.wait_for(started.wait(), 10)

        async def extended() -> bool:
            return bool(meters.points("tracebaton.lease.extensions"))

        await until(extended, bool)
        url = bench.local.queue_url("tasks")
        await asyncio.to_thread(bench.sqs._actions.purge_queue, QueueUrl=url)
        await asyncio.wait_for(cancelled.wait(), 10)

    outcomes = meters.by("tracebaton.lease.extensions", "tracebaton.lease.outcome")
    [(_, (count, late))] = meters.points("tracebaton.lease.lateness")
    assert (outcomes["ok"] >= 1, outcomes["lost"]) == (True, 1)
    assert count >= 2
    assert late < 2 * count
    assert meters.by("tracebaton.task.attempts", "tracebaton.task.status") == {"lost": 1}
    [(attributes, _)] = meters.points("messaging.process.duration")
    assert attributes["error.type"] == "LeaseLost"


async def test_a_failed_extension_is_counted(meters: Meters) -> None:
    """Beside the log line: the alarm is on the metric."""

    def answer(action: str, request: dict[str, Any]) -> Any:
        if action == "ReceiveMessage":
            first = sum(one == action for one, _ in sqs.requests) == 1
            return (
                {"Messages": [{"MessageId": "m", "ReceiptHandle": "h", "Body": "{}"}]}
                if (first)
                else {}
            )
        return 403, "AccessDenied"

    with ScriptedSqs(answer) as sqs:
        client, worker = worker_of(
            sqs, print, visibility_seconds=4, meter_provider=meters.provider, prefetch=1
        )
        for _ in range(1):  # the one slot is taken: the message waits, leased
            await worker._consumers[0]._slots.acquire()
        async with working(worker):

            async def failed() -> int:
                found = meters.by("tracebaton.lease.extensions", "tracebaton.lease.outcome")
                count: int = found.get("failed", 0)
                return count

            await until(failed, bool)
        await client.close()


async def test_what_a_stop_makes_of_messages_is_counted(bench: Bench, meters: Meters) -> None:
    """Released is no failure: neither an error type nor a status of the task's."""
    started = asyncio.Event()

    async def handler(note: Note) -> None:
        started.set()
        await asyncio.Event().wait()

    bench.handle(handler)
    await bench.producer().enqueue("note", Note())
    async with working(bench.worker(drain_seconds=0, meter_provider=meters.provider)):
        await asyncio.wait_for(started.wait(), 10)

    drained = meters.by("tracebaton.messages.drained", "tracebaton.outcome")
    assert drained == {"acked": 0, "released": 1, "abandoned": 0}
    assert meters.by("tracebaton.task.attempts", "tracebaton.task.status") == {"released": 1}
    [(attributes, _)] = meters.points("messaging.process.duration")
    assert "error.type" not in attributes


async def test_depth_and_age_of_the_queue(bench: Bench, meters: Meters) -> None:
    """By state, and how long the oldest of a receive has waited."""
    go, started = asyncio.Event(), asyncio.Event()

    async def handler(note: Note) -> None:
        started.set()
        await go.wait()

    bench.handle(handler)
    for _ in range(3):
        await bench.producer().enqueue("note", Note())
    worker = bench.worker(concurrency=1, depth_seconds=0.05, meter_provider=meters.provider)
    async with working(worker):
        await asyncio.wait_for(started.wait(), 10)

        async def depth() -> dict[str, int]:
            return meters.by("tracebaton.queue.messages", "tracebaton.queue.state")

        found = await until(depth, lambda now: now.get("in_flight") == 1)
        age = meters.by("tracebaton.queue.age", QUEUE)
        go.set()
        await bench.holds(0)

    assert found == {"visible": 2, "in_flight": 1, "delayed": 0}
    assert 0 < age["tasks"] < 60


async def test_a_queue_that_does_not_answer_is_not_measured(
    meters: Meters, caplog: pytest.LogCaptureFixture
) -> None:
    """No number is better than a wrong one; the receives say what is wrong."""
    from tracebaton.queue.sqs import Queue

    with (
        caplog.at_level(logging.DEBUG, logger="tracebaton.worker"),
        ScriptedSqs(lambda *_: (403, "AccessDenied")) as sqs,
    ):
        client, stop = sqs.client(), Stop()
        queue = Queue(client, url=sqs.queue_url)
        watching = asyncio.create_task(
            watch_depth(queue, WorkerMeters(meters.provider), stop, seconds=60)
        )

        async def said() -> bool:
            return "queue.unmeasured" in [record.message for record in caplog.records]

        await until(said, bool)
        stop.ask()
        await asyncio.wait_for(watching, 5)
        await client.close()

    assert meters.points("tracebaton.queue.messages") == []

"""What killed workers leave in the DLQ, over the wire to a real SQS."""

import asyncio
import json
from typing import Any

import pytest
from opentelemetry import trace

from tracebaton.context import RequestStore, entered
from tracebaton.errors import StoreUnavailable
from tracebaton.queue.dead import DeadLetters
from tracebaton.queue.dlq_watch import DlqWatch
from tracebaton.queue.incoming import Reader
from tracebaton.queue.signature import MessageKeys
from tracebaton.tasks import Task, TaskStatus

from .conftest import Bench, Note, said, until, working


async def work(note: Note) -> str:
    """A handler that works."""
    return note.text


def letters(bench: Bench, **options: Any) -> DeadLetters:
    """Return who ends the tasks of the bench's DLQ."""
    defaults: dict[str, Any] = {
        "queue_name": "tasks-dlq",
        "reader": Reader(queue_name="tasks"),
        "store": bench.store,
        "tracer": bench.provider.get_tracer("tracebaton"),
        "propagator": bench.propagator,
        "reporter": bench.reports,
    }
    return DeadLetters(**defaults | options)


def watch(bench: Bench, **options: Any) -> DlqWatch:
    """Return a watcher of the bench's DLQ."""
    dlq = bench.named("tasks-dlq")
    return DlqWatch(bench.sqs, dlq, letters=letters(bench, **options), wait_seconds=0)


async def lose(bench: Bench, *, started: bool = True) -> None:
    """Be the workers that are killed with the one message in hand, until SQS gives it up."""
    while bench.count("tasks-dlq") == 0:
        for message in await bench.take("tasks", seconds=0):
            if started:
                task_id = json.loads(message.body)["id"]
                await bench.store.start(
                    task_id,
                    attempt=message.receive_count,
                    owner=message.message_id,
                    lease_until=0.0,
                    traceparent=f"00-{'a' * 32}-{message.receive_count:016x}-01",
                )
            url = bench.local.queue_url("tasks")
            await bench.sqs.change_visibility(url, [(message.receipt_handle, 0)])


async def enqueued(bench: Bench) -> Task:
    """Enqueue a task of a known user."""
    bench.handle(work)
    with entered(RequestStore(correlation_id="c-1", user_id="u-1")):
        return await bench.producer().enqueue("note", Note())


@pytest.mark.parametrize("started", [True, False], ids=["in a handler", "before it"])
async def test_a_task_of_killed_workers_becomes_dead(
    bench: Bench, started: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """One event, one line with its id, a problem for its owner; the message stays, visible."""
    task = await enqueued(bench)
    await lose(bench, started=started)
    marked = await watch(bench).look()

    ended = await bench.store.get(task.id)
    (line,) = said(caplog, "task.dead")
    assert marked == 1
    assert ended is not None
    assert (ended.status, ended.error and ended.error["code"]) == ("dead", "worker_lost")
    assert ended.error is not None
    assert (ended.error["correlation_id"], ended.error["trace_id"]) == ("c-1", task.trace_id)
    assert [(outcome.code, details["tags"]) for _, outcome, details in bench.reports] == [
        (
            "worker_lost",
            {"task_type": "note", "task_id": task.id, "attempt": str(3 if started else 0)},
        )
    ]
    assert (line.levelname, vars(line)["fields"]["sentry_event_id"]) == ("ERROR", f"{1:032x}")
    dlq = bench.local.stats()["tasks-dlq"]
    assert (dlq["visible"], dlq["in_flight"], dlq["deleted"]) == (1, 0, 0)


async def test_its_span_joins_the_trace_and_links_the_last_attempt(bench: Bench) -> None:
    """What the killed worker could not export is told in its place, for the same user."""
    task = await enqueued(bench)
    await lose(bench)
    await watch(bench).look()

    spans = bench.spans()
    span, send = spans["process tasks-dlq"], spans["send tasks"]
    assert trace.format_trace_id(span.context.trace_id) == task.trace_id
    assert span.parent is not None
    assert span.parent.span_id == send.context.span_id
    assert [(link.context.trace_id, link.context.span_id) for link in span.links] == [
        (int("a" * 32, 16), 3)
    ]
    assert span.attributes is not None
    told = {name: span.attributes[name] for name in span.attributes if "tracebaton" in name}
    assert told == {
        "tracebaton.correlation_id": "c-1",
        "tracebaton.user_id": "u-1",
        "tracebaton.task.id": task.id,
        "tracebaton.task.type": "note",
        "tracebaton.task.attempt": 3,
        "tracebaton.task.status": "dead",
    }
    assert span.attributes["error.type"] == "WorkerLost"


async def test_a_task_is_reported_once_whoever_watches(bench: Bench) -> None:
    """Watchers of other workers, and of later runs, read in the store that it has been told."""
    await enqueued(bench)
    await lose(bench)
    together = await asyncio.gather(*(letters(bench).bury(m) for m in await dead(bench) * 5))
    later = await watch(bench).look()

    assert sorted(together) == ["ended"] * 4 + ["marked"]
    assert (later, len(bench.reports)) == (0, 1)


async def dead(bench: Bench) -> list[Any]:
    """Return the messages of the DLQ, and leave them visible."""
    messages = await bench.take("tasks-dlq")
    url = bench.local.queue_url("tasks-dlq")
    await bench.sqs.change_visibility(url, [(one.receipt_handle, 0) for one in messages])
    return messages


async def test_what_the_worker_told_is_not_told_again(bench: Bench) -> None:
    """A last attempt that failed in a living worker is its own report."""
    bench.handle(fail)
    task = await bench.producer().enqueue("note", Note())
    async with working(bench.worker(wait_seconds=0)):
        await bench.ended(task.id)
        await bench.holds(1, "tasks-dlq")
    marked = await watch(bench).look()

    assert marked == 0
    assert [outcome.error_type for _, outcome, _ in bench.reports] == ["LookupError"]


async def fail(note: Note) -> None:
    """A handler that always fails."""
    raise LookupError(note.text)


async def test_a_lease_that_is_not_over_is_waited_for(bench: Bench) -> None:
    """The worker that has it may still finish; the next look comes back to it."""
    task = await enqueued(bench)
    await lose(bench)
    (message,) = await dead(bench)
    owners = {task.id: message.message_id}
    await bench.store.renew(owners, lease_until=4e9)
    watcher = watch(bench)
    first = await watcher.look()
    await bench.store.renew(owners, lease_until=0.0)

    assert (first, await watcher.look()) == (0, 1)


async def test_a_copy_in_the_dlq_ends_no_task_of_another_message(bench: Bench) -> None:
    """The task belongs to a message that is still in the queue."""
    task = await enqueued(bench)
    await lose(bench)
    await bench.store.start(task.id, attempt=1, owner="another", lease_until=0.0)
    marked = await watch(bench).look()

    ended = await bench.store.get(task.id)
    assert ended is not None
    assert (marked, ended.status, bench.reports) == (0, TaskStatus.RUNNING, [])


@pytest.mark.parametrize(
    "body", ["no JSON", '{"specversion": "1.0", "id": "0", "source": "/x", "type": "note"}']
)
async def test_what_is_no_task_of_ours_is_left_alone(bench: Bench, body: str) -> None:
    """Unreadable, or unknown to our store: it stays, and nothing is told of it."""
    await bench.sqs.send(bench.local.queue_url("tasks-dlq"), body, attributes={})
    marked = await watch(bench).look()

    assert (marked, bench.count("tasks-dlq"), bench.reports) == (0, 1, [])


async def test_an_unsigned_message_ends_no_task(bench: Bench) -> None:
    """With a key set, whoever can write to the DLQ cannot end a task by its id."""
    task = await enqueued(bench)
    await lose(bench)
    reader = Reader(queue_name="tasks", keys=MessageKeys(["secret"]))
    marked = await watch(bench, reader=reader).look()

    ended = await bench.store.get(task.id)
    assert ended is not None
    assert (marked, ended.status) == (0, TaskStatus.RUNNING)


async def test_the_same_messages_are_not_walked_again(bench: Bench) -> None:
    """Only what has changed costs receives; after a while it looks anyway."""
    clock = [0.0]
    await enqueued(bench)
    await lose(bench)
    watcher = DlqWatch(
        bench.sqs,
        bench.named("tasks-dlq"),
        letters=letters(bench),
        wait_seconds=0,
        now=lambda: clock[0],
    )
    counts = []
    for clock[0] in (0.0, 15.0, 299.0, 301.0):
        await watcher.look()
        counts.append(bench.local.stats()["tasks-dlq"]["received"])

    assert counts == [1, 1, 1, 2]


async def test_it_waits_while_an_operator_holds_messages(bench: Bench) -> None:
    """What somebody has received is at work; what is beside it is not taken from under them."""
    await enqueued(bench)
    await lose(bench)
    await bench.sqs.send(bench.local.queue_url("tasks-dlq"), "{}", attributes={})
    url = bench.local.queue_url("tasks-dlq")
    (one, _) = await bench.take("tasks-dlq")
    await bench.sqs.change_visibility(url, [(one.receipt_handle, 0)])
    watcher = watch(bench)
    during = await watcher.look()
    await bench.holds(2, "tasks-dlq")

    assert (during, bench.reports) == (0, [])
    assert bench.local.stats()["tasks-dlq"]["received"] == 2


async def test_a_dlq_with_a_dlq_is_not_watched(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """Looking would move its messages on; it says so, once."""
    bench.local.create_queue("last")
    policy = {
        "deadLetterTargetArn": "arn:aws:sqs:us-east-1:000000000000:last",
        "maxReceiveCount": "1",
    }
    bench.local.create_queue("chained-dlq", {"RedrivePolicy": json.dumps(policy)})
    await bench.sqs.send(bench.local.queue_url("chained-dlq"), "{}", attributes={})
    watcher = DlqWatch(bench.sqs, bench.named("chained-dlq"), letters=letters(bench))
    for _ in range(3):
        await watcher.look()

    lines = said(caplog, "dlq.unwatched")
    assert bench.local.stats()["chained-dlq"]["received"] == 0
    assert len(lines) == 1


async def test_it_outlives_a_queue_and_a_store_that_are_away(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that it cannot look, goes on, and ends with the worker."""
    monkeypatch.setattr("tracebaton.queue.dlq_watch._REST", 0)
    stopping = asyncio.Event()
    dlq = bench.named("nowhere")
    watcher = DlqWatch(bench.sqs, dlq, letters=letters(bench), interval=0.01, wait_seconds=0)
    running = asyncio.create_task(watcher.run(stopping))

    async def told() -> list[str]:
        return [record.message for record in caplog.records]

    await until(told, lambda lines: "dlq.unwatched" in lines)
    await enqueued(bench)
    bench.local.create_queue("nowhere")
    (message,) = await bench.take("tasks")
    await bench.sqs.send(bench.local.queue_url("nowhere"), message.body, attributes={})

    async def reported() -> int:
        return len(bench.reports)

    await until(reported, lambda count: bool(count == 1))
    stopping.set()
    await asyncio.wait_for(running, 5)


async def test_a_store_that_is_away_leaves_the_messages_visible(bench: Bench) -> None:
    """Nothing is held back for the time that the store is away."""

    class Away:
        async def get(self, task_id: str) -> Task | None:
            raise StoreUnavailable()

    await enqueued(bench)
    await lose(bench)
    with pytest.raises(StoreUnavailable):
        await watch(bench, store=Away()).look()

    assert bench.local.stats()["tasks-dlq"]["visible"] == 1

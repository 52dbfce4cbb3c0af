"""Batch handlers: one call for many messages, an outcome and a trace for each."""

import asyncio
import logging
import threading
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan

from tracebaton.context import RequestStore, current, entered
from tracebaton.errors import NotFound, Reject, RetryLater
from tracebaton.queue.batch import Batch
from tracebaton.queue.lease import current_lease
from tracebaton.tasks import Task, TaskStatus

from .conftest import Bench, Note, stopped, until, working


async def sent(bench: Bench, count: int, **fields: Any) -> list[Task]:
    """Enqueue *count* notes, each from a request of its own."""
    producer = bench.producer()
    tasks = []
    for number in range(count):
        with entered(RequestStore(correlation_id=f"c-{number}", user_id=f"u-{number}")):
            tasks.append(await producer.enqueue("note", Note(number=number, **fields)))
    return tasks


async def ended(bench: Bench, tasks: list[Task]) -> list[Task]:
    """Wait until all have ended."""
    return [await bench.ended(task.id) for task in tasks]


def spans(bench: Bench, name: str) -> list[ReadableSpan]:
    """Return every ended span called *name*."""
    return [span for span in bench.exporter.get_finished_spans() if span.name == name]


async def test_one_call_gets_all_and_each_has_its_result(bench: Bench) -> None:
    """What the list says of each is that task's result."""
    calls: list[list[int]] = []

    async def handler(notes: Batch[Note]) -> list[Any]:
        calls.append([note.number for note in notes])
        return [{"squared": note.number**2} for note in notes]

    bench.handle(handler, batch=5, batch_seconds=5)
    tasks = await sent(bench, 5)
    async with working(bench.worker()):
        done = await ended(bench, tasks)
        await bench.holds(0)

    assert [sorted(call) for call in calls] == [[0, 1, 2, 3, 4]]
    assert [task.result for task in done] == [{"squared": n**2} for n in range(5)]


async def test_each_message_has_an_outcome_of_its_own(bench: Bench) -> None:
    """Succeeded, rejected, failed, tried again: one fails no other."""
    calls: list[list[tuple[int, int | None]]] = []

    def outcome(note: Note, attempt: int | None) -> Any:
        if note.number == 1:
            return Reject("no thanks")
        if note.number == 2:
            return NotFound("it is gone")
        if note.number == 3 and attempt == 1:
            return ConnectionError("now and then")
        if note.number == 4 and attempt == 1:
            return RetryLater(delay=0)
        return note.number

    async def handler(notes: Batch[Note]) -> list[Any]:
        attempts = [store.attempt for store in notes.stores]
        numbers = [note.number for note in notes]
        calls.append(list(zip(numbers, attempts, strict=True)))
        return [outcome(*pair) for pair in zip(notes, attempts, strict=True)]

    bench.handle(handler, batch=5, batch_seconds=0.5)
    tasks = await sent(bench, 5)
    async with working(bench.worker(wait_seconds=0)):
        done = await ended(bench, tasks)
        await bench.holds(0)

    assert [task.status.value for task in done] == [
        "succeeded",
        "failed",
        "failed",
        "succeeded",
        "succeeded",
    ]
    assert [task.attempt for task in done] == [1, 1, 1, 2, 2]
    assert sorted(calls[0]) == [(number, 1) for number in range(5)]
    assert sorted(pair for call in calls[1:] for pair in call) == [(3, 2), (4, 2)]
    assert [type(exc) for exc, _, _ in bench.reports] == [NotFound]


async def test_what_the_call_raises_is_the_outcome_of_all(bench: Bench) -> None:
    """Each is tried again, and each that dies is one report with its own attempts."""

    async def handler(notes: list[Note]) -> None:
        raise ConnectionError("the index is away")

    bench.attempts = 2
    bench.handle(handler, batch=3, batch_seconds=0.3)
    tasks = await sent(bench, 3)
    async with working(bench.worker(wait_seconds=0)):
        done = await ended(bench, tasks)

    assert [(task.status, task.attempt) for task in done] == [(TaskStatus.DEAD, 2)] * 3
    assert sorted(details["tags"]["task_id"] for _, _, details in bench.reports) == sorted(
        task.id for task in tasks
    )
    assert len({id(exc) for exc, _, _ in bench.reports}) == 3
    assert {str(exc) for exc, _, _ in bench.reports} == {"the index is away"}
    assert all(exc.__traceback__ is not None for exc, _, _ in bench.reports)


class Peculiar(Exception):
    """Cannot be copied."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


async def test_an_exception_that_cannot_be_copied_is_shared(bench: Bench) -> None:
    """Better the same one than none."""

    async def handler(notes: list[Note]) -> None:
        raise Peculiar("very", "much")

    bench.attempts = 1
    bench.handle(handler, batch=2, batch_seconds=5)
    tasks = await sent(bench, 2)
    async with working(bench.worker(wait_seconds=0)):
        done = await ended(bench, tasks)

    assert [task.status for task in done] == [TaskStatus.DEAD] * 2
    assert [type(exc) for exc, _, _ in bench.reports] == [Peculiar] * 2


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ([1], "got 2 messages and returned 1 outcomes"),
        ({"a": 1}, "got 2 messages and returned no list"),
        ([asyncio.CancelledError(), StopIteration()], "as an outcome"),
    ],
)
async def test_outcomes_that_fit_nothing_fail_all(bench: Bench, returned: Any, said: str) -> None:
    """Nobody can tell which message is meant, so each is tried again; the reason is told."""

    async def handler(notes: list[Note]) -> Any:
        return returned

    bench.attempts = 1
    bench.handle(handler, batch=2, batch_seconds=5)
    tasks = await sent(bench, 2)
    async with working(bench.worker(wait_seconds=0)):
        done = await ended(bench, tasks)

    assert [task.status for task in done] == [TaskStatus.DEAD] * 2
    assert all(said in str(exc) for exc, _, _ in bench.reports)


async def test_a_batch_that_does_not_fill_up_is_run_all_the_same(bench: Bench) -> None:
    """After its time; a sync handler in a thread; None is success."""
    calls: list[tuple[int, bool]] = []

    def handler(notes: list[Note]) -> None:
        in_loop = threading.current_thread() is threading.main_thread()
        calls.append((len(notes), in_loop))

    bench.handle(handler, batch=100, batch_seconds=0.3)
    tasks = await sent(bench, 3)
    async with working(bench.worker()):
        done = await ended(bench, tasks)

    assert calls == [(3, False)]
    assert [(task.status, task.result) for task in done] == [(TaskStatus.SUCCEEDED, None)] * 3


async def test_a_batch_is_no_larger_than_what_is_held(bench: Bench) -> None:
    """Waiting for more than there are places would be waiting for nothing."""
    sizes: list[int] = []

    async def handler(notes: list[Note]) -> None:
        sizes.append(len(notes))

    bench.handle(handler, batch=100, batch_seconds=60)
    tasks = await sent(bench, 8)
    async with working(bench.worker(concurrency=4)):
        await ended(bench, tasks)

    assert sizes == [4, 4]


async def test_the_trace_of_a_batch(bench: Bench) -> None:
    """A process span a message in the trace of its producer, a batch span that links them all."""

    async def handler(notes: Batch[Note]) -> None:
        assert current_lease() is None
        assert current().task_id is None
        for index, note in enumerate(notes):
            with notes.entered(index):
                assert current() == notes.stores[index]
                assert current().correlation_id == f"c-{note.number}"
                await bench.producer().enqueue("other", note)

    bench.handle(handler, batch=3, batch_seconds=5)
    bench.handle(lambda note: None, name="other")
    tasks = await sent(bench, 3)
    async with working(bench.worker()):
        await ended(bench, tasks)
        await bench.holds(0)

    sends = spans(bench, "send tasks")[:3]
    [batch] = spans(bench, "batch tasks")
    processes = [
        span
        for span in spans(bench, "process tasks")
        if span.attributes and span.attributes["tracebaton.task.type"] == "note"
    ]
    assert batch.attributes is not None
    assert batch.parent is None
    assert batch.attributes["messaging.batch.message_count"] == 3
    assert {link.context.span_id for link in batch.links} == {
        send.context.span_id for send in sends
    }
    assert [span.parent.span_id for span in processes if span.parent] == [
        link.context.span_id for link in batch.links
    ]
    assert {link.context.span_id for span in processes for link in span.links} == {
        batch.context.span_id
    }
    children = spans(bench, "send tasks")[3:]
    assert sorted(span.context.trace_id for span in children) == sorted(
        span.context.trace_id for span in sends
    )
    assert not trace.get_current_span().get_span_context().is_valid


async def test_a_failed_batch_says_so_on_its_span(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """Status, type and exception, there and on each message's own."""

    async def handler(notes: list[Note]) -> None:
        await asyncio.sleep(60)

    bench.attempts = 1
    bench.handle(handler, batch=2, batch_seconds=5, deadline=0.05)
    tasks = await sent(bench, 2)
    with caplog.at_level(logging.ERROR):
        async with working(bench.worker()):
            done = await ended(bench, tasks)

    [batch] = spans(bench, "batch tasks")
    assert batch.attributes is not None
    assert batch.attributes["error.type"] == "HandlerTimeout"
    assert [event.name for event in batch.events] == ["exception"]
    assert [task.error["code"] for task in done if task.error] == ["handler_timeout"] * 2
    processes = [span for span in spans(bench, "process tasks") if attempt(span) == 1]
    assert [[event.name for event in span.events] for span in processes] == [["exception"]] * 2


def attempt(span: ReadableSpan) -> Any:
    """Return which delivery of its message *span* is: a dead one comes until SQS moves it."""
    return (span.attributes or {})["tracebaton.message.receive_count"]


async def test_a_message_whose_lease_is_lost_leaves_the_batch(bench: Bench) -> None:
    """Its result is discarded, the others' are not."""
    started, go = asyncio.Event(), asyncio.Event()
    lost: list[bool] = []

    async def handler(notes: Batch[Note]) -> list[str]:
        started.set()
        await go.wait()
        lost.extend(lease.lost for lease in notes.leases)
        return ["done"] * len(notes)

    bench.handle(handler, batch=2, batch_seconds=5)
    tasks = await sent(bench, 2)
    worker = bench.worker()
    async with working(worker):
        await asyncio.wait_for(started.wait(), 10)
        gone = next(iter(worker._consumers[0].running.values()))
        gone.over("lost")
        go.set()
        await bench.holds(1)
        stored = [await bench.store.get(task.id) for task in tasks]

    assert sorted(lost) == [False, True]
    assert sorted(str(task.result) for task in stored if task) == ["None", "done"]


@pytest.mark.parametrize("waiting", [True, False])
async def test_without_messages_there_is_no_batch(bench: Bench, waiting: bool) -> None:
    """All leases are lost: one that waits is not run, one that runs is cancelled."""
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def handler(notes: list[Note]) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    bench.handle(handler, batch=3 if waiting else 2, batch_seconds=0.3)
    await sent(bench, 2)
    worker = bench.worker()
    async with working(worker):
        consumer = worker._consumers[0]
        if not waiting:
            await asyncio.wait_for(started.wait(), 10)

        async def held() -> int:
            if not waiting:
                return len(consumer.running)
            gatherer = consumer.delivery._gatherers.get("note")
            return len(gatherer._waiting) if gatherer else 0

        await until(held, lambda count: count == 2)
        for lease in list(consumer.running.values()):
            lease.over("lost")
        if not waiting:
            await asyncio.wait_for(cancelled.wait(), 10)

        async def in_hand() -> int:
            return worker.in_hand

        await until(in_hand, lambda count: count == 0)
        gatherer = consumer.delivery._gatherers["note"]
        await until(lambda: _waits(gatherer), lambda timer: timer is False)

    assert started.is_set() is not waiting
    assert bench.reports == []


async def _waits(gatherer: Any) -> bool:
    """Tell whether the timer of *gatherer* is still to come."""
    timer = gatherer._timer
    return timer is not None and not timer.cancelled() and timer.when() > _now()


def _now() -> float:
    return asyncio.get_running_loop().time()


async def test_a_stop_gives_a_running_batch_back(bench: Bench) -> None:
    """Each of its messages is visible again at once."""
    started = asyncio.Event()

    async def handler(notes: list[Note]) -> None:
        started.set()
        await asyncio.Event().wait()

    bench.handle(handler, batch=3, batch_seconds=5)
    await sent(bench, 3)
    report = await stopped(bench.worker(drain_seconds=0.1), started)

    assert (report.acked, report.released, report.abandoned) == (0, 3, 0)
    assert bench.local.stats()["tasks"]["visible"] == 3
    assert bench.reports == []

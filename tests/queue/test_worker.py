"""A message's life, over the wire to a real SQS."""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from opentelemetry import trace

from tracebaton.context import RequestStore, current, entered
from tracebaton.errors import NotFound, Reject, RetryLater
from tracebaton.tasks import TaskStatus

from .conftest import Bench, Note, said, stopped, until, working


async def test_api_and_worker_share_trace_and_store(bench: Bench) -> None:
    """The process span's parent is the send span, and the handler sees the request's ids."""
    seen: list[RequestStore] = []

    async def handler(note: Note) -> dict[str, str]:
        seen.append(current())
        return {"said": note.text}

    bench.handle(handler)
    with entered(RequestStore(correlation_id="c-1", user_id="u 1/ü")):
        task = await bench.producer().enqueue("note", Note(text="hi"))
    async with working(bench.worker()):
        ended = await bench.ended(task.id)

    send, process = bench.spans()["send tasks"], bench.spans()["process tasks"]
    assert (ended.status, ended.result) == ("succeeded", {"said": "hi"})
    assert seen == [RequestStore(correlation_id="c-1", user_id="u 1/ü", task_id=task.id, attempt=1)]
    assert process.context.trace_id == send.context.trace_id
    assert process.parent is not None
    assert process.parent.span_id == send.context.span_id
    assert task.trace_id == trace.format_trace_id(send.context.trace_id)


async def test_sync_handlers_run_in_threads_with_the_store(bench: Bench) -> None:
    """A def handler sees the same store, away from the event loop."""
    seen: list[Any] = []

    def handler(note: Note) -> None:
        seen.append((current().correlation_id, threading.current_thread().daemon))

    bench.handle(handler)
    with entered(RequestStore(correlation_id="c-2")):
        task = await bench.producer().enqueue("note", {"number": 3})
    async with working(bench.worker()):
        await bench.ended(task.id)

    assert seen == [("c-2", True)]


async def test_a_failure_is_retried_and_then_succeeds(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """The same message comes again; its first failure is a warning and no report."""
    attempts: list[int | None] = []

    async def handler(note: Note) -> str:
        attempts.append(current().attempt)
        if len(attempts) == 1:
            raise ConnectionError("first time")
        return "done"

    bench.handle(handler)
    task = await bench.producer().enqueue("note", Note())
    with caplog.at_level(logging.INFO):
        async with working(bench.worker()):
            ended = await bench.ended(task.id)

    first = bench.exporter.get_finished_spans()[1]
    events = [(record.message, record.levelname) for record in caplog.records]
    assert attempts == [1, 2]
    assert (ended.status, ended.attempt) == ("succeeded", 2)
    assert [failure["error_type"] for failure in ended.failures] == ["ConnectionError"]
    assert ("task.retried", "WARNING") in events
    assert [event.name for event in first.events] == ["exception", "task.retried"]
    assert first.attributes is not None
    assert first.attributes["error.type"] == "ConnectionError"
    assert bench.reports == []


async def test_the_last_attempt_is_dead_once_and_in_the_dlq(bench: Bench) -> None:
    """One report that lists every attempt; SQS moves the message, same id, to the DLQ."""

    async def handler(note: Note) -> None:
        raise ValueError("always")

    bench.handle(handler)
    task = await bench.producer().enqueue("note", Note())
    async with working(bench.worker()):
        ended = await bench.ended(task.id)
        await until(
            lambda: bench.sqs.queue_attributes(bench.local.queue_url("tasks-dlq")),
            lambda attributes: attributes["ApproximateNumberOfMessages"] == "1",
        )

    assert ended.status is TaskStatus.DEAD
    assert ended.error is not None
    assert (ended.error["code"], ended.error["instance"]) == ("internal", f"/v1/tasks/{task.id}")
    assert "always" not in json.dumps(ended.error)
    assert len(bench.reports) == 1
    exc, outcome, details = bench.reports[0]
    assert (type(exc), outcome.code) == (ValueError, "internal")
    assert [failure["attempt"] for failure in details["failures"]] == [1, 2]
    assert details["tags"] == {"task_type": "note", "task_id": task.id, "attempt": "3"}


async def test_reject_fails_without_report_or_retry(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """A business failure is a warning and the message is gone."""

    async def handler(note: Note) -> None:
        raise Reject("The account is closed.", code="account_closed")

    bench.handle(handler)
    task = await bench.producer().enqueue("note", Note())
    with caplog.at_level(logging.INFO):
        async with working(bench.worker()):
            ended = await bench.ended(task.id)
            await gone(bench)

    failed = said(caplog, "task.failed")
    assert ended.status is TaskStatus.FAILED
    assert ended.error is not None
    assert (ended.error["code"], ended.error["detail"]) == (
        "account_closed",
        "The account is closed.",
    )
    assert [record.levelname for record in failed] == ["WARNING"]
    assert bench.reports == []


async def test_a_non_retryable_error_of_ours_fails_as_an_error(bench: Bench) -> None:
    """Like Reject, but reported."""

    async def handler(note: Note) -> None:
        raise NotFound("There is no such document.")

    bench.handle(handler)
    task = await bench.producer().enqueue("note", Note())
    async with working(bench.worker()):
        ended = await bench.ended(task.id)
        await gone(bench)

    assert (ended.status, ended.attempt) == (TaskStatus.FAILED, 1)
    assert [outcome.code for _, outcome, _ in bench.reports] == ["not_found"]


async def test_retry_later_asks_for_its_own_delay(bench: Bench) -> None:
    """The handler's delay is used, nothing is recorded as an exception."""
    calls: list[float] = []

    async def handler(note: Note) -> None:
        calls.append(time.monotonic())
        if len(calls) == 1:
            raise RetryLater(delay=1, detail="not yet")

    bench.handle(handler)
    task = await bench.producer().enqueue("note", Note())
    async with working(bench.worker()):
        await bench.ended(task.id)

    first = bench.exporter.get_finished_spans()[1]
    assert 0.8 < calls[1] - calls[0] < 3
    assert [event.name for event in first.events] == ["task.retried"]


async def test_a_deadline_ends_the_handler(bench: Bench) -> None:
    """A handler over its deadline is cancelled; its last attempt is dead with a code of its own."""
    bench.attempts = 1

    async def handler(note: Note) -> None:
        await asyncio.Event().wait()

    bench.handle(handler, deadline=0.05)
    task = await bench.producer().enqueue("note", Note())
    worker = bench.worker(policy=policy(max_attempts=1))
    async with working(worker):
        ended = await bench.ended(task.id)

    assert ended.error is not None
    assert (ended.status, ended.error["code"]) == (TaskStatus.DEAD, "handler_timeout")


async def test_a_long_handler_keeps_its_message(bench: Bench) -> None:
    """The heartbeat extends the lease well past the visibility timeout: one run, no redelivery."""
    runs: list[int | None] = []

    async def handler(note: Note) -> None:
        runs.append(current().attempt)
        await asyncio.sleep(7)  # the passage of real time is what is tested

    bench.handle(handler)
    task = await bench.producer().enqueue("note", Note())
    async with working(bench.worker(visibility_seconds=4)):
        await bench.ended(task.id)
        await gone(bench)

    assert runs == [1]
    assert bench.local.stats()["tasks"]["redelivered"] == 0


async def test_a_lost_lease_cancels_and_settles_nothing(bench: Bench) -> None:
    """Deleted behind its back, the message's handler is cancelled and its result discarded."""
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def handler(note: Note) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    bench.handle(handler)
    await bench.producer().enqueue("note", Note())
    async with working(bench.worker(visibility_seconds=5)):
        await asyncio.wait_for(started.wait(), 10)
        await asyncio.to_thread(purge, bench)
        await asyncio.wait_for(cancelled.wait(), 10)

    assert bench.local.stats()["tasks"]["deleted"] == 0


async def test_a_finished_task_is_not_run_again(bench: Bench) -> None:
    """A second copy of the message is deleted without a run."""
    runs: list[str] = []

    async def handler(note: Note) -> None:
        runs.append(note.text)

    bench.handle(handler)
    task = await bench.producer().enqueue("note", Note())
    [copy] = await receive(bench)
    await bench.sqs.send(bench.local.queue_url("tasks"), copy, attributes={})
    async with working(bench.worker()):
        await bench.ended(task.id)
        await bench.sqs.send(bench.local.queue_url("tasks"), copy, attributes={})
        await gone(bench)

    assert runs == ["hello"]


async def test_stop_finishes_what_is_in_hand(bench: Bench) -> None:
    """stop() lets the handler finish, deletes the message and reports it."""
    started, go = asyncio.Event(), asyncio.Event()

    async def handler(note: Note) -> None:
        started.set()
        await go.wait()

    bench.handle(handler)
    task = await bench.producer().enqueue("note", Note())
    report = await stopped(bench.worker(), started, go.set)

    stored = await bench.store.get(task.id)
    assert (report.acked, report.released, report.abandoned) == (1, 0, 0)
    assert stored is not None
    assert stored.status is TaskStatus.SUCCEEDED
    assert bench.local.stats()["tasks"]["deleted"] == 1


async def test_stop_gives_back_what_does_not_finish(bench: Bench) -> None:
    """After the drain time the message is visible at once, and no failure is counted."""
    started = asyncio.Event()

    async def handler(note: Note) -> None:
        started.set()
        await asyncio.Event().wait()

    bench.handle(handler)
    await bench.producer().enqueue("note", Note())
    report = await stopped(bench.worker(drain_seconds=0.1), started)

    assert (report.acked, report.released, report.abandoned) == (0, 1, 0)
    assert bench.local.stats()["tasks"]["visible"] == 1
    assert bench.reports == []


async def test_a_second_stop_gives_back_at_once(bench: Bench) -> None:
    """A second signal does not wait for the drain time."""
    started = asyncio.Event()

    async def handler(note: Note) -> None:
        started.set()
        await asyncio.Event().wait()

    bench.handle(handler)
    await bench.producer().enqueue("note", Note())
    worker = bench.worker(drain_seconds=60)
    report = await stopped(worker, started, worker.stop)

    assert report.released == 1


async def test_an_idle_worker_stops_within_three_seconds(bench: Bench) -> None:
    """A parked long poll does not hold up the stop, and swallows nothing afterwards."""
    worker = bench.worker(wait_seconds=20)
    running = asyncio.create_task(worker.run())
    await until(stats(bench), lambda queue: queue["in_flight"] == 0)
    await until(
        health(worker), lambda ready: ready["queue"] or worker._consumers[0]._pollers is not None
    )

    begun = time.monotonic()
    worker.stop()
    report = await asyncio.wait_for(running, 10)

    assert time.monotonic() - begun < 3
    assert report.acked == 0


async def test_a_message_of_another_store_makes_it_not_ready(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """A task that is not in our store is not run: the worker says so and is not ready."""
    runs: list[str] = []

    async def handler(note: Note) -> None:
        runs.append(note.text)

    bench.handle(handler)
    await bench.producer(store=None).enqueue("note", Note())
    worker = bench.worker()
    async with working(worker):
        await until(health(worker), lambda ready: ready["task_store"] is False)

    assert runs == []
    assert "task.unknown" in [record.message for record in caplog.records]


async def test_a_message_whose_task_was_taken_back_is_not_run(bench: Bench) -> None:
    """Its send looked like a failure and was none: it goes, and the worker stays ready."""
    runs: list[str] = []

    async def handler(note: Note) -> None:
        runs.append(note.text)

    bench.handle(handler)
    task = await bench.producer().enqueue("note", Note())
    await bench.store.forget(task.id)
    worker = bench.worker()
    async with working(worker):
        await gone(bench)
        ready = worker.health()

    assert (runs, ready["task_store"]) == ([], True)


async def test_many_messages_are_each_handled_once(bench: Bench) -> None:
    """Two hundred messages, ten at a time: each runs once and is deleted; nothing is left open."""
    seen: list[int] = []

    async def handler(note: Note) -> None:
        await asyncio.sleep(0)
        seen.append(note.number)

    bench.handle(handler)
    producer = bench.producer()
    for number in range(200):
        await producer.enqueue("note", Note(number=number))
    worker = bench.worker()
    async with working(worker):
        await gone(bench)

    assert sorted(seen) == list(range(200))
    assert worker.in_hand == 0
    assert not trace.get_current_span().get_span_context().is_valid


def policy(**changes: Any) -> Any:
    """A quick retry policy."""
    from tracebaton.queue.retry import RetryPolicy

    return RetryPolicy(**{"base_seconds": 0.01, "cap_seconds": 0.01} | changes)


def stats(bench: Bench) -> Callable[[], Any]:
    """Ask what the queue counts."""

    async def ask() -> Any:
        return bench.local.stats()["tasks"]

    return ask


def health(worker: Any) -> Callable[[], Any]:
    """Ask what the worker says of itself."""

    async def ask() -> Any:
        return worker.health()

    return ask


async def gone(bench: Bench) -> None:
    """Wait until the queue is empty."""
    await until(stats(bench), lambda queue: queue["visible"] == queue["in_flight"] == 0)


def purge(bench: Bench) -> None:
    """Delete everything, as an operator may."""
    client = boto3.client(
        "sqs",
        endpoint_url=bench.local.url,
        region_name="us-east-1",
        aws_access_key_id="x",
        aws_secret_access_key="x",
    )
    client.purge_queue(QueueUrl=bench.local.queue_url("tasks"))
    client.close()


async def receive(bench: Bench) -> list[str]:
    """Take every message out of the queue and return the bodies."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Future[Any] = loop.create_future()

    def deliver(messages: Any) -> bool:
        loop.call_soon_threadsafe(arrived.set_result, messages)
        return True

    url = bench.local.queue_url("tasks")
    bench.sqs.poll(url, most=10, wait_seconds=1, visibility_seconds=30, deliver=deliver)
    messages = await arrived
    await bench.sqs.delete(url, [message.receipt_handle for message in messages])
    return [message.body for message in messages]

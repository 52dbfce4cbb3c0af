"""While a handler runs: its progress is seen, and its task can be cancelled from elsewhere."""

import asyncio
import contextlib
import threading
from pathlib import Path
from typing import Any

import pytest

from tracebaton import progress
from tracebaton.errors import StoreUnavailable
from tracebaton.tasks import TaskQuery, TaskStatus
from tracebaton.tasks.progress import MESSAGE_LIMIT
from tracebaton.tasks.sqlite import SqliteTaskStore

from .conftest import Bench, Note, until, working


async def told(bench: Bench, task_id: str) -> list[tuple[int, str | None]]:
    """Return the progress that stands in the task's history."""
    return [
        (change.task.progress, change.task.progress_message)
        for change in await bench.store.history(task_id, limit=1_000)
        if change.kind == "progress"
    ]


async def ran(bench: Bench) -> str:
    """Run a task of the one handler and return its id."""
    task = await bench.producer().enqueue("note", Note())
    async with working(bench.worker()):
        await bench.ended(task.id)
    return task.id


async def test_progress_is_written_in_order(bench: Bench) -> None:
    """Clamped and rounded; a lower one is ignored; what was awaited is there."""
    seen: list[Any] = []

    async def handler(note: Note) -> None:
        for percent, message in ((-5, None), (12.6, "a"), (5, "back"), (40, "b"), (400, "c")):
            await progress(percent, message)
        [task] = (await bench.store.list(TaskQuery())).tasks
        seen.append((task.progress, task.progress_message, task.status.value))

    bench.handle(handler)
    task_id = await ran(bench)

    assert await told(bench, task_id) == [(13, "a"), (40, "b"), (100, "c")]
    assert seen == [(100, "c", "running")]


async def test_a_thread_reports_without_waiting(bench: Bench) -> None:
    """The last word is written before the task ends."""

    def handler(note: Note) -> None:
        for percent in range(0, 91, 10):
            progress(percent, f"step {percent}")

    bench.handle(handler)
    history = await told(bench, await ran(bench))

    assert history[-1] == (90, "step 90")
    assert history == sorted(history)


async def test_nobody_has_to_wait(bench: Bench) -> None:
    """A loop that never awaits writes as fast as the store takes it, the latest in any case."""

    async def handler(note: Note) -> None:
        for number in range(10_000):
            progress(number / 100, f"line {number}")
            if number % 100 == 0:
                await asyncio.sleep(0)

    bench.handle(handler)
    history = await told(bench, await ran(bench))

    assert history[-1] == (100, "line 9999")
    assert 0 < len(history) < 1_000


async def test_a_failing_handler_has_said_how_far_it_came(bench: Bench) -> None:
    """Also where it did not wait; the next attempt starts over."""

    async def handler(note: Note) -> None:
        progress(70)
        raise LookupError

    bench.handle(handler)
    history = await told(bench, await ran(bench))

    assert history == [(70, None)] * bench.attempts


async def test_outside_a_task_nothing_happens(bench: Bench) -> None:
    """In a route, in a test, in what runs on behind its handler, and for what is no number."""
    left: list[asyncio.Task[None]] = []
    over = asyncio.Event()

    async def behind() -> None:
        await over.wait()
        await progress(90, "too late")

    async def handler(note: Note) -> None:
        left.append(asyncio.create_task(behind()))
        await progress(float("nan"))
        await progress(10)

    bench.handle(handler)
    await progress(50)
    task_id = await ran(bench)
    over.set()
    await left[0]

    assert await told(bench, task_id) == [(10, None)]


async def test_a_message_is_a_line(bench: Bench) -> None:
    """A longer one is cut, and half a character costs nothing."""

    async def handler(note: Note) -> None:
        await progress(1, "x" * 10_000)
        await progress(2, "\ud83d")

    bench.handle(handler)
    history = await told(bench, await ran(bench))

    assert history == [(1, "x" * (MESSAGE_LIMIT - 1) + "…"), (2, "?")]


async def test_progress_is_a_log_line(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not each one, and the last percent whenever it comes."""
    clock = [0.0]
    monkeypatch.setattr("tracebaton.tasks.progress.monotonic", lambda: clock[0])
    monkeypatch.setattr("tracebaton.tasks.progress.LINE_EVERY", 3600)  # no timer rings in between

    async def handler(note: Note) -> None:
        for hours, percent in ((0, 10), (0.9, 20), (1.1, 30), (1.2, 100), (1.3, 100)):
            clock[0] = hours * 3600
            await progress(percent, f"at {hours}")

    bench.handle(handler)
    with caplog.at_level("INFO", "tracebaton.worker"):
        await ran(bench)
    lines = [vars(record) for record in caplog.records if record.message == "task.progress"]

    assert [line["fields"] for line in lines] == [
        {"percent": 10, "message": "at 0"},
        {"percent": 30, "message": "at 1.1"},
        {"percent": 100, "message": "at 1.2"},
        {"percent": 100, "message": "at 1.3"},
    ]


async def test_the_latest_progress_is_said_though_it_came_too_soon(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler may go on for an hour without another word."""
    monkeypatch.setattr("tracebaton.tasks.progress.LINE_EVERY", 0.1)

    async def said() -> list[int]:
        records = (vars(record) for record in caplog.records if record.message == "task.progress")
        return [record["fields"]["percent"] for record in records]

    async def handler(note: Note) -> None:
        await progress(10)
        progress(20)
        await progress(30)
        await until(said, lambda percents: 30 in percents)

    bench.handle(handler)
    with caplog.at_level("INFO", "tracebaton.worker"):
        await ran(bench)
    percents = await said()

    assert percents[0] == 10
    assert percents.count(30) == 1


async def test_a_store_that_is_away_fails_no_handler(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Progress is lost, the task is not."""

    class Deaf(SqliteTaskStore):
        async def progress(self, task_id: str, **options: Any) -> None:
            raise StoreUnavailable

    async def handler(note: Note) -> None:
        await progress(50)

    bench.handle(handler)
    deaf = Deaf(tmp_path / "tasks.db")
    task = await bench.producer().enqueue("note", Note())
    async with working(bench.worker(store=deaf)):
        ended = await bench.ended(task.id)
    await deaf.close()

    assert ended.status == "succeeded"
    assert "task_store.failed" in [record.message for record in caplog.records]


async def test_without_a_store_progress_is_nobodys(bench: Bench) -> None:
    """A worker that keeps no tasks has nowhere to write it."""
    done = asyncio.Event()

    async def handler(note: Note) -> None:
        await progress(50)
        done.set()

    bench.handle(handler)
    await bench.producer(store=None).enqueue("note", Note())
    async with working(bench.worker(store=None)):
        await asyncio.wait_for(done.wait(), 10)
        await bench.holds(0)


async def test_a_cancelled_task_stops_its_handler(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Another process cancels it: the handler is cancelled, nothing fails, the message goes."""
    caplog.set_level("INFO")
    other = SqliteTaskStore(tmp_path / "tasks.db")
    stopped, started = asyncio.Event(), asyncio.Event()

    async def handler(note: Note) -> None:
        started.set()
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            stopped.set()
            raise

    bench.handle(handler)
    task = await bench.producer().enqueue("note", Note())
    async with working(bench.worker()):
        await asyncio.wait_for(started.wait(), 10)
        assert await other.cancel(task.id)
        await asyncio.wait_for(stopped.wait(), 10)
        await bench.holds(0)
        span = await bench.spanned("process tasks")
    ended = await bench.store.get(task.id)
    await other.close()

    assert ended is not None
    assert (ended.status, ended.attempt, ended.failures) == ("cancelled", 1, ())
    assert span.attributes["tracebaton.task.status"] == "cancelled"
    assert span.status.is_unset
    assert bench.reports == []
    assert bench.count("tasks-dlq") == 0
    assert [r.levelname for r in caplog.records if r.message == "task.cancelled"] == ["INFO"]


async def test_a_cancelled_thread_is_left_behind(bench: Bench) -> None:
    """It cannot be stopped; what it returns is not taken."""
    started, over = threading.Event(), threading.Event()

    def handler(note: Note) -> str:
        started.set()
        over.wait(30)
        return "too late"

    bench.handle(handler)
    task = await bench.producer().enqueue("note", Note())
    async with working(bench.worker()):
        await asyncio.to_thread(started.wait, 10)
        await bench.store.cancel(task.id)
        await bench.holds(0)
        over.set()
    ended = await bench.store.get(task.id)

    assert ended is not None
    assert (ended.status, ended.result) == ("cancelled", None)


async def test_a_handler_that_will_not_stop_is_not_believed(bench: Bench) -> None:
    """It swallows the cancellation and returns: the task stays cancelled."""
    started = asyncio.Event()

    async def handler(note: Note) -> str:
        started.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(600)
        return "all the same"

    bench.handle(handler)
    task = await bench.producer().enqueue("note", Note())
    async with working(bench.worker()):
        await asyncio.wait_for(started.wait(), 10)
        await bench.store.cancel(task.id)
        await bench.holds(0)
    ended = await bench.store.get(task.id)

    assert ended is not None
    assert (ended.status, ended.result) == ("cancelled", None)


async def test_a_task_that_is_cancelled_in_the_queue_never_runs(bench: Bench) -> None:
    """Its message is deleted when it comes."""
    runs: list[Note] = []
    bench.handle(runs.append)
    task = await bench.producer().enqueue("note", Note())
    await bench.store.cancel(task.id)
    async with working(bench.worker()):
        await bench.holds(0)

    assert runs == []


async def test_a_store_that_is_away_cancels_nobody(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The watch goes on, and the cancellation is seen when the store is back."""
    started = asyncio.Event()

    class Flaky(SqliteTaskStore):
        looks = 0

        async def glimpse(self, task_ids: Any) -> Any:
            self.looks += 1
            if self.looks == 1:
                raise StoreUnavailable
            return await super().glimpse(task_ids)

    async def handler(note: Note) -> None:
        started.set()
        await asyncio.sleep(600)

    bench.handle(handler)
    flaky = Flaky(tmp_path / "tasks.db")
    task = await bench.producer().enqueue("note", Note())
    async with working(bench.worker(store=flaky)):
        await asyncio.wait_for(started.wait(), 10)
        await bench.store.cancel(task.id)
        await bench.holds(0)

        async def looks() -> int:
            return flaky.looks

        await until(looks, lambda count: bool(count >= 2))
    await flaky.close()

    ended = await bench.store.get(task.id)
    assert ended is not None
    assert ended.status is TaskStatus.CANCELLED
    assert "task_store.failed" in [record.message for record in caplog.records]

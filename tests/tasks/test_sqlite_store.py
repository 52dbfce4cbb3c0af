"""The task store's promises, on SQLite."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tracebaton.errors import ResultTooLarge, StoreUnavailable
from tracebaton.tasks import Task, TaskStatus
from tracebaton.tasks.sqlite import RESULT_LIMIT, SqliteTaskStore


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteTaskStore]:
    """An empty store."""
    opened = SqliteTaskStore(tmp_path / "deep" / "tasks.db", now=lambda: 1000.0)
    yield opened
    await opened.close()


def queued(task_id: str = "t-1") -> Task:
    """A new task."""
    return Task(
        id=task_id,
        type="ai.chat",
        user_id="u-1",
        correlation_id="c-1",
        trace_id="a" * 32,
        created_at=900.0,
        updated_at=900.0,
    )


async def test_a_task_is_kept_whole(store: SqliteTaskStore) -> None:
    """What was saved comes back equal."""
    await store.create(queued())

    assert await store.get("t-1") == queued()


async def test_an_unknown_task_is_none(store: SqliteTaskStore) -> None:
    """Neither get nor start invents a task."""
    assert await store.get("nope") is None
    assert await store.start("nope", attempt=1) is None


async def test_success_ends_the_task_with_its_result(store: SqliteTaskStore) -> None:
    """start and finish lead to succeeded, with progress 100."""
    await store.create(queued())
    await store.start("t-1", attempt=1)

    ended = await store.finish("t-1", TaskStatus.SUCCEEDED, attempt=1, result={"reply": "hi"})

    task = await store.get("t-1")
    assert ended
    assert task is not None
    assert (task.status, task.result, task.progress) == ("succeeded", {"reply": "hi"}, 100)
    assert (task.started_at, task.ended_at) == (1000.0, 1000.0)


async def test_an_ended_task_never_changes(store: SqliteTaskStore) -> None:
    """A second end, a retry, a progress and a start leave it as it is."""
    await store.create(queued())
    await store.start("t-1", attempt=1)
    await store.finish("t-1", TaskStatus.FAILED, attempt=1, error={"code": "rejected"})
    before = await store.get("t-1")

    assert not await store.finish("t-1", TaskStatus.SUCCEEDED, attempt=1)
    assert not await store.retry("t-1", attempt=1, failure=None)
    await store.progress("t-1", attempt=1, percent=50)
    assert await store.start("t-1", attempt=2) == before
    assert await store.get("t-1") == before


async def test_a_late_attempt_cannot_end_a_newer_one(store: SqliteTaskStore) -> None:
    """A worker that lost its lease writes nothing over its successor."""
    await store.create(queued())
    await store.start("t-1", attempt=1)
    await store.start("t-1", attempt=2)

    assert not await store.finish("t-1", TaskStatus.SUCCEEDED, attempt=1, result="late")
    assert await store.finish("t-1", TaskStatus.SUCCEEDED, attempt=2, result="right")


async def test_success_needs_a_running_task(store: SqliteTaskStore) -> None:
    """queued to succeeded is no allowed transition."""
    await store.create(queued())

    assert not await store.finish("t-1", TaskStatus.SUCCEEDED, attempt=0)


async def test_failed_attempts_are_listed(store: SqliteTaskStore) -> None:
    """Each retry adds its failure; giving an attempt back adds none."""
    await store.create(queued())
    for attempt in (1, 2):
        await store.start("t-1", attempt=attempt)
        await store.retry("t-1", attempt=attempt, failure={"attempt": attempt})
    await store.start("t-1", attempt=3)
    await store.retry("t-1", attempt=3, failure=None)

    task = await store.get("t-1")
    assert task is not None
    assert task.failures == ({"attempt": 1}, {"attempt": 2})
    assert task.status is TaskStatus.QUEUED


async def test_progress_only_rises(store: SqliteTaskStore) -> None:
    """A lower value, and one of an older attempt, are ignored."""
    await store.create(queued())
    await store.start("t-1", attempt=2)
    await store.progress("t-1", attempt=2, percent=40)
    await store.progress("t-1", attempt=2, percent=10)
    await store.progress("t-1", attempt=1, percent=90)

    task = await store.get("t-1")
    assert task is not None
    assert task.progress == 40


async def test_forget_takes_back_only_what_never_ran(store: SqliteTaskStore) -> None:
    """A task that a worker has seen stays."""
    await store.create(queued("sent"))
    await store.start("sent", attempt=1)
    await store.create(queued("unsent"))

    await store.forget("sent")
    await store.forget("unsent")

    assert await store.get("sent") is not None
    assert await store.get("unsent") is None


async def test_a_large_result_is_refused_by_name(store: SqliteTaskStore) -> None:
    """256 KiB fit; a byte more names size and limit."""
    await store.create(queued())
    await store.start("t-1", attempt=1)

    with pytest.raises(ResultTooLarge, match=str(RESULT_LIMIT)):
        await store.finish("t-1", TaskStatus.SUCCEEDED, attempt=1, result="x" * RESULT_LIMIT)
    assert await store.finish(
        "t-1", TaskStatus.SUCCEEDED, attempt=1, result="x" * (RESULT_LIMIT - 2)
    )


async def test_a_store_that_is_away_says_so_and_recovers(tmp_path: Path) -> None:
    """A path that cannot be opened raises ours; once it can, the same store works."""
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    store = SqliteTaskStore(blocked / "tasks.db")
    with pytest.raises(StoreUnavailable):
        await store.check()

    blocked.unlink()
    await store.create(queued())

    assert await store.get("t-1") == queued()
    await store.close()


async def test_a_damaged_file_is_a_clear_error(tmp_path: Path) -> None:
    """Bytes that are no database raise ours, not sqlite3's."""
    path = tmp_path / "tasks.db"
    path.write_bytes(b"not a database at all" * 100)
    store = SqliteTaskStore(path)

    with pytest.raises(StoreUnavailable):
        await store.get("t-1")
    await store.close()


_RACER = """
import asyncio, sys
from pathlib import Path
from tracebaton.tasks import TaskStatus
from tracebaton.tasks.sqlite import SqliteTaskStore

async def run():
    store = SqliteTaskStore(Path(sys.argv[1]))
    for number in range(50):
        if await store.finish(f"t-{number}", TaskStatus.SUCCEEDED, attempt=1, result=1):
            print(number)
    await store.close()

asyncio.run(run())
"""


async def test_several_processes_end_each_task_once(tmp_path: Path) -> None:
    """Four processes race for fifty tasks: each is won exactly once."""
    path = tmp_path / "tasks.db"
    store = SqliteTaskStore(path)
    for number in range(50):
        await store.create(queued(f"t-{number}"))
        await store.start(f"t-{number}", attempt=1)
    await store.close()
    racers = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", _RACER, str(path), stdout=asyncio.subprocess.PIPE
        )
        for _ in range(4)
    ]
    outputs = await asyncio.gather(*(racer.communicate() for racer in racers))

    winners = [int(number) for output, _ in outputs for number in output.split()]
    assert sorted(winners) == list(range(50))

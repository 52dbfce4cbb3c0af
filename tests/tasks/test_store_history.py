"""Every store: what a task went through, in order, and what of it is news."""

from typing import Any

import pytest

from tracebaton.tasks import HISTORY_LIMIT, Glimpse, TaskStatus, TaskStore

NOW = 1_000.0


async def told(store: TaskStore, task_id: str = "t-1") -> list[tuple[Any, ...]]:
    """Return the history in short."""
    return [
        (one.number, one.kind, one.task.status.value, one.task.attempt, one.task.progress)
        for one in await store.history(task_id)
    ]


async def test_the_whole_life_is_told(store: TaskStore, queued: Any, clock: Any) -> None:
    """Each entry shows the task as it was then; the last one is the task as it is."""
    await store.create(queued())
    await store.start("t-1", attempt=1)
    await store.progress("t-1", attempt=1, percent=40, message="half way")
    await store.retry("t-1", attempt=1, failure={"attempt": 1})
    clock.time = NOW + 5
    await store.start("t-1", attempt=2)
    await store.progress("t-1", attempt=2, percent=10)
    await store.finish("t-1", TaskStatus.SUCCEEDED, attempt=2, result=[1])
    history = await store.history("t-1")

    assert await told(store) == [
        (1, "status", "queued", 0, 0),
        (2, "status", "running", 1, 0),
        (3, "progress", "running", 1, 40),
        (4, "status", "queued", 1, 40),
        (5, "status", "running", 2, 0),
        (6, "progress", "running", 2, 10),
        (7, "status", "succeeded", 2, 100),
        (8, "result", "succeeded", 2, 100),
    ]
    assert [one.task.result for one in history] == [None] * 6 + [[1], [1]]
    assert [one.task.progress_message for one in history[1:5]] == [
        None,
        "half way",
        "half way",
        None,
    ]
    assert [one.task.updated_at for one in history] == [NOW - 1, *[NOW] * 3, *[NOW + 5] * 4]
    assert all(one.task.changes == one.number for one in history)
    last = await store.get("t-1")
    assert last is not None
    assert history[-1].task.resource() == last.resource()


@pytest.mark.parametrize("status", [TaskStatus.FAILED, TaskStatus.DEAD])
async def test_a_failure_ends_with_its_error(
    store: TaskStore, queued: Any, status: TaskStatus
) -> None:
    """The error stays where it was when the task runs again."""
    await store.create(queued())
    await store.start("t-1", attempt=1)
    await store.finish("t-1", status, attempt=1, error={"code": "internal"})
    await store.reopen("t-1")
    history = await store.history("t-1")

    assert [one.kind for one in history] == ["status", "status", "status", "error", "status"]
    assert [one.task.error for one in history] == [
        None,
        None,
        {"code": "internal"},
        {"code": "internal"},
        None,
    ]
    assert history[-1].task.status == "queued"


async def test_it_goes_on_where_somebody_stopped(store: TaskStore, queued: Any) -> None:
    """After a number, and no more than were asked for."""
    await store.create(queued())
    await store.start("t-1", attempt=1)
    for percent in range(1, 8):
        await store.progress("t-1", attempt=1, percent=percent)

    assert [one.number for one in await store.history("t-1", after=3, limit=4)] == [4, 5, 6, 7]
    assert [one.number for one in await store.history("t-1", after=7)] == [8, 9]
    assert await store.history("t-1", after=9) == []
    assert await store.history("t-1", after=999) == []


async def test_progress_only_rises(store: TaskStore, queued: Any) -> None:
    """A lower value, and one of an older attempt, are ignored; a new message is news."""
    await store.create(queued())
    await store.progress("t-1", attempt=0, percent=5)
    await store.start("t-1", attempt=2)
    for percent, message in ((40, "a"), (40, "a"), (10, "b"), (40, "c"), (41, None)):
        await store.progress("t-1", attempt=2, percent=percent, message=message)
    await store.progress("t-1", attempt=1, percent=90)

    assert [
        (one.task.progress, one.task.progress_message)
        for one in await store.history("t-1", after=2)
    ] == [(40, "a"), (40, "c"), (41, None)]


async def test_a_talkative_handler_fills_no_store(store: TaskStore, queued: Any) -> None:
    """Beyond the limit progress is seen on the task alone; how it ends is told all the same."""
    await store.create(queued())
    await store.start("t-1", attempt=1)
    for number in range(HISTORY_LIMIT + 5):
        await store.progress("t-1", attempt=1, percent=50, message=f"line {number}")
    task = await store.get("t-1")
    await store.finish("t-1", TaskStatus.FAILED, attempt=1, error={})
    rest = await store.history("t-1", after=HISTORY_LIMIT - 1)

    assert task is not None
    assert (task.changes, task.progress_message) == (HISTORY_LIMIT, f"line {HISTORY_LIMIT + 4}")
    assert [(one.number - HISTORY_LIMIT, one.kind) for one in rest] == [
        (0, "progress"),
        (1, "status"),
        (2, "error"),
    ]


async def test_a_glimpse_tells_whether_there_is_news(stores: Any, queued: Any) -> None:
    """Another process's changes included; what is not there is left out."""
    store, other = stores.open(), stores.open()
    await store.create(queued("a"))
    await store.create(queued("b"))
    await store.create(queued("gone"))
    await store.forget("gone")
    first = await store.glimpse(["a", "b", "gone", "unknown"])
    await other.start("b", attempt=1)
    second = await store.glimpse({"b"})

    assert first == {"a": Glimpse(TaskStatus.QUEUED, 1), "b": Glimpse(TaskStatus.QUEUED, 1)}
    assert second == {"b": Glimpse(TaskStatus.RUNNING, 2)}
    assert await store.glimpse([]) == {}
    assert store.poll_seconds > 0


async def test_many_can_be_glimpsed_at_once(store: TaskStore, queued: Any) -> None:
    """More than a store takes in one call of its own."""
    for number in range(250):
        await store.create(queued(f"t-{number}"))

    assert len(await store.glimpse([f"t-{number}" for number in range(300)])) == 250

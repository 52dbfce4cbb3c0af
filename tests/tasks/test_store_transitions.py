"""Every store: what a task may become, and what it never does."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from tracebaton.errors import ResultTooLarge, StoreUnavailable
from tracebaton.tasks import ENDED, RESULT_LIMIT, TRANSITIONS, Task, TaskStatus, TaskStore

Queued = Callable[..., Task]
NOW = 1_000.0


async def test_a_task_is_kept_whole(store: TaskStore, queued: Queued) -> None:
    """What was saved comes back equal; its creation is the first entry of its history."""
    task = queued(parent_task_id="p-1")
    await store.create(task)

    assert await store.get("t-1") == replace(task, changes=1)


async def test_an_unknown_task_is_none(store: TaskStore) -> None:
    """Neither get nor start invents a task, and nothing can be done to one."""
    assert await store.get("nope") is None
    assert await store.start("nope", attempt=1) is None
    assert not await store.cancel("nope")
    assert not await store.forget("nope")
    assert await store.history("nope") == ()


async def test_success_ends_the_task_with_its_result(store: TaskStore, queued: Queued) -> None:
    """start and finish lead to succeeded, with progress 100."""
    await store.create(queued())
    await store.start("t-1", attempt=1)

    ended = await store.finish("t-1", TaskStatus.SUCCEEDED, attempt=1, result={"reply": "hi"})

    task = await store.get("t-1")
    assert ended
    assert task is not None
    assert (task.status, task.result, task.progress) == ("succeeded", {"reply": "hi"}, 100)
    assert (task.started_at, task.ended_at, task.updated_at) == (NOW, NOW, NOW)


async def test_a_late_attempt_cannot_end_a_newer_one(store: TaskStore, queued: Queued) -> None:
    """A worker that lost its lease writes nothing over its successor."""
    await store.create(queued())
    await store.start("t-1", attempt=1)
    await store.start("t-1", attempt=2)

    assert not await store.finish("t-1", TaskStatus.SUCCEEDED, attempt=1, result="late")
    assert not await store.retry("t-1", attempt=1, failure=None)
    assert await store.finish("t-1", TaskStatus.SUCCEEDED, attempt=2, result="right")


async def test_failed_attempts_are_listed(store: TaskStore, queued: Queued) -> None:
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


Act = Callable[[TaskStore], Awaitable[Any]]


def finish_as(status: TaskStatus) -> Act:
    """End the task of attempt 1."""
    return lambda store: store.finish("t-1", status, attempt=1, result=None)


#: What leads a new task to each state.
PATHS: Mapping[TaskStatus, tuple[Act, ...]] = {
    TaskStatus.QUEUED: (),
    TaskStatus.RUNNING: (lambda store: store.start("t-1", attempt=1, owner="m"),),
    **{
        status: (
            lambda store: store.start("t-1", attempt=1, owner="m"),
            finish_as(status),
        )
        for status in ENDED
    },
}
#: Everything that changes a state, and the state it is for. The task is given back by attempt 1.
ACTS: Mapping[str, tuple[TaskStatus, Act]] = {
    "start": (TaskStatus.RUNNING, lambda store: store.start("t-1", attempt=2, owner="m")),
    "redriven": (
        TaskStatus.RUNNING,
        lambda store: store.start("t-1", attempt=1, owner="n", sent_at=NOW + 1),
    ),
    "retry": (TaskStatus.QUEUED, lambda store: store.retry("t-1", attempt=1, failure=None)),
    "reopen": (TaskStatus.QUEUED, lambda store: store.reopen("t-1")),
    "reap": (TaskStatus.QUEUED, lambda store: store.reap(lease_before=NOW + 1)),
    "cancel": (TaskStatus.CANCELLED, lambda store: store.cancel("t-1")),
    "abandon": (TaskStatus.DEAD, lambda store: store.abandon(untouched_since=NOW + 1, error={})),
    **{f"finish {status}": (status, finish_as(status)) for status in ENDED},
}
#: The acts that each state allows; every other leaves the task as it is, byte by byte.
ALLOWED: Mapping[TaskStatus, set[str]] = {
    TaskStatus.QUEUED: {"start", "redriven", "cancel", "abandon"},
    TaskStatus.RUNNING: {
        "start",
        "redriven",  # nobody said how long the first one's lease is
        "retry",
        "cancel",
        *(f"finish {status}" for status in ENDED),
    },
    TaskStatus.SUCCEEDED: set(),
    TaskStatus.FAILED: {"reopen"},
    TaskStatus.DEAD: {"reopen", "redriven"},
    TaskStatus.CANCELLED: set(),
}


@pytest.mark.parametrize("name", ACTS)
@pytest.mark.parametrize("status", list(TaskStatus))
async def test_only_allowed_transitions_happen(
    store: TaskStore, queued: Queued, status: TaskStatus, name: str
) -> None:
    """Every state by every act: it leads where it should, or changes nothing."""
    await store.create(queued())
    for act in PATHS[status]:
        await act(store)
    before = await store.get("t-1")
    wanted, act = ACTS[name]
    await act(store)
    after = await store.get("t-1")

    assert before is not None
    assert after is not None
    assert before.status == status
    if name in ALLOWED[status]:
        assert after.status == wanted
        assert status in TRANSITIONS[wanted]
        assert after.changes > before.changes
    else:
        assert after == before


async def test_success_needs_a_running_task(store: TaskStore, queued: Queued) -> None:
    """queued to succeeded is no allowed transition."""
    await store.create(queued())

    assert not await store.finish("t-1", TaskStatus.SUCCEEDED, attempt=0)


async def test_a_large_result_is_refused_by_name(store: TaskStore, queued: Queued) -> None:
    """256 KiB fit; a byte more names size and limit."""
    await store.create(queued())
    await store.start("t-1", attempt=1)
    largest = "x" * (RESULT_LIMIT - 2)

    with pytest.raises(ResultTooLarge, match=str(RESULT_LIMIT)):
        await store.finish("t-1", TaskStatus.SUCCEEDED, attempt=1, result="x" * RESULT_LIMIT)
    assert await store.finish("t-1", TaskStatus.SUCCEEDED, attempt=1, result=largest)
    task = await store.get("t-1")
    assert task is not None
    assert task.result == largest


async def test_one_of_many_ends_the_task(stores: Any, queued: Queued) -> None:
    """Whoever cancels, finishes and retries at once: one of them wins, and the history is whole."""
    store = stores.open()
    others = [stores.open() for _ in range(3)]
    for number in range(20):
        task_id = f"t-{number}"
        await store.create(queued(task_id))
        await store.start(task_id, attempt=1)
        won = await asyncio.gather(
            store.finish(task_id, TaskStatus.SUCCEEDED, attempt=1, result="done"),
            others[0].cancel(task_id),
            others[1].finish(task_id, TaskStatus.DEAD, attempt=1, error={"code": "internal"}),
            others[2].cancel(task_id),
        )
        history = await store.history(task_id)
        task = await store.get(task_id)

        assert sum(won) == 1
        assert task is not None
        assert [change.number for change in history] == list(range(1, len(history) + 1))
        assert history[-1].task.status == task.status
        assert len(history) == task.changes


async def test_a_task_may_be_there_already(store: TaskStore, queued: Queued) -> None:
    """A redelivered foreign message finds its own; anyone else's id is a mistake."""
    await store.create(queued())
    await store.create(queued(type="other"), exist_ok=True)
    with pytest.raises(StoreUnavailable):
        await store.create(queued(type="other"))

    kept = await store.get("t-1")
    assert kept is not None
    assert (kept.type, kept.changes) == ("ai.chat", 1)


async def test_cancelling_ends_what_has_not_ended(store: TaskStore, queued: Queued) -> None:
    """Queued or running; once; and what its worker brings afterwards is not taken."""
    await store.create(queued())
    await store.start("t-1", attempt=1, owner="m1")
    first = await store.cancel("t-1")
    second = await store.cancel("t-1")
    late = await store.finish("t-1", TaskStatus.SUCCEEDED, attempt=1, result="late")
    again = await store.start("t-1", attempt=2, owner="m1")

    assert (first, second, late) == (True, False, False)
    assert again is not None
    assert (again.status, again.ended_at, again.result) == ("cancelled", NOW, None)


async def test_abandoned_tasks_are_dead(store: TaskStore, queued: Queued, clock: Any) -> None:
    """Only those that waited all the time, and they say why."""
    await store.create(queued("old"))
    await store.create(queued("running"))
    await store.start("running", attempt=1)
    clock.time = NOW + 100
    await store.create(queued("new", created_at=NOW + 100, updated_at=NOW + 100))
    ended = await store.abandon(untouched_since=NOW + 50, error={"code": "message_lost"})
    task = await store.get("old")

    assert [one.id for one in ended] == ["old"]
    assert task == ended[0]
    assert task is not None
    assert (task.status, task.error, task.ended_at) == (
        "dead",
        {"code": "message_lost"},
        NOW + 100,
    )
    assert [change.kind for change in await store.history("old")] == ["status", "status", "error"]

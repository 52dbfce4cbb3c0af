"""Every store: a task and its message, from the save until the message is known to be sent."""

import asyncio
from typing import Any

from tracebaton.tasks import TaskStatus, TaskStore

NOW = 1_000.0


async def waiting(store: TaskStore, older_than: float = 30.0) -> list[tuple[str, str]]:
    """Return what nobody is known to have sent."""
    return [(one.task.id, one.message) for one in await store.unsent(older_than=older_than)]


async def test_a_message_waits_until_it_was_sent(store: TaskStore, queued: Any, clock: Any) -> None:
    """Nothing is due at once; what was sent is forgotten; the rest comes in order."""
    for number in range(4):
        await store.create(queued(f"t-{number}", created_at=float(number)), message=f"m-{number}")
    await store.create(queued("foreign"))
    await store.sent(["t-1", "unknown"])
    at_once = await waiting(store)
    clock.time = NOW + 30
    later = await waiting(store)

    assert at_once == []
    assert later == [("t-0", "m-0"), ("t-2", "m-2"), ("t-3", "m-3")]


async def test_a_message_is_handed_out_to_one(stores: Any, queued: Any, clock: Any) -> None:
    """Two processes that look at the same time share what there is, and have their time for it."""
    store, other = stores.open(), stores.open()
    for number in range(20):
        await store.create(queued(f"t-{number}"), message="m")
    clock.time = NOW + 31
    first, second = await asyncio.gather(
        store.unsent(older_than=30, limit=12), other.unsent(older_than=30, limit=12)
    )
    clock.time = NOW + 60
    meanwhile = await waiting(store)
    clock.time = NOW + 61
    again = await waiting(store)

    found = [one.task.id for one in (*first, *second)]
    assert len(found) == len(set(found)) == 20
    assert meanwhile == []
    assert len(again) == 20


async def test_what_runs_or_ended_is_not_sent(store: TaskStore, queued: Any, clock: Any) -> None:
    """Its message did arrive, or nobody wants it any more."""
    for task_id in ("running", "ended", "cancelled", "waiting", "given-back"):
        await store.create(queued(task_id), message="m")
    for task_id in ("running", "ended", "given-back"):
        await store.start(task_id, attempt=1)
    await store.finish("ended", TaskStatus.SUCCEEDED, attempt=1)
    await store.retry("given-back", attempt=1, failure=None)
    await store.cancel("cancelled")
    clock.time = NOW + 30

    assert await waiting(store) == [("waiting", "m")]


async def test_a_message_may_be_a_megabyte(store: TaskStore, queued: Any, clock: Any) -> None:
    """As large as the queue takes, in any alphabet."""
    message = "é" * (512 * 1024)
    await store.create(queued(), message=message)
    clock.time = NOW + 30

    assert await waiting(store) == [("t-1", message)]


async def test_a_failed_send_is_taken_back(store: TaskStore, queued: Any, clock: Any) -> None:
    """Nobody sees the task; a message that arrives all the same finds nothing to run."""
    await store.create(queued(), message="m")
    forgotten = await store.forget("t-1")
    again = await store.forget("t-1")
    clock.time = NOW + 60
    late = await store.start("t-1", attempt=1, owner="m")

    assert (forgotten, again) == (True, False)
    assert await store.get("t-1") is None
    assert list(await store.history("t-1")) == []
    assert await waiting(store) == []
    assert late is not None
    assert late.status == "cancelled"
    assert not await store.cancel("t-1")


async def test_what_a_worker_has_is_not_taken_back(store: TaskStore, queued: Any) -> None:
    """The send did not fail after all."""
    await store.create(queued("running"), message="m")
    await store.start("running", attempt=1)
    await store.create(queued("back"), message="m")
    await store.start("back", attempt=1)
    await store.retry("back", attempt=1, failure=None)

    assert not await store.forget("running")
    assert not await store.forget("back")
    assert await store.get("running") is not None


async def test_what_ended_long_ago_goes(store: TaskStore, queued: Any, clock: Any) -> None:
    """With all that belongs to it; what runs, waits or ended later stays."""
    for task_id in ("ended", "forgotten", "running", "queued", "late"):
        await store.create(queued(task_id), message="m")
    await store.start("running", attempt=1)
    await store.cancel("ended")
    await store.forget("forgotten")
    clock.time = NOW + 100
    await store.cancel("late")
    removed = await store.purge(ended_before=NOW + 50)
    again = await store.purge(ended_before=NOW + 50)

    assert (removed, again) == (2, 0)
    assert await store.get("ended") is None
    assert await store.start("forgotten", attempt=1) is None
    assert list(await store.history("ended")) == []
    for task_id in ("running", "queued", "late"):
        assert await store.get(task_id) is not None

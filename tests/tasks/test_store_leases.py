"""Every store: who runs a task, and for how long."""

from typing import Any

import pytest

from tracebaton.tasks import Task, TaskStatus, TaskStore

NOW = 1_000.0


@pytest.fixture
async def store(stores: Any, queued: Any) -> TaskStore:
    """Return a store with one queued task, ``t``."""
    opened: TaskStore = stores.open()
    await opened.create(queued("t"))
    return opened


async def owner(store: TaskStore) -> tuple[str | None, float | None, int] | None:
    """Return who runs the task, until when, at which attempt."""
    task = await store.get("t")
    return None if task is None else (task.owner, task.lease_until, task.attempt)


async def test_the_first_owner_runs_it(store: TaskStore) -> None:
    """A copy gets the task as the first one left it."""
    first = await store.start("t", attempt=1, owner="m1", lease_until=NOW + 60)
    copy = await store.start("t", attempt=1, owner="m2", lease_until=NOW + 60)

    assert first == copy
    assert await owner(store) == ("m1", NOW + 60, 1)


async def test_the_same_owner_starts_again(store: TaskStore) -> None:
    """SQS handed its message out once more, so nobody else has it."""
    await store.start("t", attempt=1, owner="m1", lease_until=NOW + 60)
    await store.start("t", attempt=2, owner="m1", lease_until=NOW + 90)

    assert await owner(store) == ("m1", NOW + 90, 2)


@pytest.mark.parametrize("until", [NOW, NOW - 1, None])
async def test_a_lease_that_is_over_protects_nobody(store: TaskStore, until: float | None) -> None:
    """Nor does one that was never told."""
    await store.start("t", attempt=1, owner="m1", lease_until=until)
    await store.start("t", attempt=1, owner="m2", lease_until=NOW + 60)

    assert await owner(store) == ("m2", NOW + 60, 1)


async def test_a_task_that_waits_is_anybodys(store: TaskStore) -> None:
    """Its first owner gave it back."""
    await store.start("t", attempt=1, owner="m1", lease_until=NOW + 60)
    await store.retry("t", attempt=1, failure=None)
    await store.start("t", attempt=1, owner="m2", lease_until=NOW + 60)

    assert await owner(store) == ("m2", NOW + 60, 1)


async def test_only_the_owner_of_what_runs_renews(store: TaskStore) -> None:
    """A late word of another one, or of one that ended, changes nothing."""
    await store.start("t", attempt=1, owner="m1", lease_until=NOW + 60)
    await store.renew({"t": "m1", "unknown": "m1"}, lease_until=NOW + 80)
    await store.renew({"t": "m2"}, lease_until=NOW + 99)
    renewed = await owner(store)
    await store.finish("t", TaskStatus.SUCCEEDED, attempt=1)
    await store.renew({"t": "m1"}, lease_until=NOW + 99)

    assert renewed == await owner(store) == ("m1", NOW + 80, 1)
    assert [change.kind for change in await store.history("t")] == [
        "status",
        "status",
        "status",
        "result",
    ]


async def test_a_dead_task_may_run_again(store: TaskStore) -> None:
    """Its message was redriven from the DLQ: under another id, and its error is history."""
    await store.start("t", attempt=1, owner="m1", lease_until=NOW + 60, traceparent="first")
    await store.finish("t", TaskStatus.DEAD, attempt=1, error={"code": "internal"})
    task = await store.start(
        "t",
        attempt=1,
        owner="m2",
        lease_until=NOW + 60,
        traceparent="second",
        sent_at=NOW + 1,
    )

    assert task is not None
    assert (task.status, task.owner, task.error, task.ended_at) == ("running", "m2", None, None)
    assert (task.previous, task.traceparent) == ("first", "second")


@pytest.mark.parametrize(("owner", "attempt"), [("m1", 1), ("m1", 2), ("m2", 1)])
async def test_a_copy_does_not_run_a_dead_task_again(
    store: TaskStore, owner: str, attempt: int
) -> None:
    """What was sent before it died is no redrive: the same message late, or a second one."""
    await store.start("t", attempt=1, owner="m1")
    await store.finish("t", TaskStatus.DEAD, attempt=1)
    again = await store.start("t", attempt=attempt, owner=owner, sent_at=NOW - 1)
    unknown = await store.start("t", attempt=attempt, owner=owner)

    assert again is not None
    assert unknown is not None
    assert {again.status, unknown.status} == {TaskStatus.DEAD}


async def test_a_dead_task_that_never_ran_starts(store: TaskStore) -> None:
    """It was given up before its message came, which is still the first one."""
    await store.abandon(untouched_since=NOW + 1, error={})
    task = await store.start("t", attempt=1, owner="m1", sent_at=NOW - 1)

    assert task is not None
    assert task.status == "running"


@pytest.mark.parametrize("status", [TaskStatus.FAILED, TaskStatus.DEAD])
async def test_what_failed_can_be_reopened(store: TaskStore, status: TaskStatus) -> None:
    """For a message that is put back into its queue."""
    await store.start("t", attempt=1, owner="m1", lease_until=NOW + 10)
    await store.finish("t", status, attempt=1, error={"code": "internal"})
    reopened = await store.reopen("t")
    task = await store.get("t")

    assert task is not None
    assert (reopened, task.status, task.error, task.ended_at) == (True, "queued", None, None)
    assert (task.owner, task.lease_until, task.attempt) == (None, None, 1)
    assert await store.reopen("t") is False


async def test_what_succeeded_stays(store: TaskStore) -> None:
    """A finished task is not run again."""
    await store.start("t", attempt=1)
    await store.finish("t", TaskStatus.SUCCEEDED, attempt=1)

    assert await store.reopen("t") is False
    assert await store.reopen("unknown") is False


async def test_a_lease_that_ran_out_is_reaped(store: TaskStore, queued: Any) -> None:
    """The task waits again, and whoever comes may run it; a lease that holds is left alone."""
    await store.create(queued("held"))
    await store.start("t", attempt=1, owner="m1", lease_until=NOW + 10)
    await store.start("held", attempt=1, owner="m2", lease_until=NOW + 60)
    reaped = await store.reap(lease_before=NOW + 30)
    again = await store.reap(lease_before=NOW + 30)
    late = await store.finish("t", TaskStatus.SUCCEEDED, attempt=1)
    held = await store.get("held")
    task = await store.start("t", attempt=2, owner="m1", lease_until=NOW + 90)

    assert [(one.id, one.status, one.owner) for one in reaped] == [("t", "queued", None)]
    assert again == []
    assert late is False
    assert isinstance(held, Task)
    assert held.status == "running"
    assert task is not None
    assert (task.status, task.attempt) == ("running", 2)

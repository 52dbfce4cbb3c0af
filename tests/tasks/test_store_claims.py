"""Every store: an idempotency key belongs to one request at a time, and to one answer."""

import asyncio
from typing import Any

import pytest

from tracebaton.errors import Conflict
from tracebaton.tasks import Claim, Claimed, TaskStore

NOW = 1_000.0
FIRST, SECOND = Claim("ann POST /x", "k-1", "first"), Claim("ann POST /x", "k-1", "second")


async def ask(store: TaskStore, claim: Claim, body: str = "b-1") -> Claimed:
    """Claim for half a minute, to be kept for a day."""
    return await store.claim(claim, fingerprint=body, lease_until=NOW + 30, expires_at=NOW + 86_400)


async def test_the_first_one_wins(store: TaskStore) -> None:
    """Others have to wait; another body is another matter; another scope is not concerned."""
    assert await ask(store, FIRST) == Claimed("won")
    assert await ask(store, SECOND) == Claimed("busy")
    assert await ask(store, SECOND, "b-2") == Claimed("differs")
    assert await ask(store, Claim("bob POST /x", "k-1", "second")) == Claimed("won")
    assert await ask(store, Claim("ann POST /x", "k-2", "second")) == Claimed("won")


async def test_an_answer_is_kept(store: TaskStore, queued: Any, clock: Any) -> None:
    """For the same body, for a day, from any process."""
    await ask(store, FIRST)
    await store.create(queued(), claim=FIRST)
    await store.settle_claim(FIRST, response="the answer")
    same, other = await ask(store, SECOND), await ask(store, SECOND, "b-2")
    clock.time = NOW + 86_399
    late = await ask(store, SECOND)
    clock.time = NOW + 86_400
    free = await store.claim(
        SECOND, fingerprint="b-3", lease_until=NOW + 86_430, expires_at=NOW + 200_000
    )

    assert same == late == Claimed("done", "the answer", "t-1")
    assert other == Claimed("differs")
    assert free == Claimed("won")


async def test_one_of_many_wins(stores: Any) -> None:
    """However many ask at once, in however many processes."""
    opened = [stores.open() for _ in range(4)]
    found = await asyncio.gather(
        *(ask(opened[n % 4], Claim("ann POST /x", "k-1", f"r-{n}")) for n in range(40))
    )

    assert sorted(one.outcome for one in found) == ["busy"] * 39 + ["won"]


async def test_a_lost_request_frees_its_key(store: TaskStore, clock: Any) -> None:
    """It died before it had done anything; until its lease is over it may still live."""
    await ask(store, FIRST)
    clock.time = NOW + 20
    await store.renew_claim(FIRST, lease_until=NOW + 50)
    clock.time = NOW + 49
    before = await ask(store, SECOND)
    clock.time = NOW + 50
    after = await store.claim(
        SECOND, fingerprint="b-2", lease_until=NOW + 80, expires_at=NOW + 90_000
    )
    await store.renew_claim(FIRST, lease_until=NOW + 999)
    await store.settle_claim(FIRST, response="too late")
    clock.time = NOW + 79
    third = await store.claim(
        Claim("ann POST /x", "k-1", "third"),
        fingerprint="b-2",
        lease_until=NOW + 99,
        expires_at=NOW + 90_000,
    )

    assert (before, after, third) == (Claimed("busy"), Claimed("won"), Claimed("busy"))


async def test_a_lost_request_that_saved_its_task_is_done(
    store: TaskStore, queued: Any, clock: Any
) -> None:
    """It died between the save and its answer: nobody may do it again."""
    await ask(store, FIRST)
    await store.create(queued(), message="m", claim=FIRST)
    meanwhile = await ask(store, SECOND)
    clock.time = NOW + 31
    after = await ask(store, SECOND)

    assert meanwhile == Claimed("busy")
    assert after == Claimed("done", None, "t-1")


async def test_a_late_request_saves_nothing(store: TaskStore, queued: Any, clock: Any) -> None:
    """Its key is another request's by now."""
    await ask(store, FIRST)
    clock.time = NOW + 31
    await store.claim(SECOND, fingerprint="b-1", lease_until=NOW + 60, expires_at=NOW + 90_000)
    with pytest.raises(Conflict):
        await store.create(queued(), message="m", claim=FIRST)
    clock.time = NOW + 90

    assert await store.get("t-1") is None
    assert list(await store.unsent(older_than=30)) == []


async def test_a_request_without_an_answer_lets_go(store: TaskStore) -> None:
    """It failed and saved nothing: whoever asks next is the first."""
    await ask(store, FIRST)
    await store.release_claim(SECOND)
    still = await ask(store, SECOND)
    await store.release_claim(FIRST)

    assert still == Claimed("busy")
    assert await ask(store, SECOND, "b-2") == Claimed("won")


async def test_a_request_that_failed_behind_its_task_is_done(store: TaskStore, queued: Any) -> None:
    """The task is on its way; asking again must not make a second one."""
    await ask(store, FIRST)
    await store.create(queued(), claim=FIRST)
    await store.create(queued("t-2"), claim=FIRST)
    await store.release_claim(FIRST)

    assert await ask(store, SECOND) == Claimed("done", None, "t-1")


async def test_a_task_that_was_taken_back_frees_its_key(store: TaskStore, queued: Any) -> None:
    """Its send failed and its caller was told to ask again."""
    await ask(store, FIRST)
    await store.create(queued(), message="m", claim=FIRST)
    await store.forget("t-1")
    await store.release_claim(FIRST)

    assert await ask(store, SECOND) == Claimed("won")


async def test_expired_keys_go(store: TaskStore, clock: Any) -> None:
    """With what ended long ago."""
    await ask(store, FIRST)
    clock.time = NOW + 86_400

    assert await store.purge(ended_before=NOW) == 1
    assert await store.purge(ended_before=NOW) == 0

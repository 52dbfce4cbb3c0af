"""Room: shared out by weight, and nobody is left out."""

import asyncio
import random

import pytest

from tracebaton.queue.room import Room, Share


def granted(share: Share, most: int = 10) -> int:
    """Return what is granted at once."""
    asked = share.ask(most)
    if asked.done():
        return asked.result()
    share.withdraw(asked)
    return 0


async def test_one_queue_gets_all_there_is() -> None:
    """As much as it asks for, and the rest at the next time."""
    room = Room(15)
    share = room.share()

    assert [granted(share), granted(share), granted(share)] == [10, 5, 0]
    assert (room.in_use, share.alone) == (15, True)


async def test_what_comes_back_is_granted_together() -> None:
    """All that is given back in one turn of the loop, so that one poll asks for ten."""
    room = Room(10)
    share = room.share()
    granted(share)
    asked = share.ask(10)
    for _ in range(7):
        share.give_back(1)
    early = asked.done()

    assert (early, await asyncio.wait_for(asked, 5)) == (False, 7)


async def test_places_that_come_back_one_by_one_are_worth_one_receive() -> None:
    """A tenth of all, or what there is after a moment."""
    room = Room(100)
    share = room.share()
    while granted(share):
        pass
    asked = share.ask(10)
    early = []
    for _ in range(9):
        share.give_back(1)
        await asyncio.sleep(0)
        early.append(asked.done())
    share.give_back(1)
    whole = await asyncio.wait_for(asked, 5)
    rest = share.ask(10)
    share.give_back(1)

    assert (any(early), whole) == (False, 10)
    assert await asyncio.wait_for(rest, 5) == 1


async def test_one_place_is_worth_a_receive_where_another_queue_waits() -> None:
    """Nobody gathers there: each queue's turn comes with each place."""
    room = Room(100)
    share, other = room.share(), room.share()
    while granted(share):
        pass
    asked = share.ask(10)
    share.give_back(1)
    await asyncio.sleep(0)

    assert (asked.done(), granted(other)) == (True, 1)


async def test_a_free_place_goes_by_weight() -> None:
    """Three to one while both ask; those of the smaller one are kept for it."""
    room = Room(20)
    heavy, light = room.share(3), room.share(1)
    first = heavy.ask(100)
    taken = (await first, granted(light))
    asked = [heavy.ask(100), light.ask(100)]
    heavy.give_back(10)
    shares = [await one for one in asked]

    assert taken == (19, 1)
    assert shares == [6, 4]
    assert (heavy.in_use, light.in_use) == (15, 5)


async def test_nobody_waits_for_the_handlers_of_another() -> None:
    """However long they run, one place is there for each other queue."""
    room = Room(10)
    greedy, others = room.share(1000), [room.share() for _ in range(3)]

    assert granted(greedy, 100) == 7
    assert granted(greedy, 100) == 0
    assert [granted(other) for other in others] == [1, 1, 1]


async def test_what_is_withdrawn_is_free_again() -> None:
    """Also where it was granted already."""
    room = Room(5)
    share, other = room.share(), room.share()
    asked = share.ask(3)
    waiting = other.ask(10)
    share.withdraw(asked)
    rest = await waiting
    first, second, third = (share.ask(10) for _ in range(3))
    share.withdraw(second)
    share.withdraw(first)
    other.give_back(rest)

    assert (rest, await third, second.done()) == (2, 4, False)
    assert (room.in_use, share.in_use, other.in_use) == (4, 4, 0)


@pytest.mark.parametrize("seed", range(20))
async def test_any_traffic_adds_up(seed: int) -> None:
    """Never more than there is, never a queue without a place, and in the end all are free."""
    chance = random.Random(seed)
    room = Room(chance.randint(3, 30))
    shares = [room.share(chance.randint(1, 9)) for _ in range(3)]

    async def work(share: Share) -> int:
        rounds = 0
        for _ in range(30):
            places = await share.ask(chance.randint(1, 10))
            assert places >= 1
            assert room.in_use <= room.size
            for _ in range(places):
                for _ in range(chance.randint(0, 3)):
                    await asyncio.sleep(0)
                share.give_back(1)
            rounds += 1
        return rounds

    workers = [work(share) for share in shares for _ in range(chance.randint(1, 4))]
    async with asyncio.timeout(10):
        rounds = await asyncio.gather(*workers)

    assert set(rounds) == {30}
    assert (room.in_use, [share.in_use for share in shares]) == (0, [0, 0, 0])

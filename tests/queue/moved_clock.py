"""A monotonic clock that a test moves, for the loop, workers and the loopback SQS alike."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from tracebaton.queue.consumer import Consumer
from tracebaton.queue.heartbeat import Leases
from tracebaton.queue.pollers import Pollers
from tracebaton.queue.receiver import Receiver
from tracebaton.queue.settle import Settler
from tracebaton.queue.worker import Worker

from .conftest import until

#: Seconds of the moved clock between two looks: less than the heartbeat has to spare.
STEP = 5.0
#: Seconds of the moved clock that a wait may take.
PATIENCE = 10_000.0

Skip = Callable[[float], None]


@contextmanager
def moved_clock() -> Iterator[Skip]:
    """Yield what moves the clock by seconds; it goes on by itself as well."""
    real, skipped = time.monotonic, 0.0

    def move(seconds: float) -> None:
        nonlocal skipped
        skipped += seconds

    def moved() -> float:
        return real() + skipped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", moved)
        for part in (Leases, Pollers, Settler):  # their default is the clock of the import
            patch.setitem(part.__init__.__kwdefaults__, "now", moved)
        yield move


@pytest.fixture
def skip() -> Iterator[Skip]:
    """What moves the clock of this test."""
    with moved_clock() as move:
        yield move


async def caught_up(workers: Sequence[Worker]) -> None:
    """Wait until no extension is due and no poll is overdue: the network has its own clock."""
    consumers = [consumer for worker in workers for consumer in worker._consumers]

    async def late() -> bool:
        now = time.monotonic()
        held = [lease for consumer in consumers for lease in consumer._leases._held.values()]
        polls = [one for consumer in consumers for one in _receivers(consumer)]
        return any(lease.due <= now for lease in held) or any(
            one.quiet_since is not None and now - one.quiet_since > one._polls.wait_seconds
            for one in polls
        )

    await until(late, lambda is_late: not is_late, seconds=PATIENCE)


def _receivers(consumer: Consumer) -> Sequence[Receiver]:
    return [] if consumer._pollers is None else consumer._pollers.receivers


async def moved_on(workers: Sequence[Worker], skip: Skip, seconds: float) -> None:
    """Let *seconds* of the moved clock pass, and whatever is due in them happen."""
    while seconds > 0:
        skip(min(STEP, seconds))
        seconds -= STEP
        await caught_up(workers)
        for _ in range(10):  # turns of the loop in which what is due begins
            await asyncio.sleep(0)

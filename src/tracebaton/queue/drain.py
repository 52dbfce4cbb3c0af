"""
Draining: what is in hand is finished within the drain time, the rest is given back.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from tracebaton.queue.consumer import Consumer, Tally
from tracebaton.queue.stop import Stop

__all__ = ["DrainReport", "drain"]

#: Seconds that releasing what is left may take after the drain deadline (SPEC 4).
RELEASE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainReport:
    """
    What became of the messages in hand when the worker stopped.

    Attributes:
        acked: Finished and deleted since the stop was asked for.
        released: Unfinished and made visible again at once.
        abandoned: Left to their visibility timeout: SQS did not confirm the release.
    """

    acked: int
    released: int
    abandoned: int


async def drain(
    consumers: Sequence[Consumer], *, tally: Tally, seconds: float, hurry: Stop
) -> DrainReport:
    """
    Finish for up to *seconds*, unless there is a *hurry*, and give back what is left.

    What has not begun is given back at once.
    """
    waiting = [(consumer, consumer.give_up(begun=False)) for consumer in consumers]
    releasing = [asyncio.create_task(consumer.release(leases)) for consumer, leases in waiting]
    running = [task for consumer in consumers for task in consumer.running]
    if running:
        finished = asyncio.ensure_future(asyncio.wait(running))
        await hurry.or_done(finished, seconds=seconds)
        finished.cancel()
    with suppress(TimeoutError):
        async with asyncio.timeout(RELEASE_SECONDS):
            await asyncio.gather(*releasing, *(_give_back(consumer) for consumer in consumers))
    return DrainReport(
        acked=tally.acked,
        released=tally.released,
        abandoned=tally.let_go - tally.released + sum(one.unsettled for one in consumers),
    )


async def _give_back(consumer: Consumer) -> None:
    await consumer.release(consumer.give_up(begun=True))
    await consumer.flush()

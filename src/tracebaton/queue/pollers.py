"""
The poll loops of one queue, kept alive.

One of them always polls. The others join while there is work and rest when a receive brings none,
so that an idle queue costs one long poll at a time. A loop that dies is started again, and so is
one whose receive does not come back; the latter makes the worker not alive until one does.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from tracebaton.queue.receiver import Polls, Receiver
from tracebaton.semconv import EVENT_POLLER_RESTARTED, EVENT_POLLER_STALLED

__all__ = ["Pollers"]

#: Seconds before a poll loop that died is started again, so that one that always dies never spins.
_RESTART_SECONDS: Final = 1.0
#: Seconds beyond two long polls after which a receive counts as hung.
_GRACE: Final = 10.0

_log = logging.getLogger("tracebaton.worker")


class Pollers:
    """Up to *count* receivers of one queue."""

    def __init__(
        self,
        polls: Polls,
        count: int,
        *,
        patience: float | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Set how many.

        Args:
            patience: Seconds after which a receive counts as hung: by default two long polls
                and 10 s.
        """
        self._polls = polls
        self.receivers: list[Receiver] = [Receiver(polls) for _ in range(count)]
        self._patience = 2 * polls.wait_seconds + _GRACE if patience is None else patience
        self._now = now
        self._tasks: dict[Receiver, asyncio.Task[None]] = {}
        #: When each loop was last given up because its receive hung.
        self._given_up: dict[Receiver, float] = {}

    @property
    def answered(self) -> bool:
        """Tell whether SQS answers: at least once so far, and each loop's last receive."""
        return any(one.answered_at is not None for one in self.receivers) and all(
            one.healthy for one in self.receivers
        )

    @property
    def alive(self) -> bool:
        """Tell whether every receive that was made came back, or still may."""
        return not any(self._hung_for(receiver) > self._patience for receiver in self.receivers)

    async def run(self) -> None:
        """Poll until the worker stops."""
        first, *others = self.receivers
        watching = asyncio.create_task(self._watch(), name="tracebaton-watchdog")
        try:
            await asyncio.gather(self._lead(first), *(self._follow(one) for one in others))
        finally:
            watching.cancel()
            for task in self._tasks.values():
                task.cancel()

    async def _lead(self, receiver: Receiver) -> None:
        while not self._polls.stop.asked:
            await self._kept(receiver, while_busy=False)

    async def _follow(self, receiver: Receiver) -> None:
        while not self._polls.stop.asked:
            work = asyncio.ensure_future(self._polls.work.wait())
            stopping = await self._polls.stop.or_done(work)
            work.cancel()
            if not stopping:
                await self._kept(receiver, while_busy=True)

    async def _kept(self, receiver: Receiver, *, while_busy: bool) -> None:
        """Run *receiver* to its end, or until it dies."""
        task = asyncio.create_task(receiver.run(while_busy=while_busy), name="tracebaton-receiver")
        self._tasks[receiver] = task
        await asyncio.wait({task})
        failure = None if task.cancelled() else task.exception()
        if failure is None and not task.cancelled():
            return
        self._polls.meters.restarted(self._polls.queue.name, "dead" if failure else "hung")
        fields = {"queue": self._polls.queue.name}
        _log.error(EVENT_POLLER_RESTARTED, exc_info=failure, extra={"fields": fields})
        await self._polls.stop.sleep(_RESTART_SECONDS)

    async def _watch(self) -> None:
        while not await self._polls.stop.sleep(min(1.0, self._patience / 4)):
            for receiver in self.receivers:
                self._check(receiver)

    def _check(self, receiver: Receiver) -> None:
        hung = self._hung_for(receiver)
        again = self._now() - self._given_up.get(receiver, float("-inf"))
        if min(hung, again) <= self._patience:
            return
        self._given_up[receiver] = self._now()
        fields = {"queue": self._polls.queue.name, "seconds": round(hung, 1)}
        _log.error(EVENT_POLLER_STALLED, extra={"fields": fields})
        self._tasks[receiver].cancel()  # a fresh one takes its place, on a connection of its own

    def _hung_for(self, receiver: Receiver) -> float:
        return 0.0 if receiver.quiet_since is None else self._now() - receiver.quiet_since

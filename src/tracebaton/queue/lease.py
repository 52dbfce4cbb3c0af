"""
Leases: the right to work on a received message, kept alive by a batched heartbeat.

A lease starts when the receive call was made and lasts until settle. It is lost when SQS refuses an
extension **or** when none was confirmed before the local deadline less a margin: from then on the
message may be another worker's, so this one neither deletes it nor changes its visibility.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Literal

from tracebaton.errors import QueueUnavailable
from tracebaton.queue.sqs import BATCH, Received, Sqs

__all__ = ["Lease", "Leases"]

#: Seconds before the local deadline at which an unconfirmed lease counts as lost.
MARGIN = 2.0
#: SQS's limit on the total visibility of one receive, in seconds.
LIMIT = 43_200.0
#: Seconds before that limit at which the handler is cancelled.
LIMIT_MARGIN = 60.0
#: Seconds until the next try after a heartbeat call failed as a whole.
_AGAIN = 1.0

_log = logging.getLogger("tracebaton.worker")

State = Literal["held", "settling", "lost", "expired"]


class Lease:
    """The lease of one received message."""

    __slots__ = ("_on_end", "deadline", "message", "received_at", "state", "task_id")

    def __init__(self, message: Received, *, received_at: float, visibility: float) -> None:
        self.message = message
        self.received_at = received_at
        #: Monotonic moment until which SQS keeps the message invisible, as far as confirmed.
        self.deadline = received_at + visibility
        self.state: State = "held"
        #: The task that runs under this lease, so that its record lives as long.
        self.task_id: str | None = None
        self._on_end: Callable[[State], None] | None = None

    @property
    def held(self) -> bool:
        """Tell whether the message is still ours."""
        return self.state in {"held", "settling"}

    def when_over(self, callback: Callable[[State], None]) -> None:
        """Call *callback* with ``lost`` or ``expired`` if that happens before settle."""
        self._on_end = callback

    def left(self, now: float) -> float:
        """Return the seconds that remain of SQS's 12 hours."""
        return self.received_at + LIMIT - now

    def over(self, state: State) -> None:
        """End the lease as *state*, once."""
        if self.state != "held":
            return
        self.state = state
        if self._on_end is not None:
            self._on_end(state)


class Leases:
    """Every lease of one worker, and the heartbeat that extends them."""

    def __init__(
        self,
        sqs: Sqs,
        queue_url: str,
        *,
        visibility_seconds: int,
        on_extended: Callable[[Sequence[Lease]], None] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Set what is extended and by how much.

        Args:
            on_extended: Told which leases SQS has just extended; must neither block nor raise.
        """
        self._sqs = sqs
        self._queue_url = queue_url
        self._visibility = visibility_seconds
        self._on_extended = on_extended
        self._now = now
        self._held: dict[str, Lease] = {}
        self._interval = max(1.0, visibility_seconds / 3)

    def __len__(self) -> int:
        return len(self._held)

    def add(self, message: Received, *, received_at: float) -> Lease:
        """
        Take the lease of a message that was just received.

        A redelivery of a message that is still held here means that its lease ran out unseen: the
        old one is lost and the new handle replaces it.
        """
        lease = Lease(message, received_at=received_at, visibility=self._visibility)
        old = self._held.get(message.message_id)
        self._held[message.message_id] = lease
        if old is not None:
            old.over("lost")
        return lease

    def adopt(self, message: Received, *, received_at: float) -> bool:
        """
        Take the new handle of a message that is being handled here under a lease that still holds.

        SQS may hand a message out twice, and people make messages visible by hand. Returns False
        where nobody here handles it, or where its lease ran out: then it is a delivery of its own.
        """
        lease = self._held.get(message.message_id)
        if lease is None or lease.state != "held" or self._ran_out(lease):
            return False
        lease.message = message
        lease.received_at = received_at
        lease.deadline = received_at + self._visibility
        return True

    def settle(self, lease: Lease) -> bool:
        """Stop extending *lease* before its message is settled, once; False if it is lost."""
        if self._ran_out(lease):
            lease.over("lost")  # the heartbeat hangs in a call and has not seen it yet
        if lease.state != "held":
            return False
        lease.state = "settling"
        return True

    def drop(self, lease: Lease) -> None:
        """Forget *lease*: its message is settled or no longer ours."""
        if self._held.get(lease.message.message_id) is lease:
            del self._held[lease.message.message_id]

    async def run(self) -> None:
        """Extend what is due until cancelled; a failing call never ends the heartbeat."""
        while True:
            again = await self._beat()
            await asyncio.sleep(min(self._interval, _AGAIN) if again else self._pause())

    def _pause(self) -> float:
        """Return the seconds until the next lease is due, at most one interval."""
        due = [self._due(lease) for lease in self._held.values() if lease.state == "held"]
        soonest = min(due, default=self._interval)
        return min(self._interval, max(0.05, soonest))

    def _ran_out(self, lease: Lease) -> bool:
        return self._now() >= lease.deadline - MARGIN

    def _due(self, lease: Lease) -> float:
        return lease.deadline - self._visibility + self._interval - self._now()

    async def _beat(self) -> bool:
        """Extend every due lease; True if a call failed and the rest is due again soon."""
        now = self._now()
        for lease in [lease for lease in self._held.values() if lease.state == "held"]:
            if lease.left(now) <= LIMIT_MARGIN:
                lease.over("expired")
            elif self._ran_out(lease):
                lease.over("lost")
        due = [
            lease
            for lease in self._held.values()
            if lease.state == "held" and self._due(lease) <= 0.05
        ]
        failed = False
        for start in range(0, len(due), BATCH):
            failed |= not await self._extend(due[start : start + BATCH])
        return failed

    async def _extend(self, leases: Sequence[Lease]) -> bool:
        asked = self._now()
        handles = [lease.message.receipt_handle for lease in leases]
        seconds = [self._seconds(lease, asked) for lease in leases]
        try:
            outcomes = await self._sqs.change_visibility(
                self._queue_url, list(zip(handles, seconds, strict=True))
            )
        except QueueUnavailable as exc:
            _log.warning(
                "lease.heartbeat_failed",
                extra={"fields": {"messages": len(leases), "reason": str(exc.__cause__ or exc)}},
            )
            return False
        extended = []
        for lease, handle, until, outcome in zip(leases, handles, seconds, outcomes, strict=True):
            if lease.message.receipt_handle != handle:
                continue  # adopted meanwhile: the answer is about a handle that is no longer ours
            if outcome == "ok":
                lease.deadline = asked + until  # counted from before the call: never too late
                extended.append(lease)
            elif outcome == "lost":
                lease.over("lost")
        if extended and self._on_extended is not None:
            self._on_extended(extended)
        return "again" not in outcomes

    def _seconds(self, lease: Lease, now: float) -> int:
        return max(1, min(self._visibility, int(lease.left(now))))

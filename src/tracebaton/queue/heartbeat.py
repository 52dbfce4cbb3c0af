"""
The heartbeat: every lease of one queue, extended ten to a call until its message is settled.
"""

import asyncio
import heapq
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final, Literal

from tracebaton.queue.lease import LIMIT_MARGIN, MARGIN, Lease
from tracebaton.queue.meters import WorkerMeters
from tracebaton.queue.sqs import BATCH, Entry, Received, Sqs

__all__ = ["Leases"]

#: Seconds until the next try after an extension failed for a reason that is not the message's.
_AGAIN: Final = 1.0
#: Bounds of the pause between two rounds, in seconds.
_TICKS: Final = (0.05, 1.0)
#: Calls that may be on their way at once: one that hangs must not hold up the others.
_CALLS: Final = 8

_log = logging.getLogger("tracebaton.worker")


class Leases:
    """
    The leases of one queue's messages.

    A call that fails, in whatever way, is tried again a second later for as long as the leases
    hold; it ends neither the heartbeat nor any other lease.
    """

    def __init__(
        self,
        sqs: Sqs,
        queue_url: str,
        *,
        visibility_seconds: int,
        on_extended: Callable[[Sequence[Lease]], None] | None = None,
        meters: WorkerMeters | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Set what is extended and by how much.

        Args:
            on_extended: Told which leases SQS has just extended; must not block.
        """
        self._sqs = sqs
        self._queue_url = queue_url
        self._visibility = visibility_seconds
        self._on_extended = on_extended
        self._name = queue_url.rsplit("/", 1)[-1]
        self._meters = meters or WorkerMeters()
        self._now = now
        self._held: dict[str, Lease] = {}
        self._interval = visibility_seconds / 3
        self._tick = min(max(_TICKS[0], self._interval / 20), _TICKS[1])
        self._calls: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._held)

    @property
    def late(self) -> float:
        """Return by how many seconds the most overdue extension is late, 0 where none is."""
        oldest = min(
            (lease.confirmed_at for lease in self._held.values() if _beats(lease)),
            default=self._now(),
        )
        return max(0.0, self._now() - oldest - self._interval)

    @property
    def on_time(self) -> bool:
        """Tell whether no extension is late by half a visibility timeout, or about to be lost."""
        spare = self._visibility - MARGIN - self._interval
        return self.late <= min(self._visibility / 2, 0.8 * spare)

    def add(self, message: Received, *, received_at: float) -> Lease:
        """
        Take the lease of a message that was just received.

        A redelivery of a message that is still held here means that its lease ran out unseen: the
        old one is lost and the new handle replaces it.
        """
        lease = Lease(
            message,
            received_at=received_at,
            visibility=self._visibility,
            interval=self._interval,
        )
        old = self._held.get(message.message_id)
        self._held[message.message_id] = lease
        if old is not None:
            self._end(old, "lost")
        return lease

    def adopt(self, message: Received, *, received_at: float) -> bool:
        """
        Take the new handle of a message that is being handled here under a lease that still holds.

        SQS may hand a message out twice, and people make messages visible by hand. Returns False
        where nobody here handles it, or where its lease ran out: then it is a delivery of its own.
        """
        lease = self._held.get(message.message_id)
        if lease is None or not _beats(lease) or lease.ran_out(self._now()):
            return False
        lease.message = message
        lease.received_at = lease.confirmed_at = received_at
        lease.deadline = received_at + self._visibility
        lease.due = received_at + self._interval
        return True

    def settle(self, lease: Lease, state: Literal["settling", "released"] = "settling") -> bool:
        """Stop extending *lease* before its message is settled, once; False if it is lost."""
        if lease.ran_out(self._now()):
            self._end(lease, "lost")  # the heartbeat hangs in a call and has not seen it yet
        if lease.state != "held":
            return False
        lease.state = state
        return True

    async def quiet(self, lease: Lease) -> bool:
        """
        Wait for an extension of *lease* that is on its way; False if the lease ran out meanwhile.

        What came after it on another connection could arrive before it, and be overwritten.
        """
        if lease.beat is not None:
            patience = max(0.0, lease.deadline - self._now())
            await asyncio.wait({lease.beat}, timeout=patience)
        return not lease.ran_out(self._now())

    def drop(self, lease: Lease) -> None:
        """Forget *lease*: its message is settled or no longer ours."""
        if self._held.get(lease.message.message_id) is lease:
            del self._held[lease.message.message_id]

    async def run(self) -> None:
        """Extend what is due until cancelled."""
        try:
            while True:
                self.beat()
                await asyncio.sleep(self._tick)
        finally:
            for call in self._calls:
                call.cancel()

    def beat(self) -> Sequence[asyncio.Task[None]]:
        """End what is over, start the calls for what is due, and return them."""
        now = self._now()
        for lease in [lease for lease in self._held.values() if _beats(lease)]:
            if lease.left(now) <= LIMIT_MARGIN:
                self._end(lease, "expired")
            elif lease.ran_out(now):
                self._end(lease, "lost")
        return [self._call(batch) for batch in self._due(now)]

    def _due(self, now: float) -> Sequence[Sequence[Lease]]:
        """Return the leases to extend, call by call; the last call is filled up with the next."""
        idle = [lease for lease in self._held.values() if _beats(lease) and lease.beat is None]
        count = sum(lease.due <= now for lease in idle)
        free = _CALLS - len(self._calls)
        if not count or free <= 0:
            return ()
        # A place in a call that is made anyway costs nothing: it saves the next lease's own call.
        room = min(-(-count // BATCH), free) * BATCH
        soon = now + self._interval / 2
        first = heapq.nsmallest(room, idle, key=lambda lease: lease.due)
        chosen = [lease for lease in first if lease.due <= soon]
        return [chosen[start : start + BATCH] for start in range(0, len(chosen), BATCH)]

    def _call(self, leases: Sequence[Lease]) -> asyncio.Task[None]:
        call = asyncio.create_task(self._extend(leases), name="tracebaton-extend")
        self._calls.add(call)  # the loop itself keeps no reference
        for lease in leases:
            lease.beat = call
        call.add_done_callback(lambda call: self._answered(call, leases))
        return call

    def _answered(self, call: asyncio.Task[None], leases: Sequence[Lease]) -> None:
        self._calls.discard(call)
        for lease in leases:
            lease.beat = None
        if not call.cancelled() and (failure := call.exception()):
            # An edge: whatever went wrong, the leases hold until their deadlines, so it is tried
            # again.
            self._failed(leases, failure)

    async def _extend(self, leases: Sequence[Lease]) -> None:
        asked = self._now()
        self._meters.called(self._name, "extend")
        self._meters.late(self._name, max(0.0, asked - min(lease.due for lease in leases)))
        handles = [lease.message.receipt_handle for lease in leases]
        seconds = [self._seconds(lease, asked) for lease in leases]
        outcomes = await self._sqs.change_visibility(
            self._queue_url, list(zip(handles, seconds, strict=True))
        )
        extended = []
        for lease, handle, until, outcome in zip(leases, handles, seconds, outcomes, strict=True):
            if lease.message.receipt_handle != handle:
                continue  # adopted meanwhile: the answer is about a handle that is no longer ours
            self._confirm(lease, outcome, asked=asked, seconds=until)
            if outcome == "ok":
                extended.append(lease)
        if extended and self._on_extended is not None:
            self._on_extended(extended)

    def _confirm(self, lease: Lease, outcome: Entry, *, asked: float, seconds: int) -> None:
        if outcome == "ok":
            lease.confirmed_at = asked  # counted from before the call: never too late
            lease.deadline = asked + seconds
            lease.due = asked + self._interval
        elif outcome == "lost":
            self._end(lease, "lost")
            return
        else:
            lease.due = self._soon()
        self._meters.extended(self._name, outcome)

    def _end(self, lease: Lease, state: Literal["lost", "expired"]) -> None:
        """End *lease* unless it has ended or is being settled: only what ends is counted."""
        if lease.over(state):
            self._meters.extended(self._name, state)

    def _failed(self, leases: Sequence[Lease], failure: BaseException) -> None:
        self._meters.extended(self._name, "failed", leases=len(leases))
        for lease in leases:
            lease.due = self._soon()
        reason = str(failure.__cause__ or failure)
        fields = {"messages": len(leases), "reason": reason}
        _log.warning("lease.heartbeat_failed", extra={"fields": fields})

    def _soon(self) -> float:
        return self._now() + min(self._interval, _AGAIN)

    def _seconds(self, lease: Lease, now: float) -> int:
        return max(1, min(self._visibility, int(lease.left(now))))


def _beats(lease: Lease) -> bool:
    return lease.state == "held"

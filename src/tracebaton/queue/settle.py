"""
Settling: deletes and changes of visibility, batched, each with an outcome of its own.

There is no timer. While a call runs, the next batch fills up to ten; entries that SQS failed for
its own reasons are tried again, bounded and only while their leases hold, and what remains is
reported by the caller.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from tracebaton.errors import QueueUnavailable
from tracebaton.queue.meters import WorkerMeters
from tracebaton.queue.sqs import BATCH, Entry, Sqs

__all__ = ["Settler"]

#: Tries of one entry before it is given up; the message then comes again and is recognised.
_TRIES: Final = 8
#: Seconds before the first retry, doubled each time, and the longest pause.
_PAUSE, _LONGEST = 0.1, 5.0

_Change = tuple[str, int]
_Call = Callable[[Sequence[_Change]], Awaitable[list[Entry]]]


@dataclass(slots=True, eq=False)
class _Waiting:
    """One entry: *change* is the receipt handle and the seconds, *until* when it may be sent."""

    change: _Change
    until: float
    done: "asyncio.Future[bool]"
    tries: int = 0


class Settler:
    """Deletes the finished messages of one queue and makes the others visible again."""

    def __init__(
        self,
        sqs: Sqs,
        queue_url: str,
        *,
        calls: int = 2,
        meters: WorkerMeters | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Set which queue.

        Args:
            calls: Deletes that may be on their way at once, and as many changes of visibility.
        """

        async def delete(changes: Sequence[_Change]) -> list[Entry]:
            return await sqs.delete(queue_url, [handle for handle, _ in changes])

        async def show(changes: Sequence[_Change]) -> list[Entry]:
            return await sqs.change_visibility(queue_url, changes)

        name = queue_url.rsplit("/", 1)[-1]
        meters = meters or WorkerMeters()
        self._acks = _Lane("ack", delete, name=name, calls=calls, meters=meters, now=now)
        self._nacks = _Lane("nack", show, name=name, calls=calls, meters=meters, now=now)

    def ack(self, receipt_handle: str, *, until: float = float("inf")) -> Awaitable[bool]:
        """
        Delete the message; False if SQS did not confirm it.

        Args:
            until: Monotonic moment from which it may be another worker's, who then deletes it.
        """
        return self._acks.settle((receipt_handle, 0), until)

    def nack(
        self, receipt_handle: str, seconds: int, *, until: float = float("inf")
    ) -> Awaitable[bool]:
        """Make the message visible after *seconds*; as `ack()`."""
        return self._nacks.settle((receipt_handle, seconds), until)

    async def flush(self) -> None:
        """Wait until nothing waits to be settled."""
        await self._acks.flush()
        await self._nacks.flush()


class _Lane:
    """The calls of one kind."""

    def __init__(
        self,
        operation: Literal["ack", "nack"],
        call: _Call,
        *,
        name: str,
        calls: int,
        meters: WorkerMeters,
        now: Callable[[], float],
    ) -> None:
        self._operation = operation
        self._call = call
        self._name = name
        self._calls = calls
        self._meters = meters
        self._now = now
        self._waiting: deque[_Waiting] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._busy = 0

    async def settle(self, change: _Change, until: float) -> bool:
        entry = _Waiting(change, until, asyncio.get_running_loop().create_future())
        self._put(entry)
        # Whoever waits may be cancelled: the entry is settled all the same.
        settled = await entry.done
        self._meters.settled(self._name, self._operation, ok=settled)
        return settled

    async def flush(self) -> None:
        while self._running:
            await asyncio.wait(set(self._running))

    def _put(self, entry: _Waiting) -> None:
        self._waiting.append(entry)
        if self._busy < self._calls:
            self._busy += 1
            self._start(self._drain())

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="tracebaton-settle")
        self._running.add(task)  # the loop itself keeps no reference
        task.add_done_callback(self._running.discard)

    async def _drain(self) -> None:
        try:
            while self._waiting:
                await self._send([self._waiting.popleft() for _ in range(self._next())])
        finally:
            # Here and not when the task is done: that is one turn of the loop later, and an entry
            # that comes in between would wait for a call that nobody makes.
            self._busy -= 1

    def _next(self) -> int:
        return min(BATCH, len(self._waiting))

    async def _send(self, batch: list[_Waiting]) -> None:
        live = [entry for entry in batch if not self._too_late(entry)]
        if not live:
            return
        started, error_type = time.perf_counter(), None
        try:
            outcomes = await self._call([entry.change for entry in live])
        except QueueUnavailable as exc:
            outcomes, error_type = ["again"] * len(live), type(exc).__qualname__
        except BaseException:
            for entry in live:
                entry.done.cancel()
            raise
        self._measure(time.perf_counter() - started, error_type)
        for entry, outcome in zip(live, outcomes, strict=True):
            self._answered(entry, outcome)

    def _too_late(self, entry: _Waiting) -> bool:
        if self._now() < entry.until:
            return False
        _tell(entry, settled=False)
        return True

    def _answered(self, entry: _Waiting, outcome: Entry) -> None:
        entry.tries += 1
        if outcome == "again" and entry.tries < _TRIES:
            self._start(self._again(entry))  # beside the others: one that fails holds none up
        else:
            _tell(entry, settled=outcome == "ok")

    async def _again(self, entry: _Waiting) -> None:
        try:
            await asyncio.sleep(min(_LONGEST, _PAUSE * 2 ** (entry.tries - 1)))
        except asyncio.CancelledError:
            entry.done.cancel()
            raise
        self._put(entry)

    def _measure(self, seconds: float, error_type: str | None) -> None:
        self._meters.called(self._name, self._operation)
        self._meters.messaging.settled(
            self._name, seconds, operation=self._operation, error_type=error_type
        )


def _tell(entry: _Waiting, *, settled: bool) -> None:
    if not entry.done.done():
        entry.done.set_result(settled)

"""
Batched deletes: acks that wait for each other only while a call is under way.

There is no timer. While a delete call runs, the next batch fills up to ten; entries that SQS failed
for its own reasons are tried again, bounded, and what remains undeleted is reported by the caller.
"""

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field

from tracebaton.errors import QueueUnavailable
from tracebaton.metrics import MessagingMetrics
from tracebaton.queue.sqs import BATCH, Entry, Sqs

__all__ = ["Settler"]

#: Tries of one delete before it is given up; the message then comes again and is recognised.
_TRIES = 5
#: Seconds before the first retry; doubled each time.
_PAUSE = 0.1


@dataclass(slots=True)
class _Ack:
    handle: str
    done: "asyncio.Future[bool]"
    tries: int = field(default=0)


class Settler:
    """Deletes the finished messages of one queue."""

    def __init__(
        self,
        sqs: Sqs,
        queue_url: str,
        *,
        calls: int = 2,
        metrics: MessagingMetrics | None = None,
    ) -> None:
        self._metrics = metrics or MessagingMetrics()
        self._name = queue_url.rsplit("/", 1)[-1]
        self._sqs = sqs
        self._queue_url = queue_url
        self._calls = calls
        self._waiting: deque[_Ack] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._busy = 0

    async def ack(self, receipt_handle: str) -> bool:
        """Delete the message; False if SQS did not confirm it."""
        ack = _Ack(receipt_handle, asyncio.get_running_loop().create_future())
        self._waiting.append(ack)
        self._start()
        return await ack.done

    async def flush(self) -> None:
        """Wait until nothing waits to be deleted."""
        while self._running:
            await asyncio.wait(set(self._running))

    def _start(self) -> None:
        if self._busy < self._calls and self._waiting:
            self._busy += 1
            task = asyncio.create_task(self._drain(), name="tracebaton-settle")
            self._running.add(task)  # the loop itself keeps no reference
            task.add_done_callback(self._running.discard)

    async def _drain(self) -> None:
        try:
            await self._delete_all()
        finally:
            # Here and not when the task is done: that is one turn of the loop later, and an ack
            # that comes in between would wait for a call that nobody makes.
            self._busy -= 1

    async def _delete_all(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            again = await self._delete(batch)
            if again:
                self._waiting.extendleft(reversed(again))
                await asyncio.sleep(_PAUSE * 2 ** (again[0].tries - 1))

    async def _delete(self, batch: list[_Ack]) -> list[_Ack]:
        started, error_type = time.perf_counter(), None
        try:
            outcomes = await self._sqs.delete(self._queue_url, [ack.handle for ack in batch])
        except QueueUnavailable as exc:
            outcomes, error_type = ["again"] * len(batch), type(exc).__qualname__
        except BaseException:
            for ack in batch:
                ack.done.cancel()
            raise
        seconds = time.perf_counter() - started
        self._metrics.settled(self._name, seconds, operation="ack", error_type=error_type)
        return [ack for ack, outcome in zip(batch, outcomes, strict=True) if _again(ack, outcome)]


def _again(ack: _Ack, outcome: Entry) -> bool:
    ack.tries += 1
    if outcome == "again" and ack.tries < _TRIES:
        return True
    if not ack.done.done():
        ack.done.set_result(outcome == "ok")
    return False

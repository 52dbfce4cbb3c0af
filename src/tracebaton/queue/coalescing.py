"""
Coalesced sends: messages that wait for each other only while calls are under way.

There is no timer. A message leaves at once where a call may still be made; while as many calls run
as may, the next batch fills up to ten messages and SQS's bytes. Each message has its own outcome.
"""

import asyncio
import time
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from tracebaton.errors import TracebatonError
from tracebaton.queue.batches import PAUSE, TRIES, send_alone, send_together
from tracebaton.queue.message import Outgoing, Sent
from tracebaton.queue.sqs import BATCH, MESSAGE_LIMIT, Queue, Sqs

__all__ = ["Coalescer", "Departure"]

#: Calls that run at once on a standard queue; a FIFO queue gets one after the other, in order.
_CALLS = 3


@dataclass(eq=False, slots=True)
class Departure:
    """
    One message on its way.

    Attributes:
        done: What became of it; never an exception of SQS's, those are in `Sent`.
        seconds: How long the call took that settled it; None but for one message of the call.
    """

    message: Outgoing
    done: "asyncio.Future[Sent]"
    seconds: float | None = None
    tries: int = 0
    #: It is part of a call under way.
    left: bool = False

    def withdraw(self) -> bool:
        """Keep the message from leaving; False if a call has taken it."""
        return not self.left and self.done.cancel()


class Coalescer:
    """Sends the messages of one queue."""

    def __init__(self, sqs: Sqs, queue: Queue, *, calls: int = _CALLS) -> None:
        self._sqs = sqs
        self._queue = queue
        self._calls = 1 if queue.fifo else calls
        self._waiting: deque[Departure] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._busy = 0

    def post(self, message: Outgoing) -> Departure:
        """Send *message* with the next call."""
        departure = Departure(message, asyncio.get_running_loop().create_future())
        self._waiting.append(departure)
        self._start()
        return departure

    def keep(self, work: Coroutine[Any, Any, Any]) -> None:
        """Do *work* for a caller who left while a call had the message."""
        self._run(work, "tracebaton-late-send")

    async def flush(self) -> None:
        """Wait until nothing waits to be sent, or settled for one who left."""
        while self._running:
            await asyncio.wait(set(self._running))

    def _start(self) -> None:
        if self._busy < self._calls:
            self._busy += 1
            self._run(self._send_all(), "tracebaton-send")

    def _run(self, work: Coroutine[Any, Any, Any], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._running.add(task)  # the loop itself keeps no reference
        task.add_done_callback(self._running.discard)

    async def _send_all(self) -> None:
        try:
            while batch := self._batch():
                await self._send(batch)
        finally:
            # Here and not when the task is done: that is one turn of the loop later, and a message
            # that comes in between would wait for a call that nobody makes.
            self._busy -= 1

    def _batch(self) -> list[Departure]:
        """Take what goes together: at most ten messages, at most SQS's bytes, in order."""
        batch: list[Departure] = []
        size = 0
        while self._waiting and len(batch) < BATCH:
            first = self._waiting[0]
            if not first.done.done():
                size += first.message.size
                if batch and size > MESSAGE_LIMIT:
                    break
                first.left = True
                batch.append(first)
            self._waiting.popleft()
        return batch

    async def _send(self, batch: list[Departure]) -> None:
        started = time.perf_counter()
        try:
            outcomes = await self._call([departure.message for departure in batch])
        except Exception as exc:  # a mistake of ours: whoever waits for the call hears of it
            for departure in batch:
                if not departure.done.done():
                    departure.done.set_exception(exc)
            return
        except asyncio.CancelledError:  # the end of the loop
            for departure in batch:
                departure.done.cancel()
            raise
        batch[0].seconds = time.perf_counter() - started
        again = [one for one, sent in zip(batch, outcomes, strict=True) if _again(one, sent)]
        if again:
            self._waiting.extendleft(reversed(again))
            await asyncio.sleep(PAUSE * 2 ** (again[0].tries - 1))

    async def _call(self, messages: list[Outgoing]) -> list[Sent]:
        try:
            url = await self._queue.url()
        except TracebatonError as exc:
            return [Sent(None, exc) for _ in messages]
        if len(messages) == 1:
            return [await send_alone(self._sqs, url, messages[0])]
        return await send_together(self._sqs, url, messages)


def _again(departure: Departure, sent: Sent) -> bool:
    """Settle *departure* unless it is worth another try."""
    departure.tries += 1
    departure.left = False
    if sent.again and departure.tries < TRIES and not departure.done.done():
        return True
    if not departure.done.done():
        departure.done.set_result(sent)
    return False

"""
Receiving: long polls that ask only for what there is room for.
"""

import asyncio
import logging
import random
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from tracebaton.errors import TracebatonError
from tracebaton.metrics import MessagingMetrics
from tracebaton.queue.sqs import BATCH, Queue, Received, Sqs

__all__ = ["Receiver", "Room"]

#: SQS's longest wait for a message, in seconds.
WAIT_SECONDS = 20
#: Seconds a parked poll is awaited at stop before its connection is left behind.
PARKED_SECONDS = 2.0
#: Bounds of the back-off after a failed receive, in seconds.
_BACKOFF_BASE, _BACKOFF_CAP = 0.5, 30.0

_log = logging.getLogger("tracebaton.worker")

Value = TypeVar("Value")
Deliver = Callable[[Received, float], None]
_Outcome = tuple[list[Received] | TracebatonError, float]


class Room:
    """How many more messages the worker can hold."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._free = size
        self._changed = asyncio.Event()

    @property
    def in_use(self) -> int:
        """Return how many places are taken or promised to a poll."""
        return self.size - self._free

    async def take(self, most: int) -> int:
        """Wait until there is room and take up to *most* places."""
        while self._free == 0:
            self._changed.clear()
            await self._changed.wait()
        taken = min(most, self._free)
        self._free -= taken
        return taken

    def give_back(self, places: int) -> None:
        """Return *places*."""
        self._free += places
        self._changed.set()


class Receiver:
    """
    One poll loop of a queue.

    A receive that fails backs off with full jitter, from half a second up to half a minute, and
    makes the worker not ready until one succeeds; it never gives up and never spins.
    """

    def __init__(
        self,
        sqs: Sqs,
        queue: Queue,
        *,
        room: Room,
        visibility_seconds: int,
        deliver: Deliver,
        stopping: asyncio.Event,
        most: int = BATCH,
        wait_seconds: int = WAIT_SECONDS,
        metrics: MessagingMetrics | None = None,
    ) -> None:
        """
        Set what to poll.

        Args:
            most: Messages to ask for at once; one for a FIFO queue.
        """
        self._sqs = sqs
        self._queue = queue
        self._room = room
        self._visibility = visibility_seconds
        self._deliver = deliver
        self._stopping = stopping
        self._most = most
        self._wait = wait_seconds
        self._metrics = metrics or MessagingMetrics()
        self._failures = 0
        #: Monotonic moment of the last receive that SQS answered, None before the first.
        self.answered_at: float | None = None

    @property
    def healthy(self) -> bool:
        """Tell whether the last receive was answered."""
        return self._failures == 0

    async def run(self) -> None:
        """Poll until the worker stops."""
        while not self._stopping.is_set():
            places = await self._until_stop(self._room.take(self._most))
            if places is None:
                return
            if self._stopping.is_set():
                self._room.give_back(places)
                return
            received = 0
            try:
                received = await self._receive(places)
            finally:
                self._room.give_back(places - received)

    async def _receive(self, places: int) -> int:
        poll, started = _Poll(self._sqs, self._stopping), time.perf_counter()
        try:
            outcome, arrived = await poll.run(
                await self._queue.url(),
                most=places,
                wait_seconds=self._wait,
                visibility_seconds=self._visibility,
            )
        except TracebatonError as exc:  # the queue's URL could not be looked up
            outcome, arrived = exc, time.monotonic()
        self._measure(outcome, time.perf_counter() - started)
        if isinstance(outcome, TracebatonError):
            await self._back_off(outcome)
            return 0
        if self._failures:
            _log.info("receive.recovered", extra={"fields": {"failures": self._failures}})
        self._failures = 0
        self.answered_at = arrived
        for message in outcome:
            self._deliver(message, arrived)
        return len(outcome)

    def _measure(self, outcome: list[Received] | TracebatonError, seconds: float) -> None:
        failed = isinstance(outcome, TracebatonError)
        self._metrics.received(
            self._queue.name,
            seconds,
            messages=0 if isinstance(outcome, TracebatonError) else len(outcome),
            error_type=type(outcome).__qualname__ if failed else None,
        )

    async def _back_off(self, error: TracebatonError) -> None:
        ceiling = min(_BACKOFF_CAP, _BACKOFF_BASE * 2 ** min(self._failures, 10))
        pause = random.uniform(ceiling / 2, ceiling)
        self._failures += 1
        _log.log(
            logging.WARNING if self._failures == 1 else logging.DEBUG,
            "receive.failed",
            extra={
                "fields": {
                    "queue": self._queue.name,
                    "reason": str(error.__cause__ or error),
                    "retry_in_seconds": round(pause, 2),
                }
            },
        )
        await self._until_stop(asyncio.sleep(pause))

    async def _until_stop(self, work: Coroutine[Any, Any, Value]) -> Value | None:
        """Return the outcome of *work*, None if the worker stops first."""
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            if not task.done():
                task.cancel()
        return task.result() if task.done() and not task.cancelled() else None


class _Poll:
    """One receive call on its thread, which can be left behind without losing what it brings."""

    def __init__(self, sqs: Sqs, stopping: asyncio.Event) -> None:
        self._sqs = sqs
        self._stopping = stopping
        self._lock = threading.Lock()
        self._over = False

    async def run(
        self, queue_url: str, *, most: int, wait_seconds: int, visibility_seconds: int
    ) -> _Outcome:
        loop = asyncio.get_running_loop()
        arrived: asyncio.Future[_Outcome] = loop.create_future()

        def deliver(outcome: list[Received] | TracebatonError) -> bool:
            moment = time.monotonic()  # SQS started the visibility clock just before
            with self._lock:
                if self._over:
                    return False
                self._over = True
            loop.call_soon_threadsafe(arrived.set_result, (outcome, moment))
            return True

        self._sqs.poll(
            queue_url,
            most=most,
            wait_seconds=wait_seconds,
            visibility_seconds=visibility_seconds,
            deliver=deliver,
        )
        stop = asyncio.ensure_future(self._stopping.wait())
        waiting: set[asyncio.Future[Any]] = {arrived, stop}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if not arrived.done():
                await asyncio.wait({arrived}, timeout=PARKED_SECONDS)
        finally:
            stop.cancel()
        with self._lock:
            left_behind, self._over = not self._over, True
        return ([], time.monotonic()) if left_behind else await arrived

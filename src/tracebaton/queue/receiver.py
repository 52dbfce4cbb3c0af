"""
Receiving: long polls that ask only for what there is room for.
"""

import asyncio
import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tracebaton.errors import TracebatonError
from tracebaton.queue.client_spans import ClientSpans
from tracebaton.queue.meters import WorkerMeters
from tracebaton.queue.room import Share
from tracebaton.queue.sqs import BATCH, Queue, Received, Sqs
from tracebaton.queue.stop import Stop

__all__ = ["Polls", "Receiver"]

#: SQS's longest wait for a message, in seconds.
WAIT_SECONDS: Final = 20
#: Seconds a parked poll is awaited at stop before its connection is left behind.
PARKED_SECONDS: Final = 2.0
#: Bounds of the back-off after a failed receive, in seconds.
_BACKOFF_BASE, _BACKOFF_CAP = 0.5, 30.0

_log = logging.getLogger("tracebaton.worker")

Deliver = Callable[[Received, float], None]
_Outcome = tuple[list[Received] | TracebatonError, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Polls:
    """
    How a queue is polled.

    Attributes:
        deliver: Takes a message and the monotonic moment of its arrival; must not raise.
        most: Messages to ask for at once; one for a FIFO queue.
        work: Set while receives bring what they ask for.
    """

    sqs: Sqs
    queue: Queue
    share: Share
    stop: Stop
    deliver: Deliver
    visibility_seconds: int
    most: int = BATCH
    wait_seconds: int = WAIT_SECONDS
    work: asyncio.Event = field(default_factory=asyncio.Event)
    meters: WorkerMeters = field(default_factory=WorkerMeters)
    spans: ClientSpans | None = None


class Receiver:
    """
    One poll loop of a queue.

    A receive that fails backs off with full jitter, from half a second up to half a minute, and
    makes the worker not ready until one succeeds; it never gives up and never spins.
    """

    def __init__(self, polls: Polls) -> None:
        self._polls = polls
        self._failures = 0
        #: Whether the last receive brought half of what was asked for, or more.
        self.busy: bool = False
        #: Monotonic moment of the last receive that SQS answered, None before the first.
        self.answered_at: float | None = None
        #: Monotonic moment since which a receive is awaited, None while there is none on its way.
        self.quiet_since: float | None = None

    @property
    def healthy(self) -> bool:
        """Tell whether the last receive was answered."""
        return self._failures == 0

    async def run(self, *, while_busy: bool = False) -> None:
        """
        Poll until the worker stops.

        Args:
            while_busy: Only until a receive brings little.
        """
        while not await self._poll():
            if while_busy and self.healthy and not self.busy:
                return

    async def _poll(self) -> bool:
        """Receive once, when there is room; True if the worker stops."""
        share = self._polls.share
        # Beside other queues an idle one holds no more than the place that is kept for it.
        granted = share.ask(self._polls.most if self.busy or share.alone else 1)
        try:
            stopping = await self._polls.stop.or_done(granted)
        except asyncio.CancelledError:
            share.withdraw(granted)
            raise
        if stopping:
            share.withdraw(granted)
            return True
        left = places = granted.result()
        try:
            outcome = await self._receive(places)
            for message in outcome:
                left -= 1
                self._polls.deliver(*message)
        finally:
            share.give_back(left)
        return self._polls.stop.asked

    async def _receive(self, places: int) -> list[tuple[Received, float]]:
        poll, started = _Poll(self._polls), time.perf_counter()
        self.quiet_since = self.quiet_since or time.monotonic()
        outcome, arrived = await poll.run(most=places, wait_seconds=self._wait(places))
        self.quiet_since = None
        self._measure(outcome, time.perf_counter() - started)
        if isinstance(outcome, TracebatonError):
            await self._back_off(outcome)
            return []
        if self._failures:
            _log.info("receive.recovered", extra={"fields": {"failures": self._failures}})
        self._failures = 0
        self.answered_at = arrived
        self.busy = 2 * len(outcome) >= places
        (self._polls.work.set if self.busy else self._polls.work.clear)()
        return [(message, arrived) for message in outcome]

    def _wait(self, places: int) -> int:
        """Return how long to wait for a message: not long with places that others could use."""
        if self.answered_at is None or self._failures:
            return 0  # nobody knows yet whether SQS answers, and who asks is not told so long
        longest = self._polls.wait_seconds
        return longest if places == 1 or self._polls.share.alone else min(1, longest)

    def _measure(self, outcome: list[Received] | TracebatonError, seconds: float) -> None:
        name, meters = self._polls.queue.name, self._polls.meters
        meters.called(name, "receive")
        if isinstance(outcome, TracebatonError):
            error_type = type(outcome).__qualname__
            meters.messaging.received(name, seconds, messages=0, error_type=error_type)
        else:
            meters.messaging.received(name, seconds, messages=len(outcome))
            meters.age(name, max(map(_age, outcome), default=0.0))
            if self._polls.spans is not None:
                self._polls.spans.received(len(outcome), seconds)

    async def _back_off(self, error: TracebatonError) -> None:
        ceiling = min(_BACKOFF_CAP, _BACKOFF_BASE * 2 ** min(self._failures, 10))
        pause = random.uniform(ceiling / 2, ceiling)
        self._failures += 1
        self.busy = False
        _log.log(
            logging.WARNING if self._failures == 1 else logging.DEBUG,
            "receive.failed",
            extra={
                "fields": {
                    "queue": self._polls.queue.name,
                    "reason": str(error.__cause__ or error),
                    "retry_in_seconds": round(pause, 2),
                }
            },
        )
        await self._polls.stop.sleep(pause)


def _age(message: Received) -> float:
    """Return how long ago *message* was sent, in seconds."""
    sent = message.system.get("SentTimestamp")
    return 0.0 if sent is None else max(0.0, time.time() - int(sent) / 1000)


class _Poll:
    """One receive call on its thread, which can be left behind without losing what it brings."""

    def __init__(self, polls: Polls) -> None:
        self._polls = polls
        self._lock = threading.Lock()
        self._over = False
        self._close: Callable[[], None] = lambda: None

    async def run(self, *, most: int, wait_seconds: int) -> _Outcome:
        try:
            queue_url = await self._polls.queue.url()
        except TracebatonError as exc:  # it could not be looked up
            return exc, time.monotonic()
        loop = asyncio.get_running_loop()
        arrived: asyncio.Future[_Outcome] = loop.create_future()

        def deliver(outcome: list[Received] | TracebatonError) -> bool:
            moment = time.monotonic()  # SQS started the visibility clock just before
            with self._lock:
                if self._over:
                    return False
                self._over = True
            loop.call_soon_threadsafe(_hand_over, arrived, (outcome, moment))
            return True

        self._close = self._polls.sqs.poll(
            queue_url,
            most=most,
            wait_seconds=wait_seconds,
            visibility_seconds=self._polls.visibility_seconds,
            deliver=deliver,
        )
        return await self._outcome(arrived)

    async def _outcome(self, arrived: "asyncio.Future[_Outcome]") -> _Outcome:
        try:
            if await self._polls.stop.or_done(arrived) and not arrived.done():
                await asyncio.wait({arrived}, timeout=PARKED_SECONDS)
        except asyncio.CancelledError:
            self._leave_behind()
            raise
        return ([], time.monotonic()) if self._leave_behind() else await arrived

    def _leave_behind(self) -> bool:
        """
        Close the poll; False if it has brought its messages.

        One that went on would take messages that were just released, and an attempt of each. One
        that cannot be closed gives them back.
        """
        with self._lock:
            left_behind, self._over = not self._over, True
        if left_behind:
            self._close()
        return left_behind


def _hand_over(arrived: "asyncio.Future[_Outcome]", outcome: _Outcome) -> None:
    if not arrived.done():
        arrived.set_result(outcome)

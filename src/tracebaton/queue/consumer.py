"""
One queue of a worker: what is received from it is leased, handled and settled.
"""

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tracebaton.queue.attempt import Verdict
from tracebaton.queue.client_spans import ClientSpans
from tracebaton.queue.delivery import Delivery
from tracebaton.queue.depth import watch_depth
from tracebaton.queue.heartbeat import Leases
from tracebaton.queue.lease import MARGIN, Lease
from tracebaton.queue.meters import WorkerMeters
from tracebaton.queue.pollers import Pollers
from tracebaton.queue.receiver import Polls
from tracebaton.queue.records import LeaseRecords
from tracebaton.queue.room import Share
from tracebaton.queue.settle import Settler
from tracebaton.queue.sqs import BATCH, Queue, Received, Sqs
from tracebaton.queue.stop import Stop
from tracebaton.semconv import EVENT_WORKER_FAILURE

__all__ = ["Consumer", "Limits", "Tally"]

_log = logging.getLogger("tracebaton.worker")


@dataclass(slots=True)
class Tally:
    """
    What became of messages, counted over all queues of a worker.

    Attributes:
        let_go: Given up at the stop, so that they can be released.
    """

    acked: int = 0
    let_go: int = 0
    released: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """
    What one worker allows itself.

    Attributes:
        concurrency: Handlers that run at once.
        patience: Seconds after which a receive counts as hung, None for the default.
        depth_seconds: Seconds between two looks at the queue's depth, None to measure none.
    """

    concurrency: int = 10
    visibility_seconds: int = 60
    wait_seconds: int = 20
    patience: float | None = None
    depth_seconds: float | None = None


class Consumer:
    """Works on the messages of one queue until told to stop."""

    def __init__(
        self,
        sqs: Sqs,
        queue: Queue,
        *,
        share: Share,
        slots: asyncio.Semaphore | None,
        delivery: Delivery,
        records: LeaseRecords,
        limits: Limits,
        stop: Stop,
        tally: Tally,
        meters: WorkerMeters,
        spans: ClientSpans,
    ) -> None:
        """
        Set which queue.

        Args:
            share: Its share of the places that messages are held in.
            slots: Free handlers, where fewer run than messages are held.
        """
        self._sqs = sqs
        self.queue = queue
        self._share = share
        self._slots = slots
        self.delivery = delivery
        self._records = records
        self._limits = limits
        self._stop = stop
        self._tally = tally
        self._meters = meters
        self._spans = spans
        self._pollers: Pollers | None = None
        self._leases: Leases
        self._settler: Settler
        self._beside: list[asyncio.Task[None]] = []
        #: What is in hand.
        self.running: dict[asyncio.Task[None], Lease] = {}

    @property
    def answered(self) -> bool:
        """Tell whether the queue answers."""
        return self._pollers is not None and self._pollers.answered

    @property
    def alive(self) -> bool:
        """Tell whether receives come back."""
        return self._pollers is None or self._pollers.alive

    @property
    def on_time(self) -> bool:
        """Tell whether the leases are extended in time."""
        return self._pollers is None or self._leases.on_time

    async def open(self) -> None:
        """Look the queue up and start the heartbeat."""
        url = await self.queue.url()
        self._leases = Leases(
            self._sqs,
            url,
            visibility_seconds=self._limits.visibility_seconds,
            on_extended=self._records.renew,
            meters=self._meters,
        )
        self._settler = Settler(self._sqs, url, meters=self._meters)
        count = _pollers(self._limits.concurrency, fifo=self.queue.fifo)
        self._pollers = Pollers(self._polls(), count, patience=self._limits.patience)
        self._beside.append(asyncio.create_task(self._leases.run(), name="tracebaton-heartbeat"))
        if (seconds := self._limits.depth_seconds) is not None:
            depth = watch_depth(self.queue, self._meters, self._stop, seconds=seconds)
            self._beside.append(asyncio.create_task(depth, name="tracebaton-depth"))

    async def receive(self) -> None:
        """Receive until the stop; what is in hand then is the drain's."""
        assert self._pollers is not None  # it is open
        await self._pollers.run()

    def close(self) -> None:
        """End the heartbeat; what is still in hand comes again when its lease runs out."""
        for task in self._beside:
            task.cancel()

    def _polls(self) -> Polls:
        return Polls(
            sqs=self._sqs,
            queue=self.queue,
            share=self._share,
            stop=self._stop,
            deliver=self._take,
            visibility_seconds=self._limits.visibility_seconds,
            # One receive may bring several messages of one group; those behind a failing head would
            # lose an attempt each time. One at a time, SQS keeps them in the queue.
            most=1 if self.queue.fifo else BATCH,
            wait_seconds=self._limits.wait_seconds,
            meters=self._meters,
            spans=self._spans,
        )

    def _take(self, message: Received, received_at: float) -> None:
        if self._leases.adopt(message, received_at=received_at):
            self._share.give_back(1)
            _log.info("message.redelivered", extra={"fields": {"message_id": message.message_id}})
            return
        lease = self._leases.add(message, received_at=received_at)
        # A poll that was parked when the stop came may still bring some: nothing begins after it.
        work = self._return(lease) if self._stop.asked else self._work(lease)
        task = asyncio.create_task(work, name=f"message {message.message_id}")
        lease.when_over(task.cancel)
        self.running[task] = lease
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        lease = self.running.pop(task)
        self._leases.drop(lease)
        lease.finished()
        self._share.give_back(1)
        if not task.cancelled() and (failure := task.exception()):
            # A mistake of ours in settling: the message comes again when its lease runs out.
            _log.error(EVENT_WORKER_FAILURE, exc_info=failure)

    async def _work(self, lease: Lease) -> None:
        # Whoever cancels this, the lease or the drain, does so while the lease is held, and it is
        # no longer held once the message is being settled: a finished one is settled whole.
        if self._slots is None:
            verdict = await self.delivery.run(lease)
        else:
            async with self._slots:
                verdict = await self.delivery.run(lease)
        await self._settle(lease, verdict)

    async def _settle(self, lease: Lease, verdict: Verdict) -> None:
        if not self._leases.settle(lease) or verdict.action == "leave":
            return
        if verdict.action == "retry":
            await self._show(lease, verdict.delay)
        elif await self._ack(lease):
            self._tally.acked += 1
        else:
            fields = {"message_id": lease.message.message_id}
            _log.warning("ack.failed", extra={"fields": fields})

    async def _ack(self, lease: Lease) -> bool:
        handle, until = lease.message.receipt_handle, lease.deadline - MARGIN
        if not self._spans.settles:
            return await self._settler.ack(handle, until=until)
        with self._spans.settling(lease, "ack") as outcome:
            outcome.confirmed = await self._settler.ack(handle, until=until)
        return outcome.confirmed

    async def _nack(self, lease: Lease, delay: int) -> bool:
        handle, until = lease.message.receipt_handle, lease.deadline - MARGIN
        with self._spans.settling(lease, "nack") as outcome:
            outcome.confirmed = await self._settler.nack(handle, delay, until=until)
        return outcome.confirmed

    async def _show(self, lease: Lease, delay: int) -> bool:
        """Make the message visible after *delay* seconds, of the 12 hours that SQS allows."""
        delay = min(delay, max(0, int(lease.left(time.monotonic())) - 1))
        if await self._leases.quiet(lease) and await self._nack(lease, delay):
            return True
        fields = {"message_id": lease.message.message_id, "delay_seconds": delay}
        _log.warning("visibility.failed", extra={"fields": fields})
        return False

    async def _return(self, lease: Lease) -> None:
        await self.release(self._let_go([lease]))

    def give_up(self, *, begun: bool) -> Sequence[Lease]:
        """
        Take what is in hand out of it, and return what `release()` has to make visible again.

        Args:
            begun: Also what a handler has; it is cancelled, and what it does then is discarded.
        """
        # What is being settled may end: a finished message is not given back.
        chosen = {
            task: lease
            for task, lease in self.running.items()
            if lease.state == "held" and (begun or lease.context is None)
        }
        for task in chosen:
            task.cancel()
        return self._let_go(chosen.values())

    def _let_go(self, leases: Iterable[Lease]) -> Sequence[Lease]:
        ours = [lease for lease in leases if self._leases.settle(lease, "released")]
        self._tally.let_go += len(ours)
        return ours

    async def release(self, leases: Sequence[Lease]) -> None:
        """Make the messages of *leases* visible at once, which does not count as failed."""
        shown = await asyncio.gather(*(self._show(lease, 0) for lease in leases))
        self._tally.released += sum(shown)
        await self._records.give_back(leases)

    @property
    def unsettled(self) -> int:
        """Return how many finished messages SQS has not confirmed to be settled."""
        return sum(lease.state == "settling" for lease in self.running.values())

    async def flush(self) -> None:
        """Wait until everything in hand is settled."""
        while self.running:
            await asyncio.wait(set(self.running))
        await self._settler.flush()


def _pollers(concurrency: int, *, fifo: bool) -> int:
    """Return how many polls keep *concurrency* handlers busy: each brings ten messages, or one."""
    return min(8, concurrency) if fifo else max(1, min(4, concurrency // BATCH))

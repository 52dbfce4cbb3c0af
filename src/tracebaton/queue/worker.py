"""
The worker: messages in, handlers run, every message settled in one of the ways the README lists.

A message is leased when it arrives, handled by `Delivery`, and settled by its verdict: deleted,
made visible again after a delay, or left alone because it is no longer ours.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from opentelemetry.trace import Tracer

from tracebaton.context import RequestStore
from tracebaton.errors import TracebatonError
from tracebaton.problems import NO_REPORTER, Reporter
from tracebaton.propagation import Propagator
from tracebaton.queue.attempt import Verdict
from tracebaton.queue.delivery import Delivery
from tracebaton.queue.foreign import ForeignRoute
from tracebaton.queue.incoming import Reader
from tracebaton.queue.lease import Lease, Leases, State
from tracebaton.queue.quarantine import Quarantine
from tracebaton.queue.receiver import Receiver, Room
from tracebaton.queue.records import LeaseRecords
from tracebaton.queue.retry import RetryPolicy
from tracebaton.queue.settle import Settler
from tracebaton.queue.signature import MessageKeys
from tracebaton.queue.sqs import BATCH, Queue, Received, Sqs
from tracebaton.queue.threads import HandlerThreads
from tracebaton.semconv import EVENT_LEASE_EXPIRED, EVENT_LEASE_LOST, EVENT_WORKER_FAILURE
from tracebaton.tasks import Registry, TaskStore

__all__ = ["DrainReport", "Worker"]

#: Seconds that releasing what is left may take after the drain deadline (SPEC 4).
RELEASE_SECONDS = 5.0

_log = logging.getLogger("tracebaton.worker")


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


class Worker:
    """Runs the handlers of *registry* on the messages of one queue."""

    def __init__(
        self,
        sqs: Sqs,
        queue: Queue,
        *,
        registry: Registry,
        store: TaskStore | None,
        tracer: Tracer,
        propagator: Propagator,
        reporter: Reporter = NO_REPORTER,
        policy: RetryPolicy | None = None,
        quarantine: Queue | None = None,
        foreign: Sequence[ForeignRoute] = (),
        keys: MessageKeys | None = None,
        store_type: type[RequestStore] = RequestStore,
        concurrency: int = 10,
        visibility_seconds: int = 60,
        drain_seconds: float = 20.0,
        wait_seconds: int = 20,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Set what to work on, and how.

        Args:
            store: Where the tasks are, None to run without task resources.
            quarantine: Where messages go that cannot be handled; without it they stay until SQS
                moves them to the DLQ.
            foreign: Name the task types of messages that no producer of ours wrote.
            keys: With them, only signed messages are handled.
            store_type: The request store's class, with its custom fields.
            concurrency: Messages in hand at once.
        """
        self._sqs = sqs
        self._queue = queue
        self._policy = policy or RetryPolicy()
        self._concurrency = concurrency
        self._visibility = visibility_seconds
        self._drain_seconds = drain_seconds
        self._wait = wait_seconds
        self._threads = HandlerThreads(concurrency)
        self._delivery = Delivery(
            queue_name=queue.name,
            reader=Reader(queue_name=queue.name, routes=foreign, keys=keys),
            registry=registry,
            store=store,
            tracer=tracer,
            propagator=propagator,
            reporter=reporter,
            policy=self._policy,
            threads=self._threads,
            store_type=store_type,
            quarantine=None
            if quarantine is None
            else Quarantine(sqs, quarantine, source=queue.name, tracer=tracer, now=now),
            now=now,
        )
        self._records = LeaseRecords(store, now=now)
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._room = Room(concurrency)
        self._running: dict[asyncio.Task[None], Lease] = {}
        self._receivers: list[Receiver] = []
        self._acked = self._released = self._abandoned = 0

    @property
    def in_hand(self) -> int:
        """Return how many messages are held."""
        return len(self._running)

    def health(self) -> Mapping[str, bool]:
        """Tell what works: the queue answers, and the messages' tasks are in our store."""
        return {
            "queue": bool(self._receivers)
            and all(receiver.healthy for receiver in self._receivers)
            and any(receiver.answered_at is not None for receiver in self._receivers),
            "task_store": self._delivery.store_matches,
            "running": not self._stopping.is_set(),
        }

    def stop(self) -> None:
        """Stop receiving and drain; a second call releases what is in hand at once."""
        if self._stopping.is_set():
            self._hurry.set()
        else:
            self._acked = 0  # the drain report counts from here
        self._stopping.set()

    async def run(self) -> DrainReport:
        """Work until `stop()` is called and everything in hand is settled."""
        url = await self._queue.url()
        self._leases = Leases(
            self._sqs,
            url,
            visibility_seconds=self._visibility,
            on_extended=self._records.renew,
        )
        self._settler = Settler(self._sqs, url)
        heartbeat = asyncio.create_task(self._leases.run(), name="tracebaton-heartbeat")
        watch = asyncio.create_task(self._delivery.calls.watch(), name="tracebaton-cancellations")
        pollers = _pollers(self._concurrency, fifo=self._queue.fifo)
        self._receivers = [self._receiver() for _ in range(pollers)]
        try:
            await asyncio.gather(*(receiver.run() for receiver in self._receivers))
            await self._drain()
        finally:
            heartbeat.cancel()
            watch.cancel()
            self._records.close()
            self._threads.close()
        return DrainReport(acked=self._acked, released=self._released, abandoned=self._abandoned)

    def _receiver(self) -> Receiver:
        return Receiver(
            self._sqs,
            self._queue,
            room=self._room,
            visibility_seconds=self._visibility,
            deliver=self._take,
            stopping=self._stopping,
            # One receive may bring several messages of one group; those behind a failing head would
            # lose an attempt each time. One at a time, SQS keeps them in the queue.
            most=1 if self._queue.fifo else BATCH,
            wait_seconds=self._wait,
        )

    def _take(self, message: Received, received_at: float) -> None:
        if self._leases.adopt(message, received_at=received_at):
            self._room.give_back(1)
            _log.info("message.redelivered", extra={"fields": {"message_id": message.message_id}})
            return
        lease = self._leases.add(message, received_at=received_at)
        task = asyncio.create_task(self._handle(lease), name=f"message {message.message_id}")
        self._running[task] = lease
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        lease = self._running.pop(task)
        self._leases.drop(lease)
        self._room.give_back(1)
        if not task.cancelled() and (failure := task.exception()):
            # A mistake of ours in settling: the message comes again when its lease runs out.
            _log.error(EVENT_WORKER_FAILURE, exc_info=failure)

    async def _handle(self, lease: Lease) -> None:
        work = asyncio.create_task(self._delivery.run(lease))

        def over(state: State) -> None:
            _log.warning(
                EVENT_LEASE_LOST if state == "lost" else EVENT_LEASE_EXPIRED,
                extra={"fields": {"message_id": lease.message.message_id}},
            )
            work.cancel()

        lease.when_over(over)
        # A cancellation, of the lease or of the drain, ends the handler first: it is what we await.
        await self._settle(lease, await work)

    async def _settle(self, lease: Lease, verdict: Verdict) -> None:
        if not self._leases.settle(lease):
            return
        if verdict.action == "retry":
            delay = min(verdict.delay, max(0, int(lease.left(time.monotonic())) - 1))
            await self._make_visible([(lease.message.receipt_handle, delay)])
        elif verdict.action == "delete":
            # Shielded: a finished message is deleted whatever happens to this task.
            if await asyncio.shield(self._settler.ack(lease.message.receipt_handle)):
                self._acked += 1
            else:
                fields = {"message_id": lease.message.message_id}
                _log.warning("ack.failed", extra={"fields": fields})

    async def _make_visible(self, changes: list[tuple[str, int]]) -> int:
        try:
            outcomes = await self._sqs.change_visibility(await self._queue.url(), changes)
        except TracebatonError as exc:
            _log.warning(
                "visibility.failed",
                extra={"fields": {"messages": len(changes), "reason": str(exc.__cause__ or exc)}},
            )
            return 0
        return outcomes.count("ok")

    async def _drain(self) -> None:
        """Finish for the drain time, then give back the rest, which does not count as failed."""
        if self._running:
            hurry = asyncio.ensure_future(self._hurry.wait())
            everything = asyncio.ensure_future(asyncio.wait(set(self._running)))
            await asyncio.wait(
                {hurry, everything},
                timeout=self._drain_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            hurry.cancel()
            everything.cancel()
        # What is being settled may end: a finished message is not given back.
        left = {task: lease for task, lease in self._running.items() if lease.state == "held"}
        for task in left:
            task.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(RELEASE_SECONDS):
                await self._release(list(left.values()))
                while self._running:
                    await asyncio.wait(set(self._running))
                await self._settler.flush()
        settling = [lease for task, lease in self._running.items() if task not in left]
        unfinished = [lease for lease in left.values() if lease.held]
        self._abandoned = len(unfinished) - self._released + len(settling)

    async def _release(self, leases: list[Lease]) -> None:
        ours = [lease for lease in leases if self._leases.settle(lease)]
        for start in range(0, len(ours), BATCH):
            batch = ours[start : start + BATCH]
            changes = [(lease.message.receipt_handle, 0) for lease in batch]
            self._released += await self._make_visible(changes)
        await self._records.give_back(ours)


def _pollers(concurrency: int, *, fifo: bool) -> int:
    """Return how many polls keep *concurrency* handlers busy: each brings ten messages, or one."""
    return min(8, concurrency) if fifo else max(1, min(4, concurrency // BATCH))

"""
The worker: messages in, handlers run, every message settled in one of the ways the README lists.

A message is leased when it arrives, handled by `Delivery`, and settled by its verdict: deleted,
made visible again after a delay, or left alone because it is no longer ours.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import Tracer

from tracebaton.context import RequestStore
from tracebaton.problems import NO_REPORTER, Reporter
from tracebaton.propagation import Propagator, installed
from tracebaton.queue.arrival import Arrivals
from tracebaton.queue.blocks import BlockWatch
from tracebaton.queue.calling import HandlerCalls
from tracebaton.queue.client_spans import ClientSpans
from tracebaton.queue.consumer import Consumer, Limits, Tally
from tracebaton.queue.delivery import Delivery
from tracebaton.queue.drain import DrainReport, drain
from tracebaton.queue.foreign import ForeignRoute
from tracebaton.queue.incoming import Reader
from tracebaton.queue.meters import WorkerMeters
from tracebaton.queue.quarantine import Quarantine
from tracebaton.queue.records import LeaseRecords
from tracebaton.queue.retry import RetryPolicy
from tracebaton.queue.room import Room
from tracebaton.queue.signature import MessageKeys
from tracebaton.queue.sqs import Queue, Sqs
from tracebaton.queue.stop import Stop
from tracebaton.queue.threads import DaemonThreads
from tracebaton.semconv import SCOPE
from tracebaton.tasks import Registry, TaskStore

__all__ = ["DrainReport", "Worker"]


class Worker:
    """Runs the handlers of *registry* on the messages of one queue or several."""

    def __init__(
        self,
        sqs: Sqs,
        queue: Queue | Mapping[Queue, int],
        *,
        registry: Registry,
        store: TaskStore | None = None,
        tracer: Tracer | None = None,
        propagator: Propagator | None = None,
        reporter: Reporter = NO_REPORTER,
        policy: RetryPolicy | None = None,
        quarantine: Queue | None = None,
        foreign: Sequence[ForeignRoute] = (),
        keys: MessageKeys | None = None,
        store_type: type[RequestStore] = RequestStore,
        concurrency: int = 10,
        prefetch: int = 0,
        visibility_seconds: int = 60,
        drain_seconds: float = 20.0,
        wait_seconds: int = 20,
        patience: float | None = None,
        depth_seconds: float | None = None,
        block_seconds: float | None = None,
        meter_provider: MeterProvider | None = None,
        client_spans: Collection[str] = (),
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Set what to work on, and how.

        Args:
            queue: One, or several with their weights: while all have messages, a queue of weight 3
                gets three times the handlers of one of weight 1. None ever gets none.
            store: Where the tasks are, None to run without task resources.
            tracer: Of the process's provider by default.
            propagator: The process's by default, see `configure_telemetry()`.
            quarantine: Where messages go that cannot be handled; without it they stay until SQS
                moves them to the DLQ.
            foreign: Name the task types of messages that no producer of ours wrote.
            keys: With them, only signed messages are handled.
            store_type: The request store's class, with its custom fields.
            concurrency: Handlers that run at once.
            prefetch: Messages held beyond those, leased like the others, so that a handler that
                ends finds the next one here.
            patience: Seconds after which a receive counts as hung: by default two long polls
                and 10 s.
            depth_seconds: Seconds between two looks at a queue's depth, for the metrics; None to
                measure none.
            block_seconds: Seconds after which an event loop that does not turn counts as blocked;
                None to watch for none.
            meter_provider: The global one by default.
            client_spans: Make a span of each poll that brings messages (``receive``), of each
                delete and change of visibility (``settle``).
        """
        spans, carrier = tracer or trace.get_tracer(SCOPE), propagator or installed()
        weights = {queue: 1} if isinstance(queue, Queue) else dict(queue)
        self._drain_seconds = drain_seconds
        self._threads = DaemonThreads(concurrency)
        self._calls = HandlerCalls(self._threads, store)
        self._records = LeaseRecords(store, now=now)
        self._stopping, self._hurry, self._tally = Stop(), Stop(), Tally()
        # Every queue has a place at least, be the handlers ever so few.
        self._room = Room(max(concurrency + prefetch, len(weights)))
        slots = asyncio.Semaphore(concurrency) if self._room.size > concurrency else None
        limits = Limits(
            concurrency=concurrency,
            visibility_seconds=visibility_seconds,
            wait_seconds=wait_seconds,
            patience=patience,
            depth_seconds=depth_seconds,
        )
        self._meters = WorkerMeters(meter_provider)
        self._blocks = None
        if block_seconds is not None:
            self._blocks = BlockWatch(
                block_seconds, whose=self._whose, measure=self._meters.blocked
            )
        policy = policy or RetryPolicy()

        def delivery(queue_name: str) -> Delivery:
            arrivals = Arrivals(
                queue_name,
                reader=Reader(queue_name=queue_name, routes=foreign, keys=keys),
                registry=registry,
                tracer=spans,
                propagator=carrier,
                reporter=reporter,
                backoff=policy,
                store_type=store_type,
                meters=self._meters,
                now=now,
            )
            return Delivery(
                arrivals=arrivals,
                registry=registry,
                store=store,
                tracer=spans,
                reporter=reporter,
                policy=policy,
                calls=self._calls,
                quarantine=None
                if quarantine is None
                else Quarantine(sqs, quarantine, source=queue_name, tracer=spans, now=now),
                now=now,
            )

        #: Returns who delivers the messages of the queue of that name.
        self.delivery = delivery
        self._consumers = [
            Consumer(
                sqs,
                one,
                share=self._room.share(weight),
                slots=slots,
                delivery=delivery(one.name),
                records=self._records,
                limits=limits,
                spans=ClientSpans(spans, one.name, client_spans),
                stop=self._stopping,
                tally=self._tally,
                meters=self._meters,
            )
            for one, weight in weights.items()
        ]

    @property
    def in_hand(self) -> int:
        """Return how many messages are held."""
        return sum(len(consumer.running) for consumer in self._consumers)

    def health(self) -> Mapping[str, bool]:
        """Tell what works: for readiness."""
        every = self._consumers
        return {
            "queue": all(consumer.answered for consumer in every),
            "task_store": all(consumer.delivery.store_matches for consumer in every),
            "heartbeat": all(consumer.on_time for consumer in every),
            "event_loop": self._blocks is None or self._blocks.well,
            "running": not self._stopping.asked,
        }

    def _whose(self, task: asyncio.Task[Any]) -> Context | None:
        """Return where the message is that *task* handles."""
        for consumer in self._consumers:
            if (lease := consumer.running.get(task)) is not None:
                return lease.context
        return None

    def alive(self) -> Mapping[str, bool]:
        """Tell whether what cannot be helped but by a new process works: for liveness."""
        return {"pollers": all(consumer.alive for consumer in self._consumers)}

    def stop(self) -> None:
        """Stop receiving and drain; a second call releases what is in hand at once."""
        if self._stopping.asked:
            self._hurry.ask()
        else:
            self._tally.acked = 0  # the drain report counts from here
        self._stopping.ask()

    async def run(self) -> DrainReport:
        """Work until `stop()` is called and everything in hand is settled."""
        watch = asyncio.create_task(self._calls.watch(), name="tracebaton-cancellations")
        if self._blocks is not None:
            self._blocks.start()
        try:
            for consumer in self._consumers:
                await consumer.open()
            await asyncio.gather(*(consumer.receive() for consumer in self._consumers))
            report = await drain(
                self._consumers,
                tally=self._tally,
                seconds=self._drain_seconds,
                hurry=self._hurry,
            )
        finally:
            watch.cancel()
            if self._blocks is not None:
                self._blocks.stop()
            for consumer in self._consumers:
                consumer.close()
            self._records.close()
            self._threads.close()
        self._meters.drained(asdict(report))
        return report

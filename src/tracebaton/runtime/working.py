"""The worker of an application, from the look at its queues to the end of the drain."""

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from tracebaton.context import RequestStore
from tracebaton.errors import ConfigurationError, TracebatonError
from tracebaton.queue.event_source import EventSource
from tracebaton.queue.foreign import ForeignRoute
from tracebaton.queue.retry import RetryPolicy
from tracebaton.queue.sqs import Queue
from tracebaton.queue.worker import DrainReport, Worker
from tracebaton.runtime.process import Runtime

__all__ = ["WorkerService", "check_redrive"]

#: Seconds between two looks at a queue's depth: two calls a minute, where metrics go somewhere.
_DEPTH_SECONDS = 30.0

_log = logging.getLogger("tracebaton")


class WorkerService:
    """The worker of an application: its queue's policy is checked, then it works until stopped."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        foreign: Sequence[ForeignRoute] = (),
        store_type: type[RequestStore] = RequestStore,
        wait_seconds: int = 20,
    ) -> None:
        settings = runtime.settings
        self.runtime = runtime
        self._stopped = asyncio.Event()
        self._ready = False
        self._worker = Worker(
            runtime.sqs,
            runtime.queues,
            registry=runtime.registry,
            store=runtime.store,
            tracer=runtime.telemetry.tracer,
            propagator=runtime.telemetry.propagator,
            reporter=runtime.telemetry.reporter,
            policy=RetryPolicy(
                base_seconds=settings.retry_base_seconds,
                cap_seconds=settings.retry_cap_seconds,
                max_attempts=settings.max_attempts,
            ),
            quarantine=runtime.quarantine,
            foreign=foreign,
            keys=runtime.keys,
            store_type=store_type,
            concurrency=settings.concurrency,
            prefetch=settings.prefetch,
            client_spans=settings.queue_spans,
            visibility_seconds=settings.visibility_seconds,
            drain_seconds=settings.drain_seconds,
            wait_seconds=wait_seconds,
            depth_seconds=_DEPTH_SECONDS if runtime.telemetry.has_metrics else None,
            block_seconds=settings.loop_block_seconds or None,
            meter_provider=runtime.telemetry.meter_provider,
        )
        self._watch = runtime.dlq_watch(foreign)

    async def prepare(self) -> None:
        """
        Wait for each queue and check its redrive policy.

        Raises:
            ConfigurationError: ``maxReceiveCount`` is not ``TRACEBATON_MAX_ATTEMPTS``.
        """
        for queue in self.runtime.queues:
            attributes = await self._attributes(queue)
            if attributes is None:
                return
            check_redrive(queue.name, attributes, self.runtime.settings.max_attempts)
        self._ready = True

    async def _attributes(self, queue: Queue) -> Mapping[str, str] | None:
        """Return what SQS knows of *queue*, None if the stop comes first."""
        pause = 0.5
        while not self._stopped.is_set():
            try:
                return await queue.attributes()
            except TracebatonError as exc:
                fields = {"queue": queue.name, "reason": str(exc.__cause__ or exc)}
                _log.warning("queue.unavailable", extra={"fields": fields})
                await _first(self._stopped.wait(), asyncio.sleep(pause))
                pause = min(30.0, pause * 2)
        return None

    @property
    def stopped(self) -> bool:
        """Tell whether a stop was asked for."""
        return self._stopped.is_set()

    async def run(self) -> DrainReport:
        """Work until `stop()`; everything in hand is settled when this returns."""
        if self._stopped.is_set():
            return DrainReport(acked=0, released=0, abandoned=0)
        async with self.runtime.upkept():
            return await self._run()

    async def _run(self) -> DrainReport:
        if self._watch is None:
            return await self._worker.run()
        watching = asyncio.create_task(self._watch.run(self._stopped))
        try:
            return await self._worker.run()
        finally:
            self._stopped.set()
            await watching

    def event_source(self) -> EventSource:
        """Return what handles the events of an SQS event source of AWS Lambda with this worker."""
        queues = {queue.name: queue for queue in self.runtime.queues}

        async def url(name: str) -> str:
            return await (queues.get(name) or Queue(self.runtime.sqs, name=name)).url()

        return EventSource(
            self.runtime.sqs,
            delivery=cache(self._worker.delivery),
            url=url,
            concurrency=self.runtime.settings.concurrency,
        )

    def stop(self) -> None:
        """Stop receiving and drain; a second call gives back what is in hand at once."""
        self._stopped.set()
        self._worker.stop()

    async def ready(self) -> Mapping[str, bool]:
        """Tell what works, for ``/readyz``."""
        return self._worker.health() if self._ready else {"queue": False}

    async def alive(self) -> Mapping[str, bool]:
        """Tell whether a new process would do no better, for ``/livez``."""
        return self._worker.alive()

    async def started(self) -> Mapping[str, bool]:
        """Tell whether the queue was found and is as it has to be, for ``/startupz``."""
        return {"queue": self._ready}


async def _first(*work: Any) -> None:
    tasks = [asyncio.ensure_future(one) for one in work]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


def check_redrive(queue_name: str, attributes: Mapping[str, str], max_attempts: int) -> None:
    """
    Refuse a queue whose redrive policy does not fit, because both ends count the same attempts.

    Raises:
        ConfigurationError: The two numbers differ, or the queue has no dead-letter queue.
    """
    policy = attributes.get("RedrivePolicy")
    if policy is None:
        raise ConfigurationError(
            f"TRACEBATON_QUEUE_URL: the queue {queue_name} has no redrive policy, so a message that"
            f" always fails would come back for ever. Give it a DLQ with maxReceiveCount"
            f" {max_attempts}"
        )
    count = int(json.loads(policy).get("maxReceiveCount", 0))
    if count != max_attempts:
        raise ConfigurationError(
            f"TRACEBATON_MAX_ATTEMPTS: is {max_attempts}, but the maxReceiveCount of the queue"
            f" {queue_name} is {count}. Make them equal"
        )

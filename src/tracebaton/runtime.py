"""
The one place that knows every room: settings become telemetry, queue, store, app and worker.

It owns the shutdown order too: what still makes spans stops first, what sends them last.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache, cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from tracebaton.context import RequestStore
from tracebaton.errors import ConfigurationError, TracebatonError
from tracebaton.http.auth import Authenticator, authenticator
from tracebaton.http.limits import RateLimit, limits
from tracebaton.http.proxies import Proxies
from tracebaton.logs import configure_logging
from tracebaton.queue.dead import DeadLetters
from tracebaton.queue.dlq_watch import DlqWatch
from tracebaton.queue.event_source import EventSource
from tracebaton.queue.foreign import ForeignRoute
from tracebaton.queue.incoming import Reader
from tracebaton.queue.letters import Kind, Letters
from tracebaton.queue.producer import Producer
from tracebaton.queue.redrive import Redrive
from tracebaton.queue.resender import Resender
from tracebaton.queue.retry import RetryPolicy
from tracebaton.queue.signature import MessageKeys
from tracebaton.queue.sqs import Queue, Sqs, SqsAccess
from tracebaton.queue.upkeep import Upkeep
from tracebaton.queue.worker import DrainReport, Worker
from tracebaton.semconv import EVENT_SETTING_UNKNOWN
from tracebaton.settings import Settings
from tracebaton.tasks import Registry, TaskStore
from tracebaton.tasks.sqlite import SqliteTaskStore
from tracebaton.telemetry.pipeline import FlushReport, Telemetry, build, standing

__all__ = [
    "Role",
    "Runtime",
    "WorkerService",
    "check_redrive",
    "configure_telemetry",
    "task_store",
]

#: Seconds the last spans and events get to leave the process.
FLUSH_SECONDS = 4.0

#: Seconds between two looks at a queue's depth: two calls a minute, where metrics go somewhere.
_DEPTH_SECONDS = 30.0

Role = Literal["api", "worker"]

_log = logging.getLogger("tracebaton")


def configure_telemetry(
    settings: Settings | None = None,
    *,
    role: Role = "api",
    sample_rates: Mapping[str, float] = MappingProxyType({}),
) -> Telemetry:
    """
    Set up tracing for someone else's process: providers, propagator and sinks by *settings*.

    Call its ``shutdown(timeout)`` before the process ends; what still waits at the end of the
    interpreter gets two seconds then.

    Args:
        settings: Read from the environment by default.
        role: Names the service where ``OTEL_SERVICE_NAME`` does not.
        sample_rates: Shares of traces to keep, by route or task type; ``TRACEBATON_SAMPLE_RATES``
            wins.

    Raises:
        ConfigurationError: A setting is wrong.
    """
    settings = settings or Settings.load()
    telemetry = standing(settings, role=role, sample_rates=sample_rates)
    if telemetry is None:
        telemetry = build(settings, role=role, sample_rates=sample_rates)
        telemetry.asked = (settings, role)
    return telemetry


class Runtime:
    """What one process needs, built from *settings* and closed in order."""

    def __init__(
        self,
        settings: Settings,
        *,
        role: Role,
        registry: Registry,
        telemetry: Telemetry | None = None,
        sample_rates: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self.settings = settings
        self.registry = registry
        if settings.queue_url is None and settings.queue_name is None:
            raise ConfigurationError(
                "TRACEBATON_QUEUE_URL: is not set, nor TRACEBATON_QUEUE_NAME;"
                " `tracebaton dev` brings a queue of its own"
            )
        # The process may have it already; whoever built it shuts it down.
        self._shared = (
            None if telemetry else standing(settings, role=role, sample_rates=sample_rates)
        )
        self.telemetry = (
            telemetry or self._shared or build(settings, role=role, sample_rates=sample_rates)
        )
        self.service_name = str(self.telemetry.resource.attributes["service.name"])
        self.sqs = Sqs(SqsAccess.of(settings))
        self.queue = Queue(self.sqs, url=settings.queue_url, name=settings.queue_name)
        #: What a worker receives from, by weight; tasks are sent to the first one.
        self.queues = self._queues()
        self.quarantine = (
            Queue(self.sqs, url=settings.quarantine_url) if settings.quarantine_url else None
        )
        self.dlq = Queue(self.sqs, url=settings.dlq_url) if settings.dlq_url else None
        self.keys = MessageKeys(settings.message_keys) if settings.message_keys else None
        self.store: TaskStore | None = task_store(settings)
        self.producer = Producer(
            self.sqs,
            self.queue,
            registry=registry,
            store=self.store,
            tracer=self.telemetry.tracer,
            propagator=self.telemetry.propagator,
            source=f"/{self.service_name}",
            keys=self.keys,
        )

    def _queues(self) -> dict[Queue, int]:
        urls, names = self.settings.queue_urls, self.settings.queue_names
        queues = (
            [Queue(self.sqs, url=one.queue) for one in urls[1:]]
            if urls
            else [Queue(self.sqs, name=one.queue) for one in names[1:]]
        )
        weights = [one.weight for one in urls or names]
        return dict(zip([self.queue, *queues], weights, strict=True))

    @cached_property
    def authenticator(self) -> Authenticator:
        """Return who tells whom a request is from."""
        return authenticator(self.settings)

    @cached_property
    def limits(self) -> RateLimit:
        """Return how much one user, or one address, may ask of this process."""
        return limits(self.settings)

    @cached_property
    def proxies(self) -> Proxies:
        """Return the proxies that are believed about who asks."""
        return Proxies(self.settings.trusted_proxies)

    def configure_logging(self) -> None:
        """Send every log line of this process through the one schema."""
        chosen = self.settings.log_format
        configure_logging(
            service=self.service_name,
            level=self.settings.log_level,
            pretty=None if chosen is None else chosen == "pretty",
            also=self.telemetry.log_handler,
        )
        for name, nearest in sorted(self.settings.unknown.items()):
            fields = {"variable": name, "nearest": nearest}
            _log.warning(EVENT_SETTING_UNKNOWN, extra={"fields": fields})

    def trace_url(self, trace_id: str) -> str | None:
        """Return where a person can look at the trace, None without a viewer."""
        viewer = self.settings.viewer_url
        return f"{viewer.rstrip('/')}/#/trace/{trace_id}" if viewer else None

    def dead_letters(self, dlq: Queue, foreign: Sequence[ForeignRoute] = ()) -> DeadLetters | None:
        """Return who ends the tasks of the messages in *dlq*, None without a task store."""
        if self.store is None:
            return None
        return DeadLetters(
            queue_name=dlq.name,
            reader=Reader(queue_name=self.queue.name, routes=foreign, keys=self.keys),
            store=self.store,
            tracer=self.telemetry.tracer,
            propagator=self.telemetry.propagator,
            reporter=self.telemetry.reporter,
        )

    def dlq_watch(self, foreign: Sequence[ForeignRoute] = ()) -> DlqWatch | None:
        """Return the watcher of the DLQ, None where no DLQ or no task store is known."""
        letters = None if self.dlq is None else self.dead_letters(self.dlq, foreign)
        if self.dlq is None or letters is None:
            return None
        return DlqWatch(self.sqs, self.dlq, letters=letters, interval=self.settings.dlq_seconds)

    async def mailbox(self, kind: Kind) -> Queue:
        """
        Return the DLQ, the one of the queue's redrive policy where none is set, or the quarantine.

        Raises:
            ConfigurationError: There is none.
        """
        if kind == "quarantine":
            if self.quarantine is None:
                raise ConfigurationError("TRACEBATON_QUARANTINE_URL: is not set")
            return self.quarantine
        if self.dlq is None:
            policy = json.loads((await self.queue.attributes()).get("RedrivePolicy", "{}"))
            name = str(policy.get("deadLetterTargetArn", "")).rpartition(":")[2]
            if not name:
                raise ConfigurationError(
                    "TRACEBATON_DLQ_URL: is not set, and the queue has no redrive policy"
                )
            self.dlq = Queue(self.sqs, name=name)
        return self.dlq

    def letters(self, kind: Kind) -> Letters:
        """Return who reads the messages of a mailbox."""
        return Letters(kind, queue_name=self.queue.name, store=self.store)

    def redrive(self) -> Redrive:
        """Return what sends letters back to the queue."""
        return Redrive(
            self.sqs,
            self.queue,
            store=self.store,
            tracer=self.telemetry.tracer,
            propagator=self.telemetry.propagator,
        )

    async def ready(self) -> Mapping[str, bool]:
        """Ask queue and store whether they answer."""
        checks: dict[str, Callable[[], Awaitable[Any]]] = {"queue": self.queue.attributes}
        if self.store is not None:
            checks["task_store"] = self.store.check
        answers = await asyncio.gather(*(_works(check) for check in checks.values()))
        return dict(zip(checks, answers, strict=True))

    @asynccontextmanager
    async def upkept(self) -> AsyncIterator[None]:
        """Do what the task store needs beside the work, for the length of a block."""
        if self.store is None:
            yield
            return
        resender = Resender(
            self.sqs,
            self.queue,
            store=self.store,
            tracer=self.telemetry.tracer,
            propagator=self.telemetry.propagator,
            keys=self.keys,
        )
        upkeep = Upkeep(
            self.store,
            resender,
            retention_seconds=self.settings.retention_hours * 3_600,
            reporter=self.telemetry.reporter,
        )
        async with upkeep.running():
            yield

    async def close(self) -> FlushReport:
        """Send what still waits, close store and queue, then flush telemetry's last."""
        await self.producer.close()  # its tasks are taken back from the store where that fails
        if self.store is not None:
            await self.producer.outbox.flush()
            await self.store.close()
        await self.sqs.close()
        end = self.telemetry.flush if self._shared else self.telemetry.shutdown
        return await asyncio.to_thread(end, FLUSH_SECONDS)


async def _works(check: Callable[[], Awaitable[Any]]) -> bool:
    try:
        await check()
    except TracebatonError:
        return False
    return True


def task_store(settings: Settings) -> TaskStore | None:
    """Return the store that ``TRACEBATON_STORE`` names, unopened; None for ``none``."""
    kind, _, place = settings.store_url.partition("://")
    if kind == "none":
        return None
    if kind == "sqlite":
        return SqliteTaskStore(Path(place.removeprefix("/")))
    from tracebaton.tasks.dynamodb import DynamoAccess, DynamoTaskStore

    local = settings.dynamodb_on_loopback
    access = DynamoAccess(
        endpoint=settings.dynamodb_endpoint,
        region=settings.region or ("us-east-1" if local else None),
        anonymous=local and not settings.has_aws_credentials,
        create=local,  # in AWS the table is made, and paid for, by whoever deploys
    )
    return DynamoTaskStore(place, access=access)


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

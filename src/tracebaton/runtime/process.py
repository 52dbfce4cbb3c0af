"""One process: what an API, a worker and the commands beside them share, and its end."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from types import MappingProxyType
from typing import Any

from tracebaton.errors import ConfigurationError, TracebatonError
from tracebaton.http.auth import Authenticator, authenticator
from tracebaton.http.limits import RateLimit, limits
from tracebaton.http.proxies import Proxies
from tracebaton.logs import configure_logging
from tracebaton.queue.dead import DeadLetters
from tracebaton.queue.dlq_watch import DlqWatch
from tracebaton.queue.foreign import ForeignRoute
from tracebaton.queue.incoming import Reader
from tracebaton.queue.letters import Kind, Letters
from tracebaton.queue.producer import Producer
from tracebaton.queue.redrive import Redrive
from tracebaton.queue.resender import Resender
from tracebaton.queue.signature import MessageKeys
from tracebaton.queue.sqs import Queue, Sqs, SqsAccess
from tracebaton.queue.upkeep import Upkeep
from tracebaton.runtime.parts import Role, task_store
from tracebaton.semconv import EVENT_SETTING_UNKNOWN
from tracebaton.settings import Settings
from tracebaton.tasks import Registry, TaskStore
from tracebaton.telemetry.pipeline import FlushReport, Telemetry, build, standing

__all__ = ["Runtime"]

#: Seconds the last spans and events get to leave the process.
FLUSH_SECONDS = 4.0

_log = logging.getLogger("tracebaton")


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
        self.telemetry: Telemetry = (
            telemetry or self._shared or build(settings, role=role, sample_rates=sample_rates)
        )
        self.service_name: str = str(self.telemetry.resource.attributes["service.name"])
        self.sqs: Sqs = Sqs(SqsAccess.of(settings))
        self.queue: Queue = Queue(self.sqs, url=settings.queue_url, name=settings.queue_name)
        #: What a worker receives from, by weight; tasks are sent to the first one.
        self.queues: dict[Queue, int] = self._queues()
        self.quarantine: Queue | None = (
            Queue(self.sqs, url=settings.quarantine_url) if settings.quarantine_url else None
        )
        self.dlq = Queue(self.sqs, url=settings.dlq_url) if settings.dlq_url else None
        self.keys: MessageKeys | None = (
            MessageKeys(settings.message_keys) if settings.message_keys else None
        )
        self.store: TaskStore | None = task_store(settings)
        self.producer: Producer = Producer(
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

"""A worker and a producer on a real loopback SQS, with what they told a tracer."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from command import clean_environment
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import BaseModel
from sqs_client import sqs_client

from tracebaton.local import LocalSqs
from tracebaton.problems import Outcome
from tracebaton.propagation import Propagator
from tracebaton.queue.message import Attribute, Received
from tracebaton.queue.producer import Producer
from tracebaton.queue.retry import RetryPolicy
from tracebaton.queue.sqs import Queue, Sqs
from tracebaton.queue.worker import DrainReport, Worker
from tracebaton.tasks import Registry, Task, TaskStatus, TaskType
from tracebaton.tasks.sqlite import SqliteTaskStore
from tracebaton.telemetry.enrichment import SpanPipeline


class Note(BaseModel):
    """Data of the tests' task types."""

    text: str = "hello"
    number: int = 0


class Reports(list[tuple[BaseException, Outcome, dict[str, Any]]]):
    """A reporter that keeps what it is given: the seam where Sentry stands in production."""

    def isolated(self) -> contextlib.AbstractContextManager[None]:
        """Isolate nothing: there is nothing shared."""
        return contextlib.nullcontext()

    def report(self, exc: BaseException, outcome: Outcome, **details: Any) -> str | None:
        """Keep the failure and return an event id."""
        self.append((exc, outcome, details))
        return f"{len(self):032x}"


class BenchWorker(Worker):
    """A worker that knows the SQS of its test."""

    local: LocalSqs

    async def gone(self, running: asyncio.Task[DrainReport]) -> None:
        """Wait for the end; a parked poll is answered with nothing, as SQS may, not waited out."""
        while not running.done():
            self.local.broker.close()
            await asyncio.wait({running}, timeout=0.02)


@dataclass
class Bench:
    """Everything one test needs of the queue wing."""

    local: LocalSqs
    sqs: Sqs
    store: SqliteTaskStore
    provider: TracerProvider
    exporter: InMemorySpanExporter
    registry: Registry = field(default_factory=Registry)
    reports: Reports = field(default_factory=Reports)
    propagator: Propagator = field(default_factory=Propagator)
    name: str = "tasks"
    attempts: int = 3
    #: Other clients that a test has made, closed at its end.
    clients: list[Sqs] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.local.create_queue("tasks-dlq")
        target = "arn:aws:sqs:us-east-1:000000000000:tasks-dlq"
        policy = {"deadLetterTargetArn": target, "maxReceiveCount": str(self.attempts)}
        self.local.create_queue("tasks", {"RedrivePolicy": json.dumps(policy)})
        self.local.create_queue("tasks-quarantine")

    @property
    def queue(self) -> Queue:
        """The queue, by URL."""
        return self.named(self.name)

    @property
    def quarantine(self) -> Queue:
        """The quarantine queue, by URL."""
        return self.named("tasks-quarantine")

    def named(self, name: str) -> Queue:
        """The queue called *name*, by URL."""
        return Queue(self.sqs, url=self.local.queue_url(name))

    def client(self) -> Sqs:
        """Another client of the same SQS; who makes it closes it, or adds it to *clients*."""
        return sqs_client(self.local.url)

    def handle(self, handler: Callable[[Note], Any], *, name: str = "note", **options: Any) -> None:
        """Register *handler* for the type *name*."""
        self.registry.add(TaskType(name=name, model=Note, handler=handler, **options))

    async def send(
        self, body: object, attributes: Mapping[str, str | Attribute] | None = None
    ) -> str:
        """Send a message that no producer of ours wrote, as text or as JSON."""
        text = body if isinstance(body, str) else json.dumps(body)
        return await self.sqs.send(await self.queue.url(), text, attributes=attributes or {})

    async def take(self, name: str, *, seconds: int = 5) -> list[Received]:
        """Receive up to ten messages of the queue *name*, waiting for the first, and keep them."""
        loop = asyncio.get_running_loop()
        arrived: asyncio.Future[Any] = loop.create_future()

        def deliver(messages: Any) -> bool:
            loop.call_soon_threadsafe(arrived.set_result, messages)
            return True

        url = self.local.queue_url(name)
        self.sqs.poll(url, most=10, wait_seconds=seconds, visibility_seconds=30, deliver=deliver)
        messages: list[Received] = await arrived
        return messages

    def count(self, name: str = "tasks") -> int:
        """How many messages the queue *name* holds."""
        counts = self.local.stats()[name]
        return counts["visible"] + counts["in_flight"] + counts["delayed"]

    async def holds(self, count: int, name: str = "tasks") -> None:
        """Wait until the queue *name* holds *count* messages."""

        async def ask() -> int:
            return self.count(name)

        await until(ask, lambda answer: bool(answer == count))

    async def spanned(self, name: str) -> ReadableSpan:
        """Wait until a span called *name* has ended and return it."""

        async def ask() -> ReadableSpan | None:
            return self.spans().get(name)

        span: ReadableSpan = await until(ask, lambda span: span is not None)
        return span

    def producer(self, **options: Any) -> Producer:
        """A producer as the API has it."""
        defaults: dict[str, Any] = {
            "registry": self.registry,
            "store": self.store,
            "tracer": self.provider.get_tracer("tracebaton"),
            "propagator": self.propagator,
            "source": "/api",
        }
        given = {"sqs": self.sqs, "queue": self.queue, **defaults, **options}
        return Producer(given.pop("sqs"), given.pop("queue"), **given)

    def worker(self, **options: Any) -> BenchWorker:
        """A worker with quick retries."""
        policy = RetryPolicy(base_seconds=0.01, cap_seconds=0.01, max_attempts=self.attempts)
        defaults: dict[str, Any] = {
            "registry": self.registry,
            "store": self.store,
            "tracer": self.provider.get_tracer("tracebaton"),
            "propagator": self.propagator,
            "policy": policy,
            "reporter": self.reports,
            "wait_seconds": 1,
        }
        queue = options.pop("queue", None) or self.queue
        worker = BenchWorker(self.sqs, queue, **defaults | options)
        worker.local = self.local
        return worker

    async def ended(self, task_id: str) -> Task:
        """Wait until the task has ended and return it."""
        return await until(
            lambda: self.store.get(task_id),
            lambda task: (
                task is not None and task.status not in {TaskStatus.QUEUED, TaskStatus.RUNNING}
            ),
        )

    def spans(self) -> dict[str, ReadableSpan]:
        """The last span of each name."""
        return {span.name: span for span in self.exporter.get_finished_spans()}


async def until(
    ask: Callable[[], Awaitable[Any]], good: Callable[[Any], bool], seconds: float = 10
) -> Any:
    """Ask until the answer is *good*, and return it."""
    async with asyncio.timeout(seconds):
        while not good(answer := await ask()):
            await asyncio.sleep(0.01)
    return answer


def said(caplog: pytest.LogCaptureFixture, event: str) -> list[logging.LogRecord]:
    """Return the lines of *event*."""
    return [record for record in caplog.records if record.message == event]


async def spoken(caplog: pytest.LogCaptureFixture, event: str) -> None:
    """Wait until *event* was logged."""

    async def ask() -> bool:
        return bool(said(caplog, event))

    await until(ask, bool)


@contextlib.asynccontextmanager
async def working(worker: Worker) -> AsyncIterator[asyncio.Task[DrainReport]]:
    """Run *worker* for the length of the block, and drain it."""
    task = asyncio.create_task(worker.run())
    try:
        yield task
    finally:
        worker.stop()
        async with asyncio.timeout(30):
            if isinstance(worker, BenchWorker):
                await worker.gone(task)
            await task


async def stopped(
    worker: BenchWorker, when: asyncio.Event, *then: Callable[[], None]
) -> DrainReport:
    """Run *worker*, stop it at *when*, do what comes *then*, and return what the drain says."""
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(20):
        await when.wait()
        worker.stop()
        for what in then:
            what()
        await worker.gone(running)
        return await running


@pytest.fixture
def attempts() -> int:
    """How many attempts a message has; a module may have other ideas."""
    return 3


@pytest.fixture
async def bench(tmp_path: Path, attempts: int) -> AsyncIterator[Bench]:
    """A fresh SQS, store and tracer."""
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SpanPipeline([SimpleSpanProcessor(exporter)]))
    store = SqliteTaskStore(tmp_path / "tasks.db")
    async with LocalSqs() as local:
        sqs = sqs_client(local.url)
        made = Bench(local, sqs, store, provider, exporter, attempts=attempts)
        yield made
        for client in (sqs, *made.clients):
            await client.close()
    await store.close()
    provider.shutdown()


@pytest.fixture
def clean_env() -> Callable[..., dict[str, str]]:
    """Return what makes an environment of nothing that configures us but what is given."""

    def environment(**given: str) -> dict[str, str]:
        return clean_environment() | given

    return environment

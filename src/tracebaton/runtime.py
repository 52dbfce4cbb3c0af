"""
The one place that knows every room: settings become telemetry, queue, store, app and worker.

It owns the shutdown order too: what still makes spans stops first, what sends them last.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel

from tracebaton.context import RequestStore
from tracebaton.errors import ConfigurationError, TracebatonError
from tracebaton.http.app import create_app
from tracebaton.http.auth import Authenticator, authenticator
from tracebaton.http.body import body as read_body
from tracebaton.logs import configure_logging
from tracebaton.problems import Reporter
from tracebaton.queue.producer import Producer
from tracebaton.queue.retry import RetryPolicy
from tracebaton.queue.sqs import Queue, Sqs, SqsAccess
from tracebaton.queue.worker import DrainReport, Worker
from tracebaton.settings import Settings
from tracebaton.tasks import Handler, Registry, Task, TaskStore, TaskType
from tracebaton.tasks.sqlite import SqliteTaskStore
from tracebaton.telemetry.pipeline import FlushReport, Telemetry, build

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request

__all__ = ["Runtime", "Tracebaton", "WorkerService"]

#: Seconds the last spans and events get to leave the process.
FLUSH_SECONDS = 4.0

Role = Literal["api", "worker"]
Model = TypeVar("Model", bound=BaseModel)
HandlerT = TypeVar("HandlerT", bound=Handler)
Endpoint = Callable[["Request"], Awaitable[Any] | Any]

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
    ) -> None:
        self.settings = settings
        self.registry = registry
        if settings.queue_url is None and settings.queue_name is None:
            raise ConfigurationError(
                "TRACEBATON_QUEUE_URL: is not set, nor TRACEBATON_QUEUE_NAME;"
                " `tracebaton dev` brings a queue of its own"
            )
        self.telemetry = telemetry or build(settings, role=role)
        self.service_name = str(self.telemetry.resource.attributes["service.name"])
        self.sqs = Sqs(
            SqsAccess(
                endpoint=settings.sqs_endpoint,
                region=settings.region,
                # boto3 would ask the instance metadata service for credentials nobody has.
                anonymous=settings.sqs_on_loopback and not settings.has_aws_credentials,
            )
        )
        self.queue = Queue(self.sqs, url=settings.queue_url, name=settings.queue_name)
        self.store: TaskStore | None = _store(settings.store_url)
        self.producer = Producer(
            self.sqs,
            self.queue,
            registry=registry,
            store=self.store,
            tracer=self.telemetry.tracer,
            propagator=self.telemetry.propagator,
            source=f"/{self.service_name}",
        )

    @cached_property
    def authenticator(self) -> Authenticator:
        """Return who tells whom a request is from."""
        return authenticator(self.settings)

    def configure_logging(self) -> None:
        """Send every log line of this process through the one schema."""
        chosen = self.settings.log_format
        configure_logging(
            service=self.service_name,
            level=self.settings.log_level,
            pretty=None if chosen is None else chosen == "pretty",
            also=self.telemetry.log_handler,
        )

    def trace_url(self, trace_id: str) -> str | None:
        """Return where a person can look at the trace, None without a viewer."""
        viewer = self.settings.viewer_url
        return f"{viewer.rstrip('/')}/#/trace/{trace_id}" if viewer else None

    async def ready(self) -> Mapping[str, bool]:
        """Ask queue and store whether they answer."""
        checks: dict[str, Callable[[], Awaitable[Any]]] = {"queue": self.queue.attributes}
        if self.store is not None:
            checks["task_store"] = self.store.check
        answers = await asyncio.gather(*(_works(check) for check in checks.values()))
        return dict(zip(checks, answers, strict=True))

    async def close(self) -> FlushReport:
        """Close the store and the queue, then send what telemetry still holds."""
        if self.store is not None:
            await self.store.close()
        await self.sqs.close()
        return await asyncio.to_thread(self.telemetry.shutdown, FLUSH_SECONDS)


async def _works(check: Callable[[], Awaitable[Any]]) -> bool:
    try:
        await check()
    except TracebatonError:
        return False
    return True


def _store(url: str) -> TaskStore | None:
    return None if url == "none" else SqliteTaskStore(Path(url.removeprefix("sqlite:///")))


class WorkerService:
    """The worker of an application: its queue's policy is checked, then it works until stopped."""

    def __init__(self, runtime: Runtime, *, wait_seconds: int = 20) -> None:
        settings = runtime.settings
        self.runtime = runtime
        self._stopped = asyncio.Event()
        self._ready = False
        self._worker = Worker(
            runtime.sqs,
            runtime.queue,
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
            concurrency=settings.concurrency,
            visibility_seconds=settings.visibility_seconds,
            drain_seconds=settings.drain_seconds,
            wait_seconds=wait_seconds,
        )

    async def prepare(self) -> None:
        """
        Wait for the queue and check its redrive policy.

        Raises:
            ConfigurationError: ``maxReceiveCount`` is not ``TRACEBATON_MAX_ATTEMPTS``.
        """
        pause = 0.5
        while not self._stopped.is_set():
            try:
                attributes = await self.runtime.queue.attributes()
            except TracebatonError as exc:
                fields = {"queue": self.runtime.queue.name, "reason": str(exc.__cause__ or exc)}
                _log.warning("queue.unavailable", extra={"fields": fields})
                await _first(self._stopped.wait(), asyncio.sleep(pause))
                pause = min(30.0, pause * 2)
            else:
                check_redrive(attributes, self.runtime.settings.max_attempts)
                self._ready = True
                return

    @property
    def stopped(self) -> bool:
        """Tell whether a stop was asked for."""
        return self._stopped.is_set()

    async def run(self) -> DrainReport:
        """Work until `stop()`; everything in hand is settled when this returns."""
        if self._stopped.is_set():
            return DrainReport(acked=0, released=0, abandoned=0)
        return await self._worker.run()

    def stop(self) -> None:
        """Stop receiving and drain; a second call gives back what is in hand at once."""
        self._stopped.set()
        self._worker.stop()

    async def ready(self) -> Mapping[str, bool]:
        """Tell what works, for ``/readyz``."""
        return self._worker.health() if self._ready else {"queue": False}


async def _first(*work: Any) -> None:
    tasks = [asyncio.ensure_future(one) for one in work]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


def check_redrive(attributes: Mapping[str, str], max_attempts: int) -> None:
    """
    Refuse a queue whose redrive policy does not fit, because both ends count the same attempts.

    Raises:
        ConfigurationError: The two numbers differ, or the queue has no dead-letter queue.
    """
    policy = attributes.get("RedrivePolicy")
    if policy is None:
        raise ConfigurationError(
            "TRACEBATON_QUEUE_URL: the queue has no redrive policy, so a message that always fails"
            f" would come back for ever. Give it a DLQ with maxReceiveCount {max_attempts}"
        )
    count = int(json.loads(policy).get("maxReceiveCount", 0))
    if count != max_attempts:
        raise ConfigurationError(
            f"TRACEBATON_MAX_ATTEMPTS: is {max_attempts}, but the queue's maxReceiveCount is"
            f" {count}. Make them equal"
        )


class _ApiService:
    """
    What the HTTP wing asks of an application, looked up when it asks.

    Nothing is read or built before the API starts, so that importing an application needs no
    settings.
    """

    def __init__(self, app: "Tracebaton") -> None:
        self._app = app

    @property
    def registry(self) -> Registry:
        return self._app.registry

    @property
    def routes(self) -> Sequence[tuple[str, Endpoint, Sequence[str]]]:
        return self._app.routes

    @property
    def store(self) -> TaskStore | None:
        return self._app.runtime("api").store

    @property
    def reporter(self) -> Reporter:
        return self._app.runtime("api").telemetry.reporter

    @property
    def authenticator(self) -> Authenticator:
        return self._app.runtime("api").authenticator

    @property
    def store_type(self) -> type[RequestStore]:
        return self._app.store_type

    async def enqueue(self, task_type: str, data: BaseModel | Mapping[str, Any]) -> Task:
        return await self._app.enqueue(task_type, data)

    def trace_url(self, trace_id: str) -> str | None:
        return self._app.runtime("api").trace_url(trace_id)

    async def ready(self) -> Mapping[str, bool]:
        return await self._app.ready()


class Tracebaton:
    """
    An application: task types, routes, and from them an API and a worker.

    Settings are read from the environment when the API or the worker starts.
    """

    def __init__(
        self, *, settings: Settings | None = None, store: type[RequestStore] = RequestStore
    ) -> None:
        self.registry = Registry()
        self.store_type = store
        self.routes: list[tuple[str, Endpoint, Sequence[str]]] = []
        self._given = settings
        self._runtime: Runtime | None = None

    def task(
        self,
        name: str,
        *,
        model: type[BaseModel],
        deadline: float | None = None,
        version: str = "1",
    ) -> Callable[[HandlerT], HandlerT]:
        """
        Register the decorated function as the handler of the task type *name*.

        Args:
            model: Validates the data, in the API and again in the worker.
            deadline: Seconds it may run, None for no limit but SQS's 12 hours.
            version: Schema version of the messages it understands.

        Raises:
            ConfigurationError: *name* is registered already.
        """

        def register(handler: HandlerT) -> HandlerT:
            self.registry.add(
                TaskType(
                    name=name, model=model, handler=handler, deadline=deadline, version=version
                )
            )
            return handler

        return register

    def route(
        self, path: str, *, methods: Sequence[str] = ("GET",)
    ) -> Callable[[Endpoint], Endpoint]:
        """
        Serve *path* by the decorated function.

        It may return a response, a task (202 and its address), a pydantic model or plain JSON data.
        """

        def register(endpoint: Endpoint) -> Endpoint:
            self.routes.append((path, endpoint, tuple(methods)))
            return endpoint

        return register

    async def body(self, request: "Request", model: type[Model]) -> Model:
        """
        Read and validate the JSON body of *request*.

        Raises:
            RequestError: One of 400, 408, 413, 415, 422, as a problem document.
        """
        return await read_body(request, model)

    async def enqueue(
        self, task_type: str, data: BaseModel | Mapping[str, Any], *, delay_seconds: int = 0
    ) -> Task:
        """Save a task and send its message; see `Producer.enqueue()`."""
        return await self.runtime("api").producer.enqueue(
            task_type, data, delay_seconds=delay_seconds
        )

    async def ready(self) -> Mapping[str, bool]:
        """Tell what of the API's dependencies answers."""
        return await self.runtime("api").ready()

    @property
    def settings(self) -> Settings:
        """Return the settings of the running process, read at the first use."""
        if self._given is None:
            self._given = Settings.load()
        return self._given

    def runtime(self, role: Role) -> Runtime:
        """Return the process's runtime, built as *role* at the first use."""
        if self._runtime is None:
            self._runtime = Runtime(self.settings, role=role, registry=self.registry)
        return self._runtime

    @cached_property
    def asgi(self) -> "Starlette":
        """Return the API, a Starlette application whose lifespan starts and stops everything."""
        return create_app(_ApiService(self), lifespan=self._lifespan)

    def worker(self, *, wait_seconds: int = 20) -> WorkerService:
        """Return the worker of this application; its polls wait up to *wait_seconds* (0 to 20)."""
        return WorkerService(self.runtime("worker"), wait_seconds=wait_seconds)

    @contextmanager
    def staged(self, settings: Settings, telemetry: Telemetry) -> Iterator[Runtime]:
        """Run on these *settings* and this *telemetry* for the length of a block, as tests do."""
        before = self._given, self._runtime
        self._given = settings
        self._runtime = Runtime(settings, role="api", registry=self.registry, telemetry=telemetry)
        try:
            yield self._runtime
        finally:
            self._given, self._runtime = before

    @asynccontextmanager
    async def _lifespan(self, app: object) -> AsyncIterator[None]:
        runtime = self.runtime("api")
        _ = runtime.authenticator  # a bad key file stops the start and not the first request
        try:
            yield
        finally:
            await runtime.close()
            self._runtime = None

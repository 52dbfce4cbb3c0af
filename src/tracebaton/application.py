"""
The application: task types and routes registered on one object, an API and a worker made from it.
"""

from collections.abc import (
    AsyncIterator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from tracebaton.context import RequestStore
from tracebaton.errors import TracebatonError
from tracebaton.garbage import spare
from tracebaton.http.app import LateReporter, create_app
from tracebaton.http.auth import Authenticator
from tracebaton.http.body import body as read_body
from tracebaton.http.limits import RateLimit
from tracebaton.http.middleware import instrument
from tracebaton.http.proxies import Proxies
from tracebaton.http.service import Endpoint
from tracebaton.problems import Reporter
from tracebaton.queue.event import Propagate
from tracebaton.queue.producer import Item
from tracebaton.registrations import Registrations
from tracebaton.runtime import Role, Runtime, WorkerService
from tracebaton.serverless import LambdaHandler
from tracebaton.settings import Settings
from tracebaton.tasks import Registry, Task, TaskStore
from tracebaton.telemetry.pipeline import Telemetry

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request

__all__ = ["Tracebaton"]

Model = TypeVar("Model", bound=BaseModel)
AppT = TypeVar("AppT")


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
    def limits(self) -> RateLimit:
        return self._app.runtime("api").limits

    @property
    def proxies(self) -> Proxies:
        return self._app.runtime("api").proxies

    @property
    def store_type(self) -> type[RequestStore]:
        return self._app.store_type

    async def enqueue(self, task_type: str, data: BaseModel | Mapping[str, Any]) -> Task:
        return await self._app.enqueue(task_type, data)

    def trace_url(self, trace_id: str) -> str | None:
        return self._app.runtime("api").trace_url(trace_id)

    async def ready(self) -> Mapping[str, bool]:
        return await self._app.ready()


class Tracebaton(Registrations):
    """
    An application: task types, routes, and from them an API and a worker.

    Settings are read from the environment when the API or the worker starts.
    """

    def __init__(
        self, *, settings: Settings | None = None, store: type[RequestStore] = RequestStore
    ) -> None:
        super().__init__()
        self.store_type = store
        self._given = settings
        self._runtime: Runtime | None = None

    async def body(self, request: "Request", model: type[Model]) -> Model:
        """
        Read and validate the JSON body of *request*.

        Raises:
            RequestError: One of 400, 408, 413, 415, 422, as a problem document.
        """
        return await read_body(request, model)

    async def enqueue(
        self,
        task_type: str,
        data: BaseModel | Mapping[str, Any],
        *,
        delay_seconds: int = 0,
        group_id: str | None = None,
        deduplication_id: str | None = None,
        propagate: Propagate = "parent",
        attributes: Mapping[str, str] | None = None,
    ) -> Task:
        """Save a task and send its message; see `Producer.enqueue()`."""
        return await self.runtime("api").producer.enqueue(
            task_type,
            data,
            delay_seconds=delay_seconds,
            group_id=group_id,
            deduplication_id=deduplication_id,
            propagate=propagate,
            attributes=attributes,
        )

    async def enqueue_many(
        self,
        items: Iterable[Item | tuple[str, BaseModel | Mapping[str, Any]]],
        *,
        delay_seconds: int = 0,
        group_id: str | None = None,
        propagate: Propagate = "parent",
    ) -> list[Task | TracebatonError]:
        """Save many tasks and send their messages in batches; see `Producer.enqueue_many()`."""
        return await self.runtime("api").producer.enqueue_many(
            items, delay_seconds=delay_seconds, group_id=group_id, propagate=propagate
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
            self._runtime = Runtime(
                self.settings,
                role=role,
                registry=self.registry,
                sample_rates=self.sample_rates,
            )
        return self._runtime

    @cached_property
    def asgi(self) -> "Starlette":
        """Return the API, a Starlette application whose lifespan starts and stops everything."""
        return create_app(
            _ApiService(self),
            lifespan=self._lifespan,
            exposition=lambda: self.runtime("api").telemetry.exposition,
        )

    def instrument(self, app: AppT) -> AppT:
        """
        Give *app*, a Starlette, FastAPI or Litestar app of yours, the store and the error story.

        Like `tracebaton.instrument()`, with failures going where this application's settings say.
        Run the app inside `running()`.
        """
        return instrument(app, reporter=LateReporter(_ApiService(self)), store=self.store_type)

    def worker(self, *, wait_seconds: int = 20) -> WorkerService:
        """Return the worker of this application; its polls wait up to *wait_seconds* (0 to 20)."""
        return WorkerService(
            self.runtime("worker"),
            foreign=self.foreign_routes,
            store_type=self.store_type,
            wait_seconds=wait_seconds,
        )

    def lambda_handler(self) -> LambdaHandler:
        """
        Return the handler of an AWS Lambda function whose event source is the queue.

        ``handler = app.lambda_handler()`` beside the application; the event source mapping needs
        ``ReportBatchItemFailures``.
        """
        return LambdaHandler(lambda: self.worker())

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

    @property
    def telemetry(self) -> Telemetry:
        """Return the telemetry of the running process, built at the first use."""
        return self.runtime("api").telemetry

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Runtime]:
        """
        Start what the API needs and stop it afterwards, in the lifespan of an app of your own.

        Leaving it closes store and queue and sends what telemetry still holds.
        """
        runtime = self.runtime("api")
        _ = runtime.authenticator  # a bad key file stops the start and not the first request
        try:
            async with runtime.upkept():
                yield runtime
        finally:
            await runtime.close()
            self._runtime = None

    @asynccontextmanager
    async def _lifespan(self, app: object) -> AsyncIterator[None]:
        async with self.running():
            spare()  # the process is an API's: by now it has what it will keep
            yield

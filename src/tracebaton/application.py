"""
The application: task types and routes registered on one object, an API and a worker made from it.
"""

from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
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
from tracebaton.errors import ConfigurationError, TracebatonError
from tracebaton.http.app import LateReporter, create_app
from tracebaton.http.auth import Authenticator
from tracebaton.http.body import body as read_body
from tracebaton.http.endpoints import BodyEndpoint
from tracebaton.http.limits import RateLimit
from tracebaton.http.middleware import instrument
from tracebaton.http.proxies import Proxies
from tracebaton.problems import Reporter
from tracebaton.queue.event import Propagate
from tracebaton.queue.foreign import ForeignRoute
from tracebaton.queue.producer import Item
from tracebaton.queue.retry import RetryPolicy
from tracebaton.runtime import Role, Runtime, WorkerService
from tracebaton.serverless import LambdaHandler
from tracebaton.settings import Settings
from tracebaton.tasks import Backoff, Handler, Registry, Task, TaskStore, TaskType
from tracebaton.telemetry.pipeline import Telemetry

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request

__all__ = ["Tracebaton"]

Model = TypeVar("Model", bound=BaseModel)
AppT = TypeVar("AppT")
HandlerT = TypeVar("HandlerT", bound=Handler)
#: Takes a request, and the model of its body where the route names one.
EndpointT = TypeVar("EndpointT", bound=Callable[..., Any])
Endpoint = Callable[["Request"], Awaitable[Any] | Any]


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
        self.foreign_routes: list[ForeignRoute] = []
        self.sample_rates: dict[str, float] = {}
        self._given = settings
        self._runtime: Runtime | None = None

    def task(
        self,
        name: str,
        *,
        model: type[BaseModel],
        deadline: float | None = None,
        version: str = "1",
        max_age: float | None = None,
        group: Callable[[Any], str] | None = None,
        retry: Backoff | None = None,
        batch: int | None = None,
        batch_seconds: float = 0.2,
        sample_rate: float | None = None,
    ) -> Callable[[HandlerT], HandlerT]:
        """
        Register the decorated function as the handler of the task type *name*.

        Args:
            model: Validates the data, in the API and again in the worker.
            deadline: Seconds it may run, None for no limit but SQS's 12 hours.
            version: Schema version of the messages it understands.
            max_age: Seconds a message may wait beyond its delay; older ones go to quarantine.
            group: On a FIFO queue, names a task's group by its data where the sender names none.
            retry: How long it waits after a failed attempt, such as a `RetryPolicy` of its own.
            batch: Gives the handler up to that many messages at once, as a `Batch`, and at most as
                many as run at once.
            batch_seconds: How long the first of them waits for others.
            sample_rate: Share of the traces to keep that start with such a task, with no request
                before it; ``TRACEBATON_SAMPLE_RATES`` wins.

        Raises:
            ConfigurationError: *name* is registered already, *batch* is below 1, the rate is none,
                or *retry* wants to say how often it is tried: that is the queue's to say.
        """
        self._sample([name], sample_rate)
        if batch is not None and batch < 1:
            raise ConfigurationError(f"The batch of {name!r} is {batch}: it has to be 1 or more")
        if isinstance(retry, RetryPolicy) and retry.max_attempts is not None:
            raise ConfigurationError(
                f"The retry policy of {name!r} has max_attempts, but the queue's maxReceiveCount"
                " says how often a message is tried: leave it out"
            )

        def register(handler: HandlerT) -> HandlerT:
            self.registry.add(
                TaskType(
                    name=name,
                    model=model,
                    handler=handler,
                    deadline=deadline,
                    version=version,
                    max_age=max_age,
                    group=group,
                    retry=retry,
                    batch=batch,
                    batch_seconds=batch_seconds,
                )
            )
            return handler

        return register

    def route(
        self,
        path: str,
        *,
        methods: Sequence[str] = ("GET",),
        model: type[BaseModel] | None = None,
        sample_rate: float | None = None,
    ) -> Callable[[EndpointT], EndpointT]:
        """
        Serve *path* by the decorated function.

        It may return a response, a task (202 and its address), a pydantic model or plain JSON data.

        Args:
            methods: GET answers HEAD too.
            model: Validates the JSON body, which the function gets as its second argument, and
                stands in the OpenAPI document. Without one the function reads the body itself.
            sample_rate: Share of the traces to keep that start here, tasks included;
                ``TRACEBATON_SAMPLE_RATES`` wins.

        Raises:
            ConfigurationError: The rate is none.
        """
        answered = {method.upper() for method in methods}
        answered |= {"HEAD"} if "GET" in answered else set()
        self._sample([f"{method} {path}" for method in answered], sample_rate)

        def register(endpoint: EndpointT) -> EndpointT:
            served = endpoint if model is None else BodyEndpoint(endpoint, model)
            self.routes.append((path, served, tuple(methods)))
            return endpoint

        return register

    def _sample(self, heads: Iterable[str], rate: float | None) -> None:
        if rate is None:
            return
        if not 0 <= rate <= 1:
            raise ConfigurationError(f"sample_rate: {rate} is not between 0 and 1")
        self.sample_rates.update(dict.fromkeys(heads, rate))

    def foreign(self, route: ForeignRoute) -> ForeignRoute:
        """
        Let *route* name the task type of messages that no producer of ours wrote.

        A decorator, or a call with a lambda. It gets a `ForeignMessage`, unwrapped where SNS
        wrapped it, and returns a type, or None where the message is not for it; the message's JSON
        becomes the task's data. A message that no route takes goes to quarantine.
        """
        self.foreign_routes.append(route)
        return route

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
            yield

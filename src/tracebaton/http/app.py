"""
The HTTP service of an application, and the health port of a worker.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any, Final

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Lifespan

from tracebaton.http.auth import Authenticator, AuthLayer
from tracebaton.http.docs import docs_routes
from tracebaton.http.events import event_routes
from tracebaton.http.handlers import told_handlers
from tracebaton.http.health import Probe, health_routes
from tracebaton.http.metrics import Exposition, Scrape, merged_metrics_route, metrics_route
from tracebaton.http.middleware import instrument
from tracebaton.http.proxies import ProxyLayer
from tracebaton.http.routes import PlainPaths
from tracebaton.http.security import SecurityLayer
from tracebaton.http.service import Service
from tracebaton.http.tasks import answering, slashed_types_route, task_routes
from tracebaton.http.watch import TaskWatch
from tracebaton.problems import Outcome

__all__ = ["LateReporter", "create_app", "create_health_app", "end_streams"]

#: Where the app keeps who listens to its tasks.
_WATCH: Final = "tracebaton_watch"


def create_app(
    service: Service,
    *,
    lifespan: Lifespan[Starlette] | None = None,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    exposition: Callable[[], Exposition | None] = lambda: None,
) -> Starlette:
    """
    Return the API of *service*: its tasks, its own routes, its probes.

    Args:
        lifespan: Starts and stops what the service needs.
        tracer_provider: The global one by default.
        meter_provider: The global one by default.
        exposition: What ``/metrics`` answers, as `metrics_route()` takes it.
    """
    watch = TaskWatch(lambda: service.store)
    routes = _routes(service, watch, exposition)
    app = Starlette(
        routes=[PlainPaths(routes), *routes],
        middleware=[Middleware(AuthLayer, service=service)],
        lifespan=_watching(watch, lifespan),
    )
    setattr(app.state, _WATCH, watch)
    instrument(
        app,
        reporter=LateReporter(service),
        tracer_provider=tracer_provider,
        meter_provider=meter_provider,
        store=service.store_type,
    )
    build = app.build_middleware_stack
    # Outside everything: the span, the access line and the limits see the client's own address,
    # and no layer answers without the headers of all answers.
    app.build_middleware_stack = (  # type: ignore[method-assign]  # no other seam
        lambda: SecurityLayer(ProxyLayer(build(), proxies=lambda: service.proxies))
    )
    return app


def _routes(
    service: Service, watch: TaskWatch, exposition: Callable[[], Exposition | None]
) -> list[BaseRoute]:
    return [
        *task_routes(service),  # first: a request passes all that stand before its own
        *event_routes(service, watch),
        *health_routes(service.ready),
        *docs_routes(service, title="tracebaton", version="1"),
        *(
            Route(path, answering(service, endpoint), methods=list(methods))
            for path, endpoint, methods in service.routes
        ),
        metrics_route(exposition),
        _index(service),
        slashed_types_route(service),
    ]


@asynccontextmanager
async def _no_lifespan(app: Starlette) -> AsyncIterator[None]:
    yield


def _watching(watch: TaskWatch, lifespan: Lifespan[Starlette] | None) -> Lifespan[Starlette]:
    """Let streams wait for as long as the app runs: it may be started again, as tests do."""

    @asynccontextmanager
    async def watched(app: Starlette) -> AsyncIterator[Mapping[str, Any]]:
        watch.reopen()
        try:
            async with (lifespan or _no_lifespan)(app) as state:
                yield state or {}
        finally:
            watch.close()

    return watched


def end_streams(app: Starlette) -> None:
    """End the event streams of *app*, so that a server that stops has nothing to wait for."""
    watch: TaskWatch = getattr(app.state, _WATCH)
    watch.close()


def create_health_app(
    ready: Probe,
    *,
    alive: Probe | None = None,
    started: Probe | None = None,
    exposition: Exposition | None = None,
    scrape: Scrape | None = None,
    authenticator: Callable[[], Authenticator] | None = None,
) -> Starlette:
    """
    Return the probes, for a worker's health port.

    Args:
        alive: As `health_routes()` takes it, and *started*.
        exposition: What ``/metrics`` answers to whom the *authenticator* knows, if anything.
        scrape: The same where it stands for several processes.
    """
    routes = health_routes(ready, alive=alive, started=started)
    if authenticator is not None and scrape is not None:
        routes.append(merged_metrics_route(scrape, authenticator))
    elif authenticator is not None:
        routes.append(metrics_route(lambda: exposition, authenticator))
    return Starlette(
        routes=routes,
        middleware=[Middleware(SecurityLayer)],
        exception_handlers=told_handlers({}, routes=routes, problems=True),
    )


def _index(service: Service) -> BaseRoute:
    async def index(request: Request) -> Response:
        types = sorted(kind.name for kind in service.registry)
        return JSONResponse({"task_types": types, "links": {"tasks": "/v1/tasks/{type}"}})

    return Route("/", index)


class LateReporter:
    """The reporter that the service has when a request comes, not when the app is created."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def isolated(self) -> AbstractContextManager[None]:
        return self._service.reporter.isolated()

    def report(
        self,
        exc: BaseException,
        outcome: Outcome,
        *,
        mechanism: str,
        tags: Mapping[str, str],
        failures: Sequence[Mapping[str, Any]] = (),
    ) -> str | None:
        return self._service.reporter.report(
            exc, outcome, mechanism=mechanism, tags=tags, failures=failures
        )

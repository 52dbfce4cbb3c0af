"""
``instrument()``: one span, one store, one access line and one error story for each request.

From the outermost to the innermost layer: `RequestLayer`, the OpenTelemetry middleware,
`SpanLayer`, Starlette's ``ServerErrorMiddleware``, `ErrorLayer`, the app's own middleware,
Starlette's ``ExceptionMiddleware``, the router.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from opentelemetry import trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from tracebaton.context import RequestStore
from tracebaton.errors import ConfigurationError
from tracebaton.http.failures import ErrorLayer, Failures
from tracebaton.http.handlers import told_handlers
from tracebaton.http.instrumented import Instrumented
from tracebaton.http.litestar import (
    adopt_exceptions,
    instrumentation_of,
    is_litestar,
    litestar_route,
)
from tracebaton.http.request_layer import RequestLayer
from tracebaton.http.routes import nested_apps, route_template
from tracebaton.http.spans import (
    SpanLayer,
    adopted,
    instrumentation,
    instrumented_stack,
    request_instrumentation,
    span_details,
    without_instrumentation,
)
from tracebaton.problems import NO_REPORTER, Reporter
from tracebaton.semconv import SCOPE
from tracebaton.settings import prefer_stable_http_conventions

__all__ = ["RequestLayer", "instrument"]

#: The attribute by which we know an app that has our layers.
_FLAG: Final = "_is_instrumented_by_tracebaton"


AppT = TypeVar("AppT")


def instrument(
    app: AppT,
    *,
    reporter: Reporter = NO_REPORTER,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    store: type[RequestStore] = RequestStore,
    problems: bool = True,
) -> AppT:
    """
    Give *app*, a Starlette, FastAPI or Litestar app of anybody's, the store and the error story.

    Call it before the first request. What ``StarletteInstrumentor``, ``FastAPIInstrumentor`` or
    Litestar's own plugin did before is honoured with its hooks, providers and excluded URLs; done
    later it changes nothing.

    Args:
        reporter: Where unexpected failures go.
        tracer_provider: The global one by default.
        meter_provider: The global one by default.
        store: The request store's class, yours if you declare custom fields.
        problems: Answer errors that the app has no handler for as ``application/problem+json``.

    Returns:
        The same app.

    Raises:
        ConfigurationError: The app answered requests already, has another instrumentor, or is of
            another framework.
    """
    prefer_stable_http_conventions()  # read when the instrumentation is mounted
    setup = _Setup(
        failures=Failures(reporter, trace.get_tracer(SCOPE, tracer_provider=tracer_provider)),
        reporter=reporter,
        tracer_provider=tracer_provider,
        meter_provider=meter_provider,
        store=store,
        problems=problems,
    )
    if isinstance(app, Starlette):
        _instrument_starlette(app, setup)
    elif is_litestar(app):
        _instrument_litestar(app, setup)
    else:
        raise ConfigurationError(
            f"instrument() knows Starlette, FastAPI and Litestar apps; this is a"
            f" {type(app).__qualname__}. Mount it in a Starlette app and instrument that."
        )
    return app


@dataclass(frozen=True, slots=True)
class _Setup:
    failures: Failures
    reporter: Reporter
    tracer_provider: TracerProvider | None
    meter_provider: MeterProvider | None
    store: type[RequestStore]
    problems: bool


def _instrument_starlette(app: Starlette, setup: _Setup) -> None:
    if getattr(app, _FLAG, False):
        return
    if app.middleware_stack is not None:
        raise ConfigurationError(
            "The app runs already. Call instrument() before the first request."
        )
    request_instrumentation(
        app, tracer_provider=setup.tracer_provider, meter_provider=setup.meter_provider
    )
    build = app.build_middleware_stack

    def build_with_layers() -> ASGIApp:
        options = instrumentation(app)
        _layer_nested(app, setup)
        with _layered(app, setup, routes=app.routes):
            bare = build()
        theirs = instrumented_stack(bare)
        if theirs is not None:
            bare = theirs.app
        inner = SpanLayer(bare, failures=setup.failures)
        if theirs is not None:
            traced: ASGIApp = Instrumented(adopted(theirs, inner), inner)
        elif options is None:
            traced = inner
        else:
            traced = Instrumented(OpenTelemetryMiddleware(inner, **options), inner)
        route = partial(route_template, app.routes)
        return RequestLayer(
            traced,
            quiet=inner,
            bare=bare,
            route=route,
            reporter=setup.reporter,
            store=setup.store,
        )

    app.build_middleware_stack = build_with_layers  # type: ignore[method-assign]  # no other seam
    setattr(app, _FLAG, True)


def _instrument_litestar(app: Any, setup: _Setup) -> None:
    if isinstance(app.asgi_handler, RequestLayer):
        return
    adopt_exceptions(app, setup.failures, problems=setup.problems)
    theirs = instrumentation_of(app)
    bare = app.asgi_handler if theirs is None else theirs.app
    inner = SpanLayer(
        ErrorLayer(bare, failures=setup.failures, leave=False), failures=setup.failures
    )
    middleware = (
        adopted(theirs, inner)
        if theirs is not None
        else OpenTelemetryMiddleware(
            inner,
            default_span_details=span_details,
            exclude_spans=["send", "receive"],
            tracer_provider=setup.tracer_provider,
            meter_provider=setup.meter_provider,
        )
    )
    app.asgi_handler = RequestLayer(
        Instrumented(middleware, inner),
        quiet=inner,
        bare=bare,
        route=litestar_route(app),
        reporter=setup.reporter,
        store=setup.store,
    )


def _layer_nested(app: Starlette, setup: _Setup) -> None:
    """Let the apps mounted below tell their failures too: each would answer a plain 500 first."""
    for nested in nested_apps(app.routes):
        built = getattr(nested, "middleware_stack", None) is not None
        if not isinstance(nested, Starlette) or built or hasattr(nested, _FLAG):
            continue
        build = nested.build_middleware_stack

        def build_with_layers(
            nested: Starlette = nested, build: Callable[[], ASGIApp] = build
        ) -> ASGIApp:
            with _layered(nested, setup, routes=app.routes):
                return build()

        nested.build_middleware_stack = build_with_layers  # type: ignore[method-assign]  # as above


@contextmanager
def _layered(app: Starlette, setup: _Setup, *, routes: list[BaseRoute]) -> Iterator[None]:
    """
    Let *app* build its stack with our layers in it, and look as before afterwards.

    Args:
        routes: Those of the outermost app, which the path of a request starts from.
    """
    middleware, handlers = app.user_middleware, app.exception_handlers
    leave = app.debug or any(key in (500, Exception) for key in handlers)
    app.user_middleware = [
        Middleware(ErrorLayer, failures=setup.failures, leave=leave),
        *without_instrumentation(middleware),
    ]
    app.exception_handlers = told_handlers(handlers, routes=routes, problems=setup.problems)
    try:
        yield
    finally:
        app.user_middleware, app.exception_handlers = middleware, handlers

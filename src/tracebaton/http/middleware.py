"""
``instrument()``: one span, one store, one access line and one error story for each request.

From the outermost to the innermost layer: `RequestLayer`, the OpenTelemetry middleware,
`SpanLayer`, Starlette's ``ServerErrorMiddleware``, `ErrorLayer`, the app's own middleware,
Starlette's ``ExceptionMiddleware``, the router.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

import anyio
from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tracebaton.context import RequestStore, entered
from tracebaton.errors import ConfigurationError
from tracebaton.events import say
from tracebaton.http.exchange import STARTS, Exchange, correlation_id_of, exchange_of
from tracebaton.http.failures import ErrorLayer, Failures
from tracebaton.http.handlers import told_handlers
from tracebaton.http.litestar import (
    adopt_exceptions,
    instrumentation_of,
    is_litestar,
    litestar_route,
)
from tracebaton.http.routes import nested_apps, route_template
from tracebaton.http.spans import (
    SpanLayer,
    adopted,
    instrumentation,
    instrumented_stack,
    readable,
    request_instrumentation,
    span_details,
    without_instrumentation,
)
from tracebaton.problems import NO_REPORTER, Reporter
from tracebaton.semconv import (
    EVENT_HTTP_REQUEST,
    EVENT_TELEMETRY_FAILED,
    SCOPE,
    TRACERESPONSE,
    X_CORRELATION_ID,
)
from tracebaton.settings import prefer_stable_http_conventions

__all__ = ["RequestLayer", "instrument"]

_log = logging.getLogger("tracebaton.http")
#: The attribute by which we know an app that has our layers.
_FLAG: Final = "_is_instrumented_by_tracebaton"
#: Seconds after which a request's end asks whether its caller is still there: few give up sooner,
#: and asking costs a turn of the event loop.
_PATIENCE: Final = 0.25


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
            traced: ASGIApp = adopted(theirs, inner)
        else:
            traced = inner if options is None else OpenTelemetryMiddleware(inner, **options)
        route = partial(route_template, app.routes)
        return RequestLayer(traced, quiet=inner, bare=bare, route=route, setup=setup)

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
    traced = (
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
        traced, quiet=inner, bare=bare, route=litestar_route(app), setup=setup
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


class RequestLayer:
    """The outermost layer: enters the request store, and says at the end how the request went."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        quiet: ASGIApp,
        bare: ASGIApp,
        route: Callable[[Scope], str | None],
        setup: _Setup,
    ) -> None:
        """
        Stand around *app*.

        Args:
            quiet: The same app without its instrumentation, for paths that leave no trace.
            bare: The app without our layers, for what is no request of its own.
            route: Tells the template of the route that a request will take.
            setup: Where failures go, and the request store's class.
        """
        self.app = app  # FastAPI looks for the instrumentation along this name
        self._quiet = quiet
        self._bare = bare
        self._route = route
        self._reporter = setup.reporter
        self._store = setup.store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass on what is none."""
        if scope["type"] not in ("http", "websocket") or exchange_of(scope) is not None:
            await self._bare(scope, receive, send)
            return
        store = self._store(correlation_id=correlation_id_of(scope["headers"]))
        # A fresh context: whatever task, connection or thread this runs on, nothing is inherited.
        with self._reporter.isolated(), entered(store):
            exchange = Exchange(scope, route=self._route(scope))
            try:
                await self._answer(exchange, scope, receive, send)
            finally:
                _log_request(exchange)
        if exchange.escaped is not None and not exchange.complete:
            raise exchange.escaped

    async def _answer(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        async def noting_receive() -> Message:
            message = await receive()
            exchange.received(message)
            return message

        async def noting_send(message: Message) -> None:
            if message["type"] in STARTS:
                message = {**message, "headers": _with_ids(message.get("headers", ()), exchange)}
            if _is_last(message) and exchange.seconds > _PATIENCE:
                await _ask_whether_gone(noting_receive)
            exchange.sent(message)
            try:
                await send(message)
            except OSError as exc:  # ASGI's way to say that the connection is gone
                exchange.left()
                exchange.unsent = exc
                raise
            if exchange.complete and exchange.kind == "http":
                _log_request(exchange)

        if exchange.quiet:
            await self._quiet(scope, noting_receive, noting_send)
            return
        try:
            await self.app(readable(scope), noting_receive, noting_send)
        except Exception:
            if exchange.entered:
                raise
            # Telemetry never costs a request: an owner's hook of the instrumentation failed, say.
            _log.warning(EVENT_TELEMETRY_FAILED, exc_info=True)
            await self._quiet(scope, noting_receive, noting_send)


def _is_last(message: Message) -> bool:
    return message["type"] == "http.response.body" and not message.get("more_body", False)


async def _ask_whether_gone(receive: Receive) -> None:
    """Take what the server has to say without waiting; whoever reads it notes a disconnect."""
    for _ in range(2):  # before it there may be a body that the app did not read
        with anyio.CancelScope() as scope:
            scope.cancel()
            await receive()


def _with_ids(headers: Any, exchange: Exchange) -> list[tuple[bytes, bytes]]:
    """Return *headers* with the ids of the request; an app's own correlation id gives way."""
    correlation = X_CORRELATION_ID.encode()
    kept = [(key, value) for key, value in headers if key.lower() != correlation]
    kept.append((correlation, (exchange.store.correlation_id or "").encode()))
    ids = exchange.span.get_span_context()
    response = TRACERESPONSE.encode()
    if ids.is_valid and all(key.lower() != response for key, _ in kept):
        trace_id, span_id = trace.format_trace_id(ids.trace_id), trace.format_span_id(ids.span_id)
        kept.append((response, f"00-{trace_id}-{span_id}-{ids.trace_flags:02x}".encode()))
    return kept


def _log_request(exchange: Exchange) -> None:
    """Write the access line, once, with the ids and the span of the request."""
    if exchange.logged or exchange.quiet:
        return
    exchange.logged = True
    fields: dict[str, Any] = {
        "method": exchange.method,
        "path": exchange.path,
        "route": exchange.route,
        "status": exchange.status,
        "duration_ms": round(exchange.seconds * 1000, 3),
        "bytes": exchange.bytes_sent,
        "client": exchange.client,
    }
    if exchange.disconnected:
        fields["disconnected"] = True
    if exchange.close_code is not None:
        fields["close_code"] = exchange.close_code
    token = otel.attach(exchange.context)
    try:
        say(_log, EVENT_HTTP_REQUEST, fields)
    finally:
        otel.detach(token)

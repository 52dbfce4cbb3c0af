"""
``instrument()``: one span, one store, one access line and one error story for each request.

From the outermost to the innermost layer: `RequestLayer`, the OpenTelemetry middleware,
`SpanLayer`, Starlette's ``ServerErrorMiddleware``, `ErrorLayer`, the app's own middleware,
Starlette's ``ExceptionMiddleware``, the router.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import anyio
from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tracebaton.context import RequestStore, entered
from tracebaton.errors import ConfigurationError
from tracebaton.http.exchange import STARTS, Exchange, correlation_id_of, exchange_of
from tracebaton.http.failures import ErrorLayer, Failures
from tracebaton.http.handlers import told_handlers
from tracebaton.http.routes import route_template
from tracebaton.http.spans import (
    SpanLayer,
    instrumentation,
    readable,
    request_instrumentation,
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


def instrument(
    app: Starlette,
    *,
    reporter: Reporter = NO_REPORTER,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    store: type[RequestStore] = RequestStore,
    problems: bool = True,
) -> Starlette:
    """
    Give *app*, a Starlette or FastAPI app of anybody's, the request store and the error story.

    Call it before the first request. A ``StarletteInstrumentor`` call made before is honoured with
    its hooks, providers and excluded URLs; one made later changes nothing.

    Args:
        reporter: Where unexpected failures go.
        tracer_provider: The global one by default.
        meter_provider: The global one by default.
        store: The request store's class, yours if you declare custom fields.
        problems: Answer errors that the app has no handler for as ``application/problem+json``.

    Returns:
        The same app.

    Raises:
        ConfigurationError: The app answered requests already, or has another instrumentor.
    """
    if getattr(app, _FLAG, False):
        return app
    if app.middleware_stack is not None:
        raise ConfigurationError(
            "The app runs already. Call instrument() before the first request."
        )
    request_instrumentation(app, tracer_provider=tracer_provider, meter_provider=meter_provider)
    prefer_stable_http_conventions()  # read when the instrumentation is mounted
    failures = Failures(reporter, trace.get_tracer(SCOPE, tracer_provider=tracer_provider))
    build = app.build_middleware_stack

    def build_with_layers() -> ASGIApp:
        options = instrumentation(app)
        with _layered(app, failures, problems=problems):
            bare = build()
        inner = SpanLayer(bare, failures=failures)
        traced = inner if options is None else OpenTelemetryMiddleware(inner, **options)
        return RequestLayer(
            traced, quiet=inner, bare=bare, starlette=app, reporter=reporter, store=store
        )

    app.build_middleware_stack = build_with_layers  # type: ignore[method-assign]  # no other seam
    setattr(app, _FLAG, True)
    return app


@contextmanager
def _layered(app: Starlette, failures: Failures, *, problems: bool) -> Iterator[None]:
    """Let *app* build its stack with our layers in it, and look as before afterwards."""
    middleware, handlers = app.user_middleware, app.exception_handlers
    leave = app.debug or any(key in (500, Exception) for key in handlers)
    app.user_middleware = [
        Middleware(ErrorLayer, failures=failures, leave=leave),
        *without_instrumentation(middleware),
    ]
    app.exception_handlers = told_handlers(handlers, routes=app.routes, problems=problems)
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
        starlette: Starlette,
        reporter: Reporter,
        store: type[RequestStore],
    ) -> None:
        """
        Stand around *app*.

        Args:
            quiet: The same app without its instrumentation, for paths that leave no trace.
            bare: The app without our layers, for what is no request of its own.
            starlette: Whose routes name the request.
            reporter: Keeps requests apart where failures go.
            store: The request store's class.
        """
        self.app = app  # FastAPI looks for the instrumentation along this name
        self._quiet = quiet
        self._bare = bare
        self._starlette = starlette
        self._reporter = reporter
        self._store = store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass on what is none."""
        if scope["type"] not in ("http", "websocket") or exchange_of(scope) is not None:
            await self._bare(scope, receive, send)
            return
        store = self._store(correlation_id=correlation_id_of(scope["headers"]))
        # A fresh context: whatever task, connection or thread this runs on, nothing is inherited.
        with self._reporter.isolated(), entered(store):
            route = route_template(self._starlette.routes, scope)
            exchange = Exchange(scope, route=route)
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
        _log.info(EVENT_HTTP_REQUEST, extra={"fields": fields})
    finally:
        otel.detach(token)

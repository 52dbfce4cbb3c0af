"""
The SERVER span: how opentelemetry-instrumentation-starlette is set up and where it stands.

Its own way adds the middleware inside Starlette's error layer, where neither the 500 nor its
headers are seen, names a mounted route by its mount, and makes a span of every ASGI message. Here
the same middleware, with the same tracer, meter and hooks, stands around the whole app.
"""

from collections.abc import Iterable
from typing import Any, Final

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.instrumentation.asgi import (
    OpenTelemetryMiddleware,
    get_default_span_details,
)
from opentelemetry.instrumentation.starlette import StarletteInstrumentor
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import (
    TracerProvider,
    format_trace_id,
)
from opentelemetry.util.http import sanitize_method
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tracebaton.context import bind_trace, span_attributes
from tracebaton.errors import ConfigurationError
from tracebaton.http.exchange import STARTS, exchange_in
from tracebaton.http.failures import Failures, mark_failed
from tracebaton.http.instrumented import undo
from tracebaton.http.routes import nested_apps
from tracebaton.redaction import MASK
from tracebaton.semconv import CORRELATION_ID, HTTP_ROUTE, HTTP_TARGET, URL_ATTRIBUTES, URL_QUERY

__all__ = [
    "SpanLayer",
    "instrumentation",
    "request_instrumentation",
    "span_details",
]

#: The attribute in which ``FastAPIInstrumentor`` keeps what it replaced.
_FASTAPI: Final = "_original_build_middleware_stack"


def request_instrumentation(
    app: Starlette,
    *,
    tracer_provider: TracerProvider | None,
    meter_provider: MeterProvider | None,
) -> None:
    """
    Have *app* instrumented, unless its owner did.

    Raises:
        ConfigurationError: Another instrumentor wrapped the app: each request would have two spans.
    """
    if hasattr(app, _FASTAPI):  # its stack is taken over when it is built
        return
    StarletteInstrumentor.instrument_app(
        app, tracer_provider=tracer_provider, meter_provider=meter_provider
    )
    if not any(_is_ours(entry) for entry in app.user_middleware):
        raise ConfigurationError(
            "The app is instrumented already, and neither by StarletteInstrumentor nor by"
            " FastAPIInstrumentor. Take the other one out: instrument() does its work."
        )


def instrumentation(app: Starlette) -> dict[str, Any] | None:
    """
    Return how the instrumentation of *app* was set up, for its place around the app.

    None if its owner took it out again. Apps mounted below lose theirs: their requests have a span
    already.
    """
    entry = next((entry for entry in app.user_middleware if _is_ours(entry)), None)
    if entry is None:
        return None
    options = dict(zip(_POSITIONAL, entry.args, strict=False)) | dict(entry.kwargs)
    details = options.get("default_span_details")
    if details is None or details is get_default_span_details or _is_stock(details):
        options["default_span_details"] = span_details
    options["exclude_spans"] = ["send", "receive"]
    for nested in nested_apps(app.routes):
        if isinstance(nested, Starlette) and nested.middleware_stack is None:
            nested.user_middleware = without_instrumentation(nested.user_middleware)
    return options


def instrumented_stack(stack: ASGIApp) -> OpenTelemetryMiddleware | None:
    """
    Return the middleware that ``FastAPIInstrumentor`` put around the *stack* of an app, if it did.

    What it put inside, to record what leaves the app, is taken out: `ErrorLayer` records that.
    """
    middleware = getattr(stack, "app", None)
    if not isinstance(middleware, OpenTelemetryMiddleware):
        return None
    outermost: Any = middleware.app
    recording: Any = getattr(outermost, "app", None)
    if type(recording).__name__ == "ExceptionHandlerMiddleware":
        outermost.app = recording.app
    return middleware


def adopted(middleware: OpenTelemetryMiddleware, inner: ASGIApp) -> OpenTelemetryMiddleware:
    """Return *middleware*, somebody's with its hooks and providers, around *inner* and as ours."""
    details = middleware.default_span_details
    if getattr(details, "__module__", "").startswith(_STOCK):
        middleware.default_span_details = span_details
    middleware.exclude_receive_span = middleware.exclude_send_span = True
    middleware.app = inner
    return middleware


#: Where the span details of the instrumentors come from; others are their owner's own.
_STOCK: Final = ("opentelemetry.", "litestar.")


#: The order of the instrumentation's arguments after the app.
_POSITIONAL: Final = ("excluded_urls", "default_span_details", "server_request_hook")


def without_instrumentation(entries: Iterable[Middleware]) -> list[Middleware]:
    """Return *entries* without the instrumentation's."""
    return [entry for entry in entries if not _is_ours(entry)]


def span_details(scope: Scope) -> tuple[str, dict[str, Any]]:
    """Return the name and the first attributes of a SERVER span: ``{METHOD} {route template}``."""
    route = exchange_in(scope).route
    attributes = {HTTP_ROUTE: route} if route else {}
    if scope["type"] == "websocket":
        return route or "websocket", attributes
    method = sanitize_method(scope["method"])
    name = "HTTP" if method == "_OTHER" else method  # the conventions' name for an unknown one
    return f"{name} {route}" if route else name, attributes


class SpanLayer:
    """Stands right inside the instrumentation and joins its span and the request store."""

    def __init__(self, app: ASGIApp, *, failures: Failures) -> None:
        """Stand around *app*."""
        self.app = app
        self._failures = failures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; what leaves the app is kept, `RequestLayer` raises it."""
        exchange = exchange_in(scope)
        exchange.entered = True
        span = trace.get_current_span()
        undo(scope, span)
        # The stock propagators start from an empty context: the store would be lost below them.
        exchange.context = _merged(exchange.context, otel.get_current())
        token = otel.attach(exchange.context)
        exchange.span = span
        ids = span.get_span_context()
        store = bind_trace(format_trace_id(ids.trace_id) if ids.is_valid else None)
        known = getattr(span, "attributes", None)
        if not known or known.get(CORRELATION_ID) != store.correlation_id:  # no pipeline of ours
            span.set_attributes(span_attributes(store))
        if scope.get("query_string"):
            _hide_query(span)

        async def marking(message: Message) -> None:
            await send(message)
            if message["type"] in STARTS:
                mark_failed(exchange)

        try:
            await self._guarded(scope, receive, marking)
        except BaseException as exc:  # the instrumentation would record it a second time
            exchange.escaped = exc
        finally:
            otel.detach(token)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except Exception as exc:
            await self._failures.settle(scope, receive, send, exc, leave=False)


def _hide_query(span: trace.Span) -> None:
    """Take the query out at once: exporters that are not ours see spans before any masking."""
    attributes = getattr(span, "attributes", None) or {}
    if URL_QUERY in attributes:
        span.set_attribute(URL_QUERY, MASK)
    for name in (*URL_ATTRIBUTES, HTTP_TARGET):
        if name in attributes:
            span.set_attribute(name, str(attributes[name]).partition("?")[0])


def _merged(outer: otel.Context, inner: otel.Context) -> otel.Context:
    for key, value in outer.items():
        if key not in inner:
            inner = otel.set_value(key, value, inner)
    return inner


def _is_ours(entry: Middleware) -> bool:
    found: object = entry.cls
    return found is OpenTelemetryMiddleware


def _is_stock(details: Any) -> bool:
    return getattr(details, "__module__", "") == StarletteInstrumentor.__module__

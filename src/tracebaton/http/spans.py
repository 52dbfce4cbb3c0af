"""
The SERVER span: how opentelemetry-instrumentation-starlette is set up and where it stands.

Its own way adds the middleware inside Starlette's error layer, where neither the 500 nor its
headers are seen, names a mounted route by its mount, and makes a span of every ASGI message. Here
the same middleware, with the same tracer, meter and hooks, stands around the whole app.
"""

from collections.abc import Iterable
from typing import Any, Final

from opentelemetry import context as otel
from opentelemetry import metrics, propagate, trace
from opentelemetry.instrumentation.asgi import (
    OpenTelemetryMiddleware,
    asgi_getter,
    get_default_span_details,
)
from opentelemetry.instrumentation.starlette import StarletteInstrumentor
from opentelemetry.metrics import MeterProvider, NoOpMeter
from opentelemetry.trace import (
    NoOpTracer,
    ProxyTracer,
    ProxyTracerProvider,
    Tracer,
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
from tracebaton.http.routes import nested_apps
from tracebaton.propagation import Propagator
from tracebaton.redaction import MASK
from tracebaton.semconv import CORRELATION_ID, HTTP_ROUTE, HTTP_TARGET, URL_ATTRIBUTES, URL_QUERY

__all__ = [
    "Instrumented",
    "SpanLayer",
    "instrumentation",
    "readable",
    "request_instrumentation",
    "span_details",
]

#: The attribute in which ``FastAPIInstrumentor`` keeps what it replaced.
_FASTAPI: Final = "_original_build_middleware_stack"
#: Where a request's own headers wait while the instrumentation reads others.
_RAW: Final = "tracebaton.headers"
#: What a span has for the time in which the instrumentation repeats itself.
_SET: Final = "set_attribute"
#: The only method of OTel's proxies for meters beside the interface's, by which they hear of one.
_ON_SET: Final = "on_set_meter_provider"
#: The headers that the instrumentation, and our propagator in it, read.
_READ: Final = frozenset(
    name.encode() for name in ("host", "user-agent", "content-length", *Propagator().fields)
)


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


class Instrumented:
    """
    The instrumentation around an app, given what it reads, and passed by where it does nothing.

    Where nobody takes spans or metrics it would still read each header seven times.
    """

    def __init__(self, middleware: OpenTelemetryMiddleware, inner: ASGIApp) -> None:
        """Stand around *middleware*, which stands around *inner*."""
        self.app = middleware  # FastAPI looks for the instrumentation along this name
        self._inner = inner
        hooks = (middleware.server_request_hook, middleware.client_request_hook)
        self._alone = not any((*hooks, middleware.client_response_hook))
        self._reads_all = bool(middleware.http_capture_headers_server_request)
        excluded = middleware.excluded_urls
        self._leaves_out = excluded is not None and getattr(excluded, "_excluded_urls", True)
        tracer, meter = middleware.tracer, middleware.meter
        #: Whether there will never be any, and what tells whether there are none yet.
        self._tracing = (
            isinstance(tracer, NoOpTracer),
            _no_tracing_yet if isinstance(tracer, ProxyTracer) else None,
        )
        self._metering = (
            isinstance(meter, NoOpMeter),
            _no_metrics_yet if hasattr(meter, _ON_SET) else None,
        )
        if self._alone:
            middleware.tracer = _Unrepeated(tracer)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if self._alone and not self._leaves_out and self._is_unheard():
            carrier: dict[str, Any] = scope  # type: ignore[assignment]  # what the getter asks for
            token = otel.attach(propagate.extract(carrier, getter=asgi_getter))
            try:
                await self._inner(scope, receive, send)
            finally:
                otel.detach(token)
            return
        if (
            self._alone
            and not self._reads_all
            and isinstance(propagate.get_global_textmap(), Propagator)
        ):
            scope = _with_few_headers(scope)
        await self.app(scope, receive, send)

    def _is_unheard(self) -> bool:
        """Tell whether nobody takes spans or metrics; a provider may still be set."""
        for off, late in (self._tracing, self._metering):
            if not off and (late is None or not late()):
                return False
        return True


class _Unrepeated(Tracer):
    """
    Starts the spans of *tracer* for the instrumentation, which sets each attribute that a span
    starts with once more, by a call of its own: what it sets before `SpanLayer` does nothing.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self.start_as_current_span = tracer.start_as_current_span  # type: ignore[method-assign]

    def start_span(self, *args: Any, **kwargs: Any) -> trace.Span:
        """Start a span; one that a sampler gave other attributes gets them as ever."""
        span = self._tracer.start_span(*args, **kwargs)
        if type(span).__module__ == "opentelemetry.sdk.trace":
            known, given = getattr(span, "attributes", None), kwargs.get("attributes")
            if given and known and len(known) >= len(given):
                vars(span)[_SET] = _set_nothing
        return span

    def start_as_current_span(self, *args: Any, **kwargs: Any) -> Any:
        """Be set to that of the tracer."""
        raise NotImplementedError


def _set_nothing(key: str, value: Any) -> None:
    """Stand in for a span's ``set_attribute()``."""


def _no_tracing_yet() -> bool:
    return type(trace.get_tracer_provider()) is ProxyTracerProvider


def _no_metrics_yet() -> bool:
    return hasattr(metrics.get_meter_provider(), _ON_SET)


def _with_few_headers(scope: Scope) -> Scope:
    """Return *scope* with the headers that the instrumentation reads; `SpanLayer` has all again."""
    few = [header for header in scope["headers"] if header[0] in _READ]
    return {**scope, "headers": few, _RAW: scope.get(_RAW, scope["headers"])}


def readable(scope: Scope) -> Scope:
    """
    Return *scope* with headers that the instrumentation can decode; `SpanLayer` puts its own back.

    What is no UTF-8 it reads as Python escapes, and where those are none it raises.
    """
    headers = scope["headers"]
    clean = [(name, _as_utf8(value)) for name, value in headers]
    return {**scope, "headers": clean, _RAW: headers}


def _as_utf8(value: bytes) -> bytes:
    try:
        value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1").encode()
    return value


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
        if _RAW in scope:
            scope["headers"] = scope.pop(_RAW)
        span = trace.get_current_span()
        getattr(span, "__dict__", {}).pop(_SET, None)
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

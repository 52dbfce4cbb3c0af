"""
The instrumentation's middleware as it stands around an app: given what it reads, and no more.

What is taken from it for its own time, `SpanLayer` gives back by `undo()`, right inside.
"""

from typing import Any, Final

from opentelemetry import context as otel
from opentelemetry import metrics, propagate, trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware, asgi_getter
from opentelemetry.metrics import NoOpMeter
from opentelemetry.trace import NoOpTracer, ProxyTracer, ProxyTracerProvider, Tracer
from starlette.types import ASGIApp, Receive, Scope, Send

from tracebaton.propagation import Propagator

__all__ = ["Instrumented", "readable", "undo"]

#: Where a request's own headers wait while the instrumentation reads others.
_RAW: Final = "tracebaton.headers"
#: What a span has for the time in which the instrumentation repeats itself.
_SET: Final = "set_attribute"
#: Where the spans come from that keep what they start with: the SDK's, and those of our provider.
_SPANS: Final = frozenset({"opentelemetry.sdk.trace", "tracebaton.telemetry.spans"})
#: The only method of OTel's proxies for meters beside the interface's, by which they hear of one.
_ON_SET: Final = "on_set_meter_provider"
#: The headers that the instrumentation, and our propagator in it, read.
_READ: Final = frozenset(
    name.encode() for name in ("host", "user-agent", "content-length", *Propagator().fields)
)


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
        if type(span).__module__ in _SPANS:
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


def undo(scope: Scope, span: trace.Span) -> None:
    """Give *scope* its own headers again, and *span* its ``set_attribute()``."""
    if _RAW in scope:
        scope["headers"] = scope.pop(_RAW)
    getattr(span, "__dict__", {}).pop(_SET, None)


def _as_utf8(value: bytes) -> bytes:
    try:
        value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1").encode()
    return value

"""
The subjects: one small Starlette app under different telemetry.

Each function of `SUBJECTS` returns the app and what flushes its telemetry. Imports stand inside,
because not every peer's environment has every package.
"""

import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

Flush = Callable[[], object]
Subject = tuple[Starlette, Flush]
Spans = Callable[[], AbstractContextManager[object]]

#: The sink, ``http://127.0.0.1:PORT``.
SINK = os.environ.get("BENCH_SINK", "http://127.0.0.1:9")
DSN = SINK.replace("http://", "http://abc123@") + "/42"


class Prices:
    """A service of the app, with one span of its own."""

    def __init__(self, span: Spans) -> None:
        self._span = span

    def quote(self, item_id: str, amount: int) -> int:
        """Return the price of *amount* pieces."""
        with self._span():
            return amount * len(item_id)


def shop(prices: Prices) -> Starlette:
    """Return the app."""

    async def order(request: Request) -> JSONResponse:
        body = await request.json()
        price = prices.quote(body["item_id"], body["amount"])
        return JSONResponse({"order_id": request.path_params["order_id"], "price": price})

    return Starlette(routes=[Route("/orders/{order_id}", order, methods=["POST"])])


def nothing() -> None:
    """Flush nothing."""


def bare() -> Subject:
    """Starlette alone."""
    return shop(Prices(nullcontext)), nothing


def otel_span() -> AbstractContextManager[object]:
    """Return a span by the API's own tracer."""
    from opentelemetry import trace

    return trace.get_tracer("shop").start_as_current_span("quote")


def sdk(processor: Any) -> Any:
    from opentelemetry import trace
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    provider = TracerProvider(resource=Resource.create({"service.name": "shop"}))
    provider.add_span_processor(processor)
    trace.set_tracer_provider(provider)
    return provider


def otlp_batch() -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{SINK}/v1/traces"))


def contrib() -> Subject:
    """StarletteInstrumentor as it comes."""
    from opentelemetry.instrumentation.starlette import StarletteInstrumentor

    provider, app = sdk(otlp_batch()), shop(Prices(otel_span))
    StarletteInstrumentor.instrument_app(app)
    return app, provider.shutdown


def contrib_quiet() -> Subject:
    """The same middleware without a span for each ASGI message, as we use it."""
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

    provider, app = sdk(otlp_batch()), shop(Prices(otel_span))
    app.add_middleware(OpenTelemetryMiddleware, exclude_spans=["send", "receive"])
    return app, provider.shutdown


def sentry_native() -> Subject:
    """sentry-sdk's own Starlette integration, without OpenTelemetry."""
    import sentry_sdk
    from sentry_sdk.integrations.starlette import StarletteIntegration

    sentry_sdk.init(DSN, traces_sample_rate=1.0, integrations=[StarletteIntegration()])
    app = shop(Prices(lambda: sentry_sdk.start_span(op="function", name="quote")))
    return app, lambda: sentry_sdk.flush(30)


def sentry_stock() -> Subject:
    """sentry-sdk's span processor as its documentation sets it up."""
    import sentry_sdk
    from opentelemetry.instrumentation.starlette import StarletteInstrumentor
    from opentelemetry.propagate import set_global_textmap
    from sentry_sdk.integrations.opentelemetry import SentryPropagator, SentrySpanProcessor

    sentry_sdk.init(DSN, traces_sample_rate=1.0, instrumenter="otel")
    sdk(SentrySpanProcessor())
    set_global_textmap(SentryPropagator())
    app = shop(Prices(otel_span))
    StarletteInstrumentor.instrument_app(app)
    return app, lambda: sentry_sdk.flush(30)


def logfire() -> Subject:
    """logfire's Starlette instrumentation, sending OTLP."""
    os.environ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] = f"{SINK}/v1/traces"
    import logfire as lf

    lf.configure(send_to_logfire=False, console=False, service_name="shop", metrics=False)
    app = shop(Prices(lambda: lf.span("quote")))
    lf.instrument_starlette(app)
    return app, lf.force_flush


def ours(
    variables: Mapping[str, str] | None = None, *, log: bool = True, audit: bool = True
) -> Subject:
    """Our layers, as many as asked for."""
    from tracebaton import audited, configure_logging, configure_telemetry, instrument
    from tracebaton.settings import Settings

    environment = {"OTEL_METRICS_EXPORTER": "none", **(variables or {})}
    telemetry = configure_telemetry(Settings.load(environment))
    if log:
        # A file, because what a pipe costs depends on who reads it.
        stream = tempfile.TemporaryFile("w+")  # noqa: SIM115
        configure_logging(service="shop", pretty=False, stream=stream)
    prices = Prices(otel_span)
    app = shop(audited(prices) if audit else prices)
    instrument(app, reporter=telemetry.reporter, tracer_provider=telemetry.tracer_provider)
    return app, lambda: telemetry.shutdown(30)


OTLP = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{SINK}/v1/traces"}
SENTRY = {"SENTRY_DSN": DSN, "SENTRY_TRACES_SAMPLE_RATE": "1.0"}

SUBJECTS: dict[str, Callable[[], Subject]] = {
    "bare": bare,
    "contrib": contrib,
    "contrib-quiet": contrib_quiet,
    "ours-store": lambda: ours(OTLP, log=False, audit=False),
    "ours-log": lambda: ours(OTLP, audit=False),
    "ours": lambda: ours(OTLP),
    "ours-off": lambda: ours({"OTEL_SDK_DISABLED": "true"}),
    "ours-unsampled": lambda: ours({**OTLP, "OTEL_TRACES_SAMPLER": "always_off"}),
    "ours-sentry": lambda: ours(SENTRY),
    "ours-sentry-otlp": lambda: ours({**SENTRY, "TRACEBATON_SENTRY_MODE": "otlp"}),
    "ours-sentry-unsampled": lambda: ours({**SENTRY, "SENTRY_TRACES_SAMPLE_RATE": "0"}),
    "sentry-native": sentry_native,
    "sentry-stock": sentry_stock,
    "logfire": logfire,
}

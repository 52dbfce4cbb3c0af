"""An OpenTelemetry set-up that the application made first stays, and nothing is doubled."""

import json
import subprocess
import sys
from typing import Any

import pytest
from otlp_receiver import OtlpReceiver
from sentry_receiver import SentryReceiver

pytestmark = pytest.mark.backends

THEIRS = """
import asyncio, json, sys
import httpx
from opentelemetry import metrics, propagate, trace
from opentelemetry.instrumentation.starlette import StarletteInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
provider, meters = TracerProvider(), MeterProvider([reader])
propagator = TraceContextTextMapPropagator()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
metrics.set_meter_provider(meters)
propagate.set_global_textmap(propagator)
"""

OURS = """
from tracebaton import configure_telemetry, instrument
from tracebaton.settings import Settings

telemetry = configure_telemetry(Settings.load())

async def item(request):
    with telemetry.tracer.start_as_current_span("inner"):
        return PlainTextResponse("ok")

app = Starlette(routes=[Route("/items/{id}", item)])
StarletteInstrumentor.instrument_app(app)
instrument(app, reporter=telemetry.reporter)

async def ask(path):
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        await client.get(path, headers={"x-correlation-id": "c-1"})

asyncio.run(ask("/items/1?token=c4n4ry"))
report = telemetry.shutdown(5)
asyncio.run(ask("/items/2"))
names = [
    metric.name
    for resource in reader.get_metrics_data().resource_metrics
    for scope in resource.scope_metrics
    for metric in scope.metrics
]
print(json.dumps({
    "provider": trace.get_tracer_provider() is provider is telemetry.tracer_provider,
    "meters": metrics.get_meter_provider() is meters is telemetry.meter_provider,
    "propagator": propagate.get_global_textmap() is propagator,
    "spans": [span.name for span in exporter.get_finished_spans()],
    "ids": [span.attributes["tracebaton.correlation_id"] for span in exporter.get_finished_spans()],
    "secret": "c4n4ry" in "".join(span.to_json() for span in exporter.get_finished_spans()),
    "measured": "http.server.request.duration" in names,
    "report": [report.spans_exported, report.spans_dropped, report.complete],
}))
"""


def run(code: str, variables: dict[str, str]) -> Any:
    """Run *code* in a process of its own and return what it says in its last line."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={"PATH": "", "NO_PROXY": "*"} | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_their_set_up_stays_and_sentry_and_viewer_come_to_it(
    otlp: OtlpReceiver, sentry: SentryReceiver
) -> None:
    """One provider, one span for each, whoever sends it; their exporters outlive our shutdown."""
    said = run(
        THEIRS + OURS,
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url,
            "TRACEBATON_VIEWER_URL": otlp.url + "/viewer",
            "SENTRY_DSN": sentry.dsn,
        },
    )

    assert said == {
        "provider": True,
        "meters": True,
        "propagator": True,
        "spans": ["inner", "GET /items/{id}"] * 2,
        "ids": ["c-1"] * 4,
        "secret": False,
        "measured": True,
        "report": [4, 0, True],
    }
    assert {path for path, _, _ in otlp.requests} == {"/viewer/v1/traces"}
    assert sorted(span.name for span in otlp.spans()) == ["GET /items/{id}", "inner"]
    assert [event["transaction"] for event in sentry.transactions()] == ["GET /items/{id}"]


def test_their_sentry_processor_is_not_doubled(sentry: SentryReceiver) -> None:
    """Who sends transactions already goes on to; failures are ours to tell."""
    code = """
import sentry_sdk, sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from sentry_sdk.integrations.opentelemetry import SentrySpanProcessor
provider = TracerProvider()
provider.add_span_processor(SentrySpanProcessor())
trace.set_tracer_provider(provider)
from tracebaton import configure_telemetry
from tracebaton.settings import Settings
telemetry = configure_telemetry(Settings.load())
telemetry.tracer.start_span("work").end()
telemetry.shutdown(5)
sentry_sdk.flush(5)
print("{}")
"""
    run(code, {"SENTRY_DSN": sentry.dsn, "SENTRY_TRACES_SAMPLE_RATE": "1"})

    assert [event["transaction"] for event in sentry.transactions()] == ["work"]


@pytest.mark.parametrize(
    ("before", "stays"),
    [
        ("", False),
        ("propagate.set_global_textmap(W3CBaggagePropagator())", True),
        ("propagate.set_global_textmap(CompositePropagator([]))", True),
        ("trace.set_tracer_provider(TracerProvider())", True),
    ],
    ids=["nothing", "one propagator", "none", "a provider"],
)
def test_a_chosen_propagator_stays(before: str, *, stays: bool) -> None:
    """OpenTelemetry's own default is nobody's choice; who made a provider made the choice too."""
    code = f"""
import json
from opentelemetry import propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.trace import TracerProvider
{before}
theirs = propagate.get_global_textmap()
from tracebaton import configure_telemetry
from tracebaton.settings import Settings
telemetry = configure_telemetry(Settings.load())
now = propagate.get_global_textmap()
assert now in (theirs, telemetry.propagator)
print(json.dumps({{"stays": now is theirs}}))
"""

    assert run(code, {}) == {"stays": stays}


def test_the_same_set_up_twice_is_one(otlp: OtlpReceiver) -> None:
    """A second call returns the first one's; other settings, or a stop in between, make a new."""
    code = """
import json, threading
from opentelemetry import trace
from tracebaton import configure_telemetry
from tracebaton.settings import Settings
first = configure_telemetry()
threads = threading.active_count()
second = configure_telemetry()
same_threads = threading.active_count() == threads
trace.get_tracer("x").start_span("once").end()
worker = configure_telemetry(role="worker")
first.shutdown(5)
third = configure_telemetry()
print(json.dumps([second is first, same_threads, worker is first, third is first]))
worker.shutdown(5)
third.shutdown(5)
"""

    assert run(code, {"OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url}) == [True, True, False, False]
    assert [span.name for span in otlp.spans()] == ["once"]


@pytest.mark.parametrize(
    "provider", ["", "trace.set_tracer_provider(TracerProvider())"], ids=["ours", "theirs"]
)
def test_an_application_in_a_process_that_is_set_up_shares_it(
    otlp: OtlpReceiver, sentry: SentryReceiver, provider: str
) -> None:
    """configure_telemetry() and a Tracebaton of the same settings: each span once a sink."""
    code = f"""
import asyncio, json
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
{provider}
from tracebaton import Tracebaton, configure_telemetry
first = configure_telemetry()

async def main():
    async with Tracebaton().running() as runtime:
        trace.get_tracer("theirs").start_span("work").end()
        runtime.telemetry.tracer.start_span("more").end()
        return runtime.telemetry is first

shared = asyncio.run(main())
trace.get_tracer("theirs").start_span("after").end()
print(json.dumps([shared, first.shutdown(5).complete]))
"""
    said = run(
        code,
        {
            "TRACEBATON_VIEWER_URL": otlp.url,
            "SENTRY_DSN": sentry.dsn,
            "TRACEBATON_QUEUE_URL": "http://127.0.0.1:9/000000000000/tasks",
            "TRACEBATON_STORE": "none",
        },
    )

    assert said == [True, True]
    assert sorted(span.name for span in otlp.spans()) == ["after", "more", "work"]
    assert sorted(one["transaction"] for one in sentry.transactions()) == ["after", "more", "work"]

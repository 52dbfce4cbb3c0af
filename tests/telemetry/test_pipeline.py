"""What is built from which settings, and how it stops."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import sentry_sdk
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NoOpTracerProvider, SpanKind
from otlp_receiver import OtlpReceiver
from sentry_receiver import SentryReceiver, sentry_receiver
from sentry_sdk.envelope import Envelope, Item, PayloadRef

from tracebaton.context import RequestStore, bind_trace, current, entered
from tracebaton.errors import ConfigurationError
from tracebaton.problems import NO_REPORTER, outcome_of
from tracebaton.settings import Settings
from tracebaton.telemetry.losses import InFlight, Losses
from tracebaton.telemetry.pipeline import resource_of
from tracebaton.telemetry.sentry import Sentry, check_sdk
from tracebaton.telemetry.sentry.transport import CONNECTIONS, ParallelTransport

pytestmark = pytest.mark.backends


@pytest.fixture
def black_hole() -> Iterator[str]:
    """Listen and never accept: connections hang in the backlog."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_without_a_sink_there_are_spans_and_nothing_is_sent(pipelines: Any) -> None:
    """Ids work, nobody reports, no log leaves, no thread runs."""
    before = set(threading.enumerate())
    telemetry = pipelines({})
    with entered(RequestStore()), telemetry.tracer.start_as_current_span("x") as span:
        assert current().correlation_id == f"{span.get_span_context().trace_id:032x}"
    report = telemetry.shutdown(1)

    assert isinstance(telemetry.tracer_provider, TracerProvider)
    assert telemetry.reporter is NO_REPORTER
    assert telemetry.log_handler is None
    assert (report.spans_exported, report.spans_dropped, report.complete) == (0, 0, True)
    for thread in set(threading.enumerate()) - before:  # the SDK's, which ends by itself
        thread.join(5)
        assert not thread.is_alive()


def test_every_sink_gets_every_span(
    pipelines: Any, otlp: OtlpReceiver, sentry: SentryReceiver
) -> None:
    """Sentry, OTLP and the viewer at once."""
    telemetry = pipelines(
        {
            "SENTRY_DSN": sentry.dsn,
            "OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url + "/backend",
            "TRACEBATON_VIEWER_URL": otlp.url + "/viewer",
        }
    )
    telemetry.tracer.start_span("x").end()
    assert telemetry.force_flush(5)
    report = telemetry.shutdown(5)

    assert [span.name for span in otlp.spans()] == ["x", "x"]
    assert [event["transaction"] for event in sentry.transactions()] == ["x"]
    assert (report.spans_exported, report.spans_dropped, report.complete) == (3, 0, True)
    assert telemetry.shutdown(5) is report


def test_a_disabled_sdk_makes_no_span_and_still_reports(
    pipelines: Any, otlp: OtlpReceiver, sentry: SentryReceiver
) -> None:
    """OTEL_SDK_DISABLED: no exporter, fresh correlation ids, failures go to Sentry."""
    telemetry = pipelines(
        {
            "OTEL_SDK_DISABLED": "true",
            "OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url,
            "TRACEBATON_VIEWER_URL": otlp.url,
            "SENTRY_DSN": sentry.dsn,
        }
    )
    exc = ValueError("boom")
    with (
        telemetry.reporter.isolated(),
        entered(RequestStore()),
        telemetry.tracer.start_as_current_span("x", kind=SpanKind.SERVER) as span,
    ):
        store = bind_trace(None)
        telemetry.reporter.report(exc, outcome_of(exc), mechanism="asgi", tags={})
    telemetry.shutdown(5)

    (event,) = sentry.events()

    assert isinstance(telemetry.tracer_provider, NoOpTracerProvider)
    assert not span.get_span_context().is_valid
    assert event["tags"]["correlation_id"] == store.correlation_id
    assert telemetry.log_handler is None
    assert otlp.requests == []
    assert sentry.transactions() == []


def test_the_resource_names_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Own variables over OTEL_RESOURCE_ATTRIBUTES over defaults; an id for each process."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=env,team=a,service.version=9")
    plain = resource_of(Settings.load({}), role="worker").attributes
    named = resource_of(
        Settings.load(
            {"OTEL_SERVICE_NAME": "mine", "SENTRY_RELEASE": "r1", "SENTRY_ENVIRONMENT": "lab"}
        ),
        role="api",
    ).attributes
    monkeypatch.delenv("OTEL_RESOURCE_ATTRIBUTES")
    default = resource_of(Settings.load({}), role="worker").attributes

    assert (plain["service.name"], plain["service.version"], plain["team"]) == ("env", "9", "a")
    assert (
        named["service.name"],
        named["service.version"],
        named["deployment.environment.name"],
    ) == ("mine", "r1", "lab")
    assert default["service.name"] == "tracebaton-worker"
    assert default["deployment.environment.name"] == "production"
    assert default["service.instance.id"] != plain["service.instance.id"]


@pytest.mark.parametrize("sink", ["OTEL_EXPORTER_OTLP_ENDPOINT", "TRACEBATON_VIEWER_URL"])
def test_a_stop_is_in_time_with_a_collector_that_never_answers(
    pipelines: Any, black_hole: str, sink: str
) -> None:
    """The SDK alone takes 30 s; the report says that nothing left."""
    telemetry = pipelines({sink: f"http://{black_hole}"})
    for _ in range(10):
        telemetry.tracer.start_span("x").end()
    begun = time.monotonic()
    report = telemetry.shutdown(0.3)

    assert time.monotonic() - begun < 1
    assert (report.spans_exported, report.spans_dropped, report.complete) == (0, 10, False)


def test_a_stop_is_in_time_with_a_sentry_that_never_answers(
    pipelines: Any, black_hole: str
) -> None:
    """And with one that is not there at all."""
    for address in (black_hole, "127.0.0.1:9"):
        telemetry = pipelines({"SENTRY_DSN": f"http://public@{address}/1"})
        for _ in range(10):
            telemetry.tracer.start_span("x").end()
        begun = time.monotonic()
        report = telemetry.shutdown(0.3)

        assert time.monotonic() - begun < 1
        assert (report.spans_exported, report.spans_dropped) == (0, 10)


@pytest.mark.parametrize("status", [500, 429, 413])
def test_envelopes_that_sentry_refuses_are_counted(
    pipelines: Any, sentry: SentryReceiver, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """One line an interval and one at the end, whatever it answers."""
    sentry.status = status
    telemetry = pipelines({"SENTRY_DSN": sentry.dsn})
    for _ in range(3):
        telemetry.tracer.start_span("x").end()
    report = telemetry.shutdown(5)

    assert (report.spans_exported, report.spans_dropped, report.complete) == (0, 3, True)
    lines = [vars(r)["fields"] for r in caplog.records if r.message == "telemetry.spans_lost"]
    # A sink of another test, left behind by its stop, may have its say in between.
    ours = [one for one in lines if one["reason"] in {f"status_{status}", "self_rate_limits"}]
    assert [one["spans"] for one in ours] == [1, 2]


def test_a_burst_to_a_slow_sentry_arrives_whole(pipelines: Any, sentry: SentryReceiver) -> None:
    """500 transactions at 20 ms a round trip, flushed within the deadline of the stop."""
    sentry.delay = 0.02
    telemetry = pipelines({"SENTRY_DSN": sentry.dsn})
    for _ in range(500):
        telemetry.tracer.start_span("x").end()
    report = telemetry.shutdown(10)

    assert (report.spans_exported, report.spans_dropped, report.complete) == (500, 0, True)
    assert len(sentry.transactions()) == 500


def test_a_flush_says_when_it_was_not_enough(pipelines: Any, sentry: SentryReceiver) -> None:
    """A sink that is slower than the caller's patience."""
    sentry.delay = 0.5
    telemetry = pipelines({"SENTRY_DSN": sentry.dsn})
    telemetry.tracer.start_span("x").end()

    assert not telemetry.force_flush(0.05)
    assert telemetry.force_flush(5)


def test_an_unreachable_sink_keeps_no_process_alive(black_hole: str) -> None:
    """No shutdown is called: the interpreter ends without waiting for either."""
    code = """
import sys
from tracebaton.settings import Settings
from tracebaton.telemetry import build
hole = sys.argv[1]
telemetry = build(Settings.load({
    "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{hole}", "TRACEBATON_VIEWER_URL": f"http://{hole}",
    "SENTRY_DSN": f"http://public@{hole}/1"}), role="api")
telemetry.tracer.start_span("x").end()
print(telemetry.shutdown(0.2).spans_dropped)
"""
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, black_hole],
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert (done.returncode, done.stdout) == (0, "3\n")
    assert time.monotonic() - begun < 8


def test_install_makes_provider_and_propagator_global() -> None:
    """Once a process: a second build keeps the first provider and takes over the propagator."""
    code = """
from opentelemetry import propagate, trace
from tracebaton.settings import Settings
from tracebaton.telemetry import build
first = build(Settings.load({}), role="api")
assert trace.get_tracer_provider() is first.tracer_provider
second = build(Settings.load({}), role="api")
assert trace.get_tracer_provider() is first.tracer_provider
assert propagate.get_global_textmap() is second.propagator
third = build(Settings.load({}), role="api", install=False)
assert propagate.get_global_textmap() is second.propagator
import os
assert os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] == "http"
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=30
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_a_disabled_sdk_takes_nobodys_place() -> None:
    """Whoever sets a provider up after it is the process's; until then nothing is recorded."""
    code = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from tracebaton.settings import Settings
from tracebaton.telemetry import build
off = build(Settings.load({"OTEL_SDK_DISABLED": "true"}), role="worker")
early = trace.get_tracer("early")
assert not early.start_span("before").is_recording()
provider = TracerProvider()
trace.set_tracer_provider(provider)
assert trace.get_tracer_provider() is provider
assert early.start_span("after").is_recording()
assert not off.tracer.start_span("ours").is_recording()
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=30
    )

    assert (done.returncode, done.stderr) == (0, "")


class TestOtlpMode:
    """Sentry's OTLP endpoint in place of transactions."""

    def test_spans_go_to_sentrys_endpoint_and_failures_stay_linked(
        self, pipelines: Any, sentry: SentryReceiver
    ) -> None:
        """Ops by sentry.op, parent and child, no transaction besides."""
        telemetry = pipelines({"SENTRY_DSN": sentry.dsn, "TRACEBATON_SENTRY_MODE": "otlp"})
        exc = ValueError("boom")
        with (
            telemetry.reporter.isolated(),
            telemetry.tracer.start_as_current_span(
                "GET /x", kind=SpanKind.SERVER, attributes={"http.request.method": "GET"}
            ) as server,
        ):
            telemetry.reporter.report(exc, outcome_of(exc), mechanism="asgi", tags={})
            telemetry.tracer.start_span("inner").end()
        report = telemetry.shutdown(5)

        (event,) = sentry.events()
        (resource,) = sentry.resource_spans()
        spans = {span.name: span for scope in resource.scope_spans for span in scope.spans}
        ops = {a.value.string_value for a in spans["GET /x"].attributes if a.key == "sentry.op"}

        assert ops == {"http.server"}
        assert spans["inner"].parent_span_id == spans["GET /x"].span_id
        assert sentry.otlp_headers[0]["x-sentry-auth"].startswith("Sentry sentry_key=public,")
        assert sentry.transactions() == []
        span = server.get_span_context()
        assert event["contexts"]["trace"]["trace_id"] == f"{span.trace_id:032x}"
        assert event["contexts"]["trace"]["span_id"] == f"{span.span_id:016x}"
        assert (report.spans_exported, report.spans_dropped, report.complete) == (2, 0, True)

    @pytest.mark.parametrize(("version", "lifecycle"), [("3.0.0", None), ("2.75.0", "stream")])
    def test_a_sentry_sdk_without_transactions_is_refused(
        self, version: str, lifecycle: str | None
    ) -> None:
        """It would send nothing, in silence; mode otlp does not need it."""
        with pytest.raises(ConfigurationError, match="TRACEBATON_SENTRY_MODE=otlp"):
            check_sdk("span-processor", version=version, lifecycle=lifecycle)

        check_sdk("otlp", version=version, lifecycle=lifecycle)
        check_sdk("span-processor", version="2.62.0", lifecycle="static")


def busy(pipelines: Any, dsn: str, **variables: str) -> None:
    """Compute for a while in a span."""
    telemetry = pipelines({"SENTRY_DSN": dsn, **variables})
    with telemetry.tracer.start_as_current_span("busy"):
        until = time.monotonic() + 0.1
        while time.monotonic() < until:
            sum(range(1000))
    telemetry.shutdown(5)


def test_the_profiler_runs_when_asked_and_links_its_transactions(
    pipelines: Any, sentry: SentryReceiver
) -> None:
    """The continuous profiler, the one that works under OpenTelemetry; its chunk is flushed."""
    busy(pipelines, sentry.dsn, SENTRY_PROFILE_SESSION_SAMPLE_RATE="1")

    (event,) = sentry.transactions()
    chunks = sentry.items("profile_chunk")

    assert len(chunks) >= 1
    assert event["contexts"]["trace"]["data"]["profiler_id"] == chunks[0]["profiler_id"]


def test_the_profiler_runs_in_mode_otlp_too(pipelines: Any, sentry: SentryReceiver) -> None:
    """Its chunks arrive; the spans do not name them."""
    mode = {"TRACEBATON_SENTRY_MODE": "otlp", "SENTRY_PROFILE_SESSION_SAMPLE_RATE": "1"}
    busy(pipelines, sentry.dsn, **mode)

    assert len(sentry.items("profile_chunk")) >= 1
    assert "profiler_id" not in str(sentry.resource_spans())


def test_no_profiler_runs_unasked(pipelines: Any, sentry: SentryReceiver) -> None:
    """No chunk, no thread."""
    busy(pipelines, sentry.dsn)

    assert sentry.items("profile_chunk") == []
    assert not [t.name for t in threading.enumerate() if "profile" in t.name.lower()]


def test_what_does_not_fit_the_queues_is_counted(
    sentry: SentryReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    """Of units and of envelopes alike; memory stays bounded when Sentry is slow."""
    sentry.delay = 30
    settings = Settings.load({"SENTRY_DSN": sentry.dsn})
    connection = Sentry(settings, release="r", environment="e", queue_size=2)
    provider = TracerProvider(shutdown_on_exit=False)
    assert connection.processor is not None
    provider.add_span_processor(connection.processor)
    for _ in range(100):
        provider.get_tracer("x").start_span("x").end()
    connection.shutdown(0.5)
    lost = sum(
        vars(r)["fields"]["spans"] for r in caplog.records if r.message == "telemetry.spans_lost"
    )

    assert connection.exported == 0
    assert connection.unsent == 100
    assert connection.waiting <= CONNECTIONS + 2
    assert lost >= 1


def test_many_spans_fill_the_queues_too(sentry: SentryReceiver) -> None:
    """A few large units are as heavy as many small ones."""
    sentry.delay = 30
    settings = Settings.load({"SENTRY_DSN": sentry.dsn})
    connection = Sentry(settings, release="r", environment="e", queue_spans=20)
    provider = TracerProvider(shutdown_on_exit=False)
    assert connection.processor is not None
    provider.add_span_processor(connection.processor)
    tracer = provider.get_tracer("x")
    for _ in range(5):
        with tracer.start_as_current_span("root"):
            for _ in range(8):
                tracer.start_span("inner").end()
    lost = connection.lost
    connection.shutdown(0)

    assert lost == 27
    assert (connection.exported, connection.unsent) == (0, 45)


def test_a_full_envelope_queue_refuses_envelopes(sentry: SentryReceiver) -> None:
    """The next unit's transaction is lost then, and counted."""
    sentry.delay = 30
    losses = Losses("sentry")
    settings = Settings.load({"SENTRY_DSN": sentry.dsn})
    Sentry(settings, release="r", environment="e").shutdown(0)
    kind = type(
        "Transport",
        (ParallelTransport,),
        {"flight": InFlight(losses, Losses("sentry", signal="events"))},
    )
    transport = kind({**sentry_sdk.get_client().options, "transport_queue_size": 1})
    for number in range(CONNECTIONS + 3):
        transport.flight.receive(1)
        transport.flight.pack(str(number), 1)
        item = Item(PayloadRef(json={}), type="event")
        transport.capture_envelope(Envelope(headers={"event_id": str(number)}, items=[item]))

    assert not transport.is_healthy()
    assert 2 <= losses.count <= CONNECTIONS + 2
    assert transport.flight.parcels == CONNECTIONS + 3 - losses.count


def test_a_unit_queue_that_is_full_refuses_units(sentry: SentryReceiver) -> None:
    """Nothing waits anywhere if nothing may."""
    settings = Settings.load({"SENTRY_DSN": sentry.dsn})
    connection = Sentry(settings, release="r", environment="e", queue_size=0)
    provider = TracerProvider(shutdown_on_exit=False)
    assert connection.processor is not None
    provider.add_span_processor(connection.processor)
    provider.get_tracer("x").start_span("x").end()
    connection.shutdown(1)

    assert (connection.exported, connection.unsent, connection.waiting) == (0, 1, 0)


@pytest.mark.parametrize("conventions", ["", "http", "http/dup"])
def test_the_stock_instrumentation_reads_the_same_in_either_generation(
    sentry: SentryReceiver, conventions: str
) -> None:
    """opentelemetry-instrumentation-starlette chooses its names once a process."""
    code = """
import sys
from opentelemetry.instrumentation.starlette import StarletteInstrumentor
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from tracebaton.settings import Settings
from tracebaton.telemetry import build
telemetry = build(Settings.load({"SENTRY_DSN": sys.argv[1]}), role="api")
async def job(request):
    return PlainTextResponse("gone", 503)
app = Starlette(routes=[Route("/v1/jobs/{job_id}", job, methods=["POST"])])
StarletteInstrumentor.instrument_app(app, tracer_provider=telemetry.tracer_provider)
TestClient(app).post("/v1/jobs/42?token=s3cr3t")
telemetry.shutdown(5)
"""
    subprocess.run(
        [sys.executable, "-c", code, sentry.dsn],
        check=True,
        timeout=30,
        env={"PATH": "", "OTEL_SEMCONV_STABILITY_OPT_IN": conventions},
    )

    (event,) = sentry.transactions()
    trace = event["contexts"]["trace"]

    assert (event["transaction"], event["transaction_info"]["source"]) == (
        "POST /v1/jobs/{job_id}",
        "route",
    )
    assert (trace["op"], trace["status"]) == ("http.server", "unavailable")
    assert "s3cr3t" not in str(event)


@pytest.mark.parametrize(
    ("variables", "warned"),
    [
        ({"SENTRY_SPOTLIGHT": "1"}, True),
        ({"SENTRY_SPOTLIGHT": "http://127.0.0.1:8969/stream"}, True),
        ({"SENTRY_SPOTLIGHT": "off"}, False),
        ({}, False),
    ],
)
def test_a_spotlight_that_gets_nothing_is_warned_of(
    pipelines: Any, caplog: pytest.LogCaptureFixture, variables: dict[str, str], warned: bool
) -> None:
    """Without a DSN sentry-sdk is not started, and a switch of its own does nothing."""
    pipelines(variables)

    said = [one for one in caplog.records if one.msg == "telemetry.spotlight_without_dsn"]
    assert [one.levelname for one in said] == ["WARNING"] * warned


def test_a_spotlight_beside_a_dsn_gets_the_same(
    pipelines: Any,
    sentry: SentryReceiver,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both get the transaction, and nobody is warned."""
    with sentry_receiver() as spotlight:
        url = f"http://127.0.0.1:{spotlight.port}/api/1/envelope/"
        monkeypatch.setenv("SENTRY_SPOTLIGHT", url)  # sentry-sdk reads it by itself
        telemetry = pipelines({"SENTRY_DSN": sentry.dsn, "SENTRY_SPOTLIGHT": url})
        with telemetry.tracer.start_as_current_span("x"):
            pass
        telemetry.shutdown(5)

        (one,), (other,) = sentry.transactions(), spotlight.transactions()

    assert one["event_id"] == other["event_id"]
    assert [each for each in caplog.records if "spotlight" in each.getMessage()] == []

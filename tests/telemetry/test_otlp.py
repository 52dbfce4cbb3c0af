"""Spans and log lines over OTLP, and what is said when they are lost."""

import logging
import threading
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import SpanKind, StatusCode
from otlp_receiver import OtlpReceiver

from tracebaton.context import RequestStore, entered
from tracebaton.telemetry.otlp import SpanExport

pytestmark = pytest.mark.backends


def attributes(items: Any) -> dict[str, Any]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in items}


def test_spans_arrive_with_their_resource(pipelines: Any, otlp: OtlpReceiver) -> None:
    """The endpoint is the base, the signal's path is added."""
    telemetry = pipelines({"OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url + "/"})
    telemetry.tracer.start_span("GET /x", kind=SpanKind.SERVER).end()
    report = telemetry.shutdown(5)

    (span,) = otlp.spans()

    assert span.name == "GET /x"
    assert {path for path, _, _ in otlp.requests} == {"/v1/traces", "/v1/metrics"}
    assert (report.spans_exported, report.spans_dropped, report.complete) == (1, 0, True)


def test_the_traces_endpoint_is_taken_as_it_stands(pipelines: Any, otlp: OtlpReceiver) -> None:
    """It beats the common one, as the specification says."""
    telemetry = pipelines(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": otlp.url + "/my/v1/traces",
            "OTEL_METRICS_EXPORTER": "none",  # they would try the other one until the deadline
        }
    )
    telemetry.tracer.start_span("x").end()
    telemetry.shutdown(5)

    assert [path for path, _, _ in otlp.requests] == ["/my/v1/traces"]


def test_a_span_is_in_the_viewer_within_two_seconds(pipelines: Any, otlp: OtlpReceiver) -> None:
    """Nobody flushes; the batch does not wait longer than half a second."""
    telemetry = pipelines({"TRACEBATON_VIEWER_URL": otlp.url})
    telemetry.tracer.start_span("x").end()

    otlp.wait_for(lambda receiver: len(receiver.spans()) == 1, timeout=2)


def test_only_the_configured_backend_gets_its_headers(
    pipelines: Any, otlp: OtlpReceiver, sentry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK would send them to every destination, Sentry included."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-vendor-key=s3cr3t")
    telemetry = pipelines(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url + "/backend",
            "TRACEBATON_VIEWER_URL": otlp.url + "/viewer",
            "SENTRY_DSN": sentry.dsn,
            "TRACEBATON_SENTRY_MODE": "otlp",
        }
    )
    telemetry.tracer.start_span("x").end()
    assert telemetry.log_handler is not None
    telemetry.log_handler.handle(logging.makeLogRecord({"msg": "x", "levelno": 20}))
    telemetry.shutdown(5)
    sent = {path: headers.get("x-vendor-key") for path, headers, _ in otlp.requests}

    assert sent == {
        "/backend/v1/traces": "s3cr3t",
        "/backend/v1/metrics": "s3cr3t",
        "/viewer/v1/traces": None,
        "/viewer/v1/logs": None,
    }
    assert "s3cr3t" not in str(sentry.otlp_headers)


def test_log_lines_carry_the_events_fields_and_ids(pipelines: Any, otlp: OtlpReceiver) -> None:
    """The same mapping that stdout gets, in OTLP's places."""
    telemetry = pipelines({"TRACEBATON_VIEWER_URL": otlp.url})
    logger = logging.getLogger("tracebaton.test")
    logger.addHandler(telemetry.log_handler)
    try:
        with (
            entered(RequestStore(correlation_id="c-1", user_id="u-1", attempt=2)),
            telemetry.tracer.start_as_current_span("x") as span,
        ):
            logger.error("task.failed", extra={"fields": {"task_type": "ai", "data": {"a": 1}}})
    finally:
        logger.removeHandler(telemetry.log_handler)
        telemetry.log_handler.close()
    telemetry.shutdown(5)

    ((scope, record),) = otlp.logs()
    context = span.get_span_context()

    assert scope == "tracebaton.test"
    assert record.body.string_value == "task.failed"
    assert (record.severity_text, record.severity_number) == ("error", 17)
    assert record.trace_id.hex() == f"{context.trace_id:032x}"
    assert record.span_id.hex() == f"{context.span_id:016x}"
    assert attributes(record.attributes) == {
        "correlation_id": "c-1",
        "user_id": "u-1",
        "attempt": 2,
        "task_type": "ai",
        "data": "{'a': 1}",
    }


def test_half_a_surrogate_pair_costs_nothing(pipelines: Any, otlp: OtlpReceiver) -> None:
    """Protobuf cannot write one: without a replacement the whole batch would be lost."""
    telemetry = pipelines({"TRACEBATON_VIEWER_URL": otlp.url})
    span = telemetry.tracer.start_span("read \ud800", attributes={"file": "a\udcff"})
    span.add_event("opened", {"file": "b\udcff"})
    span.set_status(StatusCode.ERROR, "no \udcff")
    span.end()
    telemetry.tracer.start_span("other").end()
    record = {"msg": "read \udcff", "levelno": 20, "fields": {"file": "c\udcff"}}
    telemetry.log_handler.handle(logging.makeLogRecord(record))
    telemetry.shutdown(5)
    first, second = otlp.spans()
    ((_, line),) = otlp.logs()

    assert (first.name, second.name, first.status.message) == ("read �", "other", "no �")
    assert attributes(first.attributes)["file"] == "a�"
    assert attributes(first.events[0].attributes) == {"file": "b�"}
    assert (line.body.string_value, attributes(line.attributes)) == ("read �", {"file": "c�"})


@pytest.mark.parametrize(
    ("level", "number"), [(5, 1), (10, 5), (20, 9), (30, 13), (40, 17), (50, 21), (99, 21)]
)
def test_severities_are_otlps(pipelines: Any, otlp: OtlpReceiver, level: int, number: int) -> None:
    """Levels of any library find a number."""
    telemetry = pipelines({"TRACEBATON_VIEWER_URL": otlp.url})
    telemetry.log_handler.handle(logging.makeLogRecord({"msg": "x", "levelno": level}))
    telemetry.shutdown(5)

    ((_, record),) = otlp.logs()

    assert record.severity_number == number


def test_a_record_that_cannot_be_sent_breaks_nothing(
    pipelines: Any, otlp: OtlpReceiver, capsys: pytest.CaptureFixture[str]
) -> None:
    """logging's own way: a note on stderr."""
    telemetry = pipelines({"TRACEBATON_VIEWER_URL": otlp.url})
    record = logging.makeLogRecord({"msg": "x", "levelno": 20, "created": "yesterday"})
    telemetry.log_handler.handle(record)

    assert "yesterday" in capsys.readouterr().err


def test_a_refusing_backend_is_a_line_an_interval_and_one_at_the_end(
    pipelines: Any, otlp: OtlpReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    """The SDK's own lines, one a batch, are kept out of the log, and nothing feeds on itself."""
    otlp.status = 400
    telemetry = pipelines(
        {"OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url, "TRACEBATON_VIEWER_URL": otlp.url}
    )
    root = logging.getLogger()
    root.addHandler(telemetry.log_handler)
    try:
        for _ in range(3):
            telemetry.tracer.start_span("x").end()
            telemetry.force_flush(5)
        report = telemetry.shutdown(5)
    finally:
        root.removeHandler(telemetry.log_handler)

    told = [vars(r)["fields"] for r in caplog.records if r.message == "telemetry.spans_lost"]

    counts = sorted((line["destination"], line["spans"], line["reason"]) for line in told)
    assert counts == [
        (sink, count, "HTTP 400 Bad Request") for sink in ("otlp", "viewer") for count in (1, 2)
    ]
    assert [r.name for r in caplog.records if r.name.startswith("opentelemetry")] == []
    assert otlp.logs() == []
    assert (report.spans_exported, report.spans_dropped, report.complete) == (0, 6, True)


class Gate(SpanExporter):
    """Takes batches when it is opened; fails if told to."""

    def __init__(self, *, fails: bool = False) -> None:
        self.open = threading.Event()
        self.begun = threading.Event()
        self.fails = fails
        self.names: list[str] = []

    def export(self, spans: Any) -> SpanExportResult:
        self.begun.set()
        self.open.wait(5)
        if self.fails:
            raise RuntimeError("a faulty exporter")
        self.names += [span.name for span in spans]
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self.open.set()


def ended(name: str) -> ReadableSpan:
    span = TracerProvider(shutdown_on_exit=False).get_tracer("x").start_span(name)
    span.end()
    return span  # type: ignore[return-value]


def test_a_full_queue_lets_go_of_the_oldest_and_counts_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Memory is bounded; one line says that it happened."""
    gate = Gate()
    export = SpanExport(gate, destination="slow", queue_size=4)
    for number in range(4):
        export.on_end(ended(f"first-{number}"))
    assert gate.begun.wait(5)
    for number in range(7):
        export.on_end(ended(f"s{number}"))
    gate.open.set()
    export.shutdown()

    assert gate.names == [f"first-{n}" for n in range(4)] + [f"s{n}" for n in range(3, 7)]
    assert (export.exported, export.lost, export.waiting, export.unsent) == (8, 3, 0, 3)
    told = [vars(r)["fields"] for r in caplog.records if r.message == "telemetry.spans_lost"]
    assert told == [{"destination": "slow", "spans": 1, "reason": "the queue is full"}]


def test_a_faulty_exporter_is_a_lost_batch(caplog: pytest.LogCaptureFixture) -> None:
    """Its thread lives on."""
    gate = Gate(fails=True)
    gate.open.set()
    export = SpanExport(gate, destination="faulty")
    export.on_end(ended("x"))

    assert export.force_flush()
    assert (export.exported, export.lost) == (0, 1)
    gate.fails = False
    export.on_end(ended("y"))
    export.shutdown()
    assert gate.names == ["y"]


def test_unsampled_spans_are_nobodys_loss() -> None:
    """A recording span without the sampled flag is not sent."""

    class RecordOnly(Sampler):
        def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
            return SamplingResult(Decision.RECORD_ONLY)

        def get_description(self) -> str:
            return "record only"

    export = SpanExport(Gate(), destination="x")
    provider = TracerProvider(sampler=RecordOnly(), shutdown_on_exit=False)
    provider.add_span_processor(export)
    provider.get_tracer("x").start_span("x").end()
    export.shutdown()

    assert export.unsent == 0


def test_a_signal_without_exporter_goes_to_no_endpoint(pipelines: Any, otlp: OtlpReceiver) -> None:
    """The endpoint is for all, and none wants it; the viewer has a setting of its own."""
    telemetry = pipelines(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url,
            "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": otlp.url + "/v1/logs",
            "TRACEBATON_VIEWER_URL": otlp.url + "/viewer",
            "OTEL_TRACES_EXPORTER": "none",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
        }
    )
    telemetry.tracer.start_span("x").end()
    telemetry.log_handler.handle(logging.makeLogRecord({"msg": "x", "levelno": 20}))
    telemetry.shutdown(5)

    assert {path for path, _, _ in otlp.requests} == {"/viewer/v1/traces", "/viewer/v1/logs"}

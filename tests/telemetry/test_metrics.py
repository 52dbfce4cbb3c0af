"""Metrics as an OTLP endpoint gets them: the queue's, the requests', and none of the probes'."""

import asyncio
import logging
import time
from typing import Any

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.metrics import NoOpMeterProvider, get_meter_provider
from otlp_receiver import OtlpReceiver
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tracebaton.errors import ConfigurationError
from tracebaton.http.middleware import instrument
from tracebaton.metrics import MessagingMetrics
from tracebaton.settings import Settings

pytestmark = pytest.mark.backends

JOBS = {"messaging.system": "aws_sqs", "messaging.destination.name": "jobs"}


def said(items: Any) -> dict[str, Any]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in items}


def of_the_queue(otlp: OtlpReceiver) -> dict[str, Any]:
    return {n: metric for n, metric in otlp.metrics().items() if n.startswith("messaging.")}


def counted(metric: Any) -> list[tuple[int, dict[str, Any]]]:
    return [(point.as_int, said(point.attributes)) for point in metric.sum.data_points]


def measured(metric: Any) -> list[tuple[int, float, dict[str, Any]]]:
    points = metric.histogram.data_points
    return [(point.count, round(point.sum, 6), said(point.attributes)) for point in points]


def test_the_queues_metrics_have_the_conventions_names(pipelines: Any, otlp: OtlpReceiver) -> None:
    """Names, units, attributes and the error type of each operation."""
    telemetry = pipelines({"OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url})
    metrics = MessagingMetrics(telemetry.meter_provider)
    metrics.sent("jobs", 0.5, messages=9)
    metrics.sent("jobs", None, error_type="ThrottlingException")
    metrics.received("jobs", 2.0, messages=3)
    metrics.received("jobs", 20.0, messages=0)
    metrics.settled("jobs", 0.25, operation="ack")
    metrics.settled("jobs", 0.25, operation="nack", error_type="QueueUnavailable")
    metrics.processed("jobs", 4000.0)
    metrics.processed("jobs", 1.0, error_type="ValueError")
    telemetry.shutdown(5)

    found = of_the_queue(otlp)
    calls = measured(found["messaging.client.operation.duration"])
    process = found["messaging.process.duration"]

    assert {name: metric.unit for name, metric in found.items()} == {
        "messaging.client.sent.messages": "{message}",
        "messaging.client.consumed.messages": "{message}",
        "messaging.client.operation.duration": "s",
        "messaging.process.duration": "s",
    }
    assert counted(found["messaging.client.sent.messages"]) == [
        (9, JOBS | {"messaging.operation.name": "send"}),
        (1, JOBS | {"messaging.operation.name": "send", "error.type": "ThrottlingException"}),
    ]
    assert counted(found["messaging.client.consumed.messages"]) == [
        (3, JOBS | {"messaging.operation.name": "receive"})
    ]
    assert [
        (count, total, it["messaging.operation.name"], it["messaging.operation.type"])
        for count, total, it in calls
    ] == [
        (1, 0.5, "send", "send"),
        (2, 22.0, "receive", "receive"),
        (1, 0.25, "ack", "settle"),
        (1, 0.25, "nack", "settle"),
    ]
    assert measured(process) == [
        (1, 4000.0, JOBS | {"messaging.operation.name": "process"}),
        (1, 1.0, JOBS | {"messaging.operation.name": "process", "error.type": "ValueError"}),
    ]
    assert list(process.histogram.data_points[0].explicit_bounds)[-2:] == [3600, 10_800]


def test_a_block_is_measured_with_its_failure(pipelines: Any, otlp: OtlpReceiver) -> None:
    """
    One that was settled inside is named by whoever did it, one that escapes by its class; one that
    is cancelled has not failed.
    """
    telemetry = pipelines({"OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url})
    metrics = MessagingMetrics(telemetry.meter_provider)
    with metrics.processing("jobs"):
        pass
    with metrics.processing("jobs") as measurement:
        measurement.error_type = "Reject"
    with pytest.raises(asyncio.CancelledError), metrics.processing("jobs"):
        raise asyncio.CancelledError
    with pytest.raises(LookupError), metrics.processing("jobs"):
        raise LookupError
    telemetry.shutdown(5)

    points = otlp.metrics()["messaging.process.duration"].histogram.data_points
    found = [(said(point.attributes).get("error.type"), point.count) for point in points]

    assert found == [(None, 2), ("Reject", 1), ("LookupError", 1)]
    assert all(0 <= point.sum < 5 for point in points)


@pytest.mark.parametrize("is_current", [True, False])
def test_a_measurement_names_the_trace_it_was_made_in(
    pipelines: Any, otlp: OtlpReceiver, *, is_current: bool
) -> None:
    """The exemplar of a sampled span leads from the graph to the trace."""
    telemetry = pipelines({"OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url})
    metrics = MessagingMetrics(telemetry.meter_provider)
    span = telemetry.tracer.start_span("process jobs")
    if is_current:
        with trace.use_span(span):
            metrics.processed("jobs", 1.0)
    else:
        metrics.processed("jobs", 1.0, context=trace.set_span_in_context(span))
    telemetry.shutdown(5)

    (point,) = otlp.metrics()["messaging.process.duration"].histogram.data_points
    (exemplar,) = point.exemplars

    assert exemplar.trace_id.hex() == f"{span.get_span_context().trace_id:032x}"


async def test_requests_are_measured_and_probes_are_not(pipelines: Any, otlp: OtlpReceiver) -> None:
    """By route template; QUIET_PATHS leave nothing, and a length that is wrong stays out."""
    telemetry = pipelines({"OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url})

    async def answer(request: Request) -> Response:
        return Response("ok")

    async def fail(request: Request) -> Response:
        raise ValueError

    app = instrument(
        Starlette(
            routes=[
                Route("/items/{id}", answer),
                Route("/broken", fail),
                Route("/livez", answer),
                Route("/metrics", answer),
            ]
        ),
        tracer_provider=telemetry.tracer_provider,
        meter_provider=telemetry.meter_provider,
    )
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        for path in ("/items/1", "/items/2", "/broken", "/livez", "/metrics", "/readyz"):
            await client.get(path)
    telemetry.shutdown(5)

    found = otlp.metrics()
    points = found["http.server.request.duration"].histogram.data_points
    rows = {
        (
            said(point.attributes)["http.route"],
            said(point.attributes)["http.response.status_code"],
        ): point.count
        for point in points
    }

    assert rows == {("/items/{id}", 200): 2, ("/broken", 500): 1}
    assert all(point.exemplars for point in points)
    assert "http.server.response.body.size" not in found


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_METRICS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "{}"},
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "{}"},
        {"TRACEBATON_VIEWER_URL": "{}"},
        {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "{}", "OTEL_SDK_DISABLED": "true"},
    ],
)
def test_nothing_is_sent_where_nobody_asked_for_metrics(
    pipelines: Any, otlp: OtlpReceiver, variables: dict[str, str]
) -> None:
    """No reader, no thread, no request; somebody else's global provider is left alone."""
    telemetry = pipelines({name: value.format(otlp.url) for name, value in variables.items()})
    MessagingMetrics(telemetry.meter_provider).sent("jobs", 0.1)
    telemetry.shutdown(5)

    assert otlp.metrics() == {}
    assert telemetry.meter_provider is get_meter_provider() or isinstance(
        telemetry.meter_provider, NoOpMeterProvider
    )


def test_the_metrics_endpoint_is_taken_as_it_stands(pipelines: Any, otlp: OtlpReceiver) -> None:
    """It is enough by itself."""
    telemetry = pipelines({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": otlp.url + "/my/v1/metrics"})
    MessagingMetrics(telemetry.meter_provider).sent("jobs", 0.1)

    assert telemetry.force_flush(5)
    assert [path for path, _, _ in otlp.requests] == ["/my/v1/metrics"]


def test_metrics_leave_by_themselves(
    pipelines: Any, otlp: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once an interval, which is the specification's variable."""
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "50")
    telemetry = pipelines({"OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url})
    MessagingMetrics(telemetry.meter_provider).sent("jobs", 0.1)

    otlp.wait_for(lambda receiver: "messaging.client.sent.messages" in receiver.metrics())


def test_an_endpoint_that_knows_no_metrics_is_said_once(
    pipelines: Any, otlp: OtlpReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    """Jaeger answers 404: one line with the count, none of the SDK's."""
    otlp.status = 404
    telemetry = pipelines({"OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url})
    MessagingMetrics(telemetry.meter_provider).sent("jobs", 0.1)
    with caplog.at_level(logging.WARNING):
        telemetry.force_flush(5)
        telemetry.shutdown(5)

    (line,) = caplog.records
    fields = vars(line)["fields"]

    assert (line.getMessage(), fields["destination"]) == ("telemetry.metrics_lost", "otlp")
    assert fields["metrics"] == 4  # two of the queue, two about the spans themselves
    assert "404" in fields["reason"]


def test_a_stop_does_not_wait_for_an_endpoint_that_hangs(
    pipelines: Any, otlp: OtlpReceiver
) -> None:
    """The SDK alone takes half a minute."""
    otlp.hangs = True
    telemetry = pipelines({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": otlp.url})
    MessagingMetrics(telemetry.meter_provider).sent("jobs", 0.1)
    started = time.monotonic()
    report = telemetry.shutdown(0.3)

    assert time.monotonic() - started < 5
    assert not report.complete


def test_an_unknown_exporter_stops_the_start() -> None:
    """Better than a service that is silently not measured."""
    for value in ("statsd", "otlp,console", "none,otlp"):
        with pytest.raises(ConfigurationError, match=r"^OTEL_METRICS_EXPORTER: takes otlp, prom"):
            Settings.load({"OTEL_METRICS_EXPORTER": value})


def test_what_became_of_the_spans_is_measured(pipelines: Any, otlp: OtlpReceiver) -> None:
    """By destination, with the drops as a count of their own."""
    telemetry = pipelines({"OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url})
    telemetry.tracer.start_span("arrives").end()
    telemetry.force_flush(5)
    otlp.status = 400
    telemetry.tracer.start_span("is refused").end()
    telemetry.force_flush(5)
    otlp.status = 200
    telemetry.shutdown(5)

    assert counted(otlp.metrics()["otel.sdk.exporter.span.exported"]) == [
        (1, {"otel.component.name": "otlp"}),
        (1, {"otel.component.name": "otlp", "error.type": "lost"}),
    ]

"""A failure in a trace that the head did not keep, with TRACEBATON_KEEP_ERRORS and without it."""

from collections.abc import Mapping
from typing import Any

import pytest
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from otlp_receiver import OtlpReceiver
from sentry_receiver import SentryReceiver

from tracebaton.context import RequestStore, entered
from tracebaton.problems import outcome_of, record
from tracebaton.telemetry.pipeline import Telemetry
from tracebaton.telemetry.units import UNIT_SPANS

pytestmark = pytest.mark.backends

NEVER = {"OTEL_TRACES_SAMPLER": "always_off"}
KEEP = {"TRACEBATON_KEEP_ERRORS": "1"}
ROUTE = {"http.request.method": "GET", "http.route": "/x"}


def serve(
    telemetry: Telemetry, *, fails: bool, headers: Mapping[str, str] | None = None
) -> tuple[Span, dict[str, str]]:
    """Serve one request with an inner span; return its span and what a message would carry."""
    context = telemetry.propagator.extract(dict(headers or {}))
    with (
        telemetry.reporter.isolated(),
        entered(RequestStore(), context),
        telemetry.tracer.start_as_current_span(
            "GET /x", kind=SpanKind.SERVER, attributes=ROUTE
        ) as server,
    ):
        with telemetry.tracer.start_as_current_span("inner"):
            carrier = telemetry.propagator.inject_message()
        if fails:
            exc = ValueError("boom")
            record(exc, outcome_of(exc))
            telemetry.reporter.report(exc, outcome_of(exc), mechanism="asgi", tags={})
    return server, carrier


def names(receiver: OtlpReceiver) -> list[str]:
    return [span.name for span in receiver.spans()]


def test_what_fails_is_exported_and_what_does_not_is_not(
    pipelines: Any, otlp: OtlpReceiver
) -> None:
    """The whole unit arrives with its ids and its error, and is counted."""
    telemetry = pipelines(NEVER | KEEP | {"OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url})
    serve(telemetry, fails=False)
    server, _ = serve(telemetry, fails=True)
    report = telemetry.shutdown(5)

    inner, root = otlp.spans()
    attributes = {item.key: item.value.string_value for item in root.attributes}

    assert [inner.name, root.name] == ["inner", "GET /x"]
    assert inner.parent_span_id == root.span_id
    assert root.trace_id.hex() == f"{server.get_span_context().trace_id:032x}"
    assert (attributes["error.type"], root.events[0].name) == ("ValueError", "exception")
    assert (report.spans_exported, report.spans_dropped, report.complete) == (2, 0, True)


def test_without_the_setting_nothing_of_it_is_recorded(pipelines: Any, otlp: OtlpReceiver) -> None:
    """The default costs what it did before."""
    telemetry = pipelines(NEVER | {"OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url})
    server, _ = serve(telemetry, fails=True)
    telemetry.shutdown(5)

    assert not server.is_recording()
    assert otlp.spans() == []


@pytest.mark.parametrize("keep", [KEEP, {}])
def test_the_flag_on_the_wire_stays_the_heads(
    pipelines: Any, otlp: OtlpReceiver, keep: dict[str, str]
) -> None:
    """The worker gets 0, and makes its own failure, not its success, a partial trace."""
    telemetry = pipelines(NEVER | keep | {"OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url})
    _, carrier = serve(telemetry, fails=False)
    found = telemetry.propagator.extract_message(carrier)
    for failed in (False, True):
        with telemetry.tracer.start_as_current_span(f"process {failed}", found.context) as span:
            if failed:
                span.set_status(Status(StatusCode.ERROR))
    telemetry.shutdown(5)

    assert not found.parent.trace_flags.sampled
    assert carrier["traceparent"][-2:] in {"00", "02"}
    assert names(otlp) == (["process True"] if keep else [])


def test_a_kept_trace_is_exported_once(pipelines: Any, otlp: OtlpReceiver) -> None:
    """The setting adds nothing to what is sampled."""
    telemetry = pipelines(KEEP | {"OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url})
    serve(telemetry, fails=True)
    serve(telemetry, fails=False)
    telemetry.shutdown(5)

    assert names(otlp) == ["inner", "GET /x", "inner", "GET /x"]


def test_a_poll_is_not_a_failure_of_anybodys(pipelines: Any, otlp: OtlpReceiver) -> None:
    """Receive spans of no request stay sampled out, so that an outage does not flood."""
    telemetry = pipelines(KEEP | {"OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url})
    poll = telemetry.tracer.start_span(
        "receive jobs", attributes={"messaging.operation.type": "receive"}
    )
    poll.set_status(Status(StatusCode.ERROR))
    poll.end()
    telemetry.shutdown(5)

    assert otlp.spans() == []


def test_what_ends_after_a_failed_root_belongs_to_it(pipelines: Any, otlp: OtlpReceiver) -> None:
    """A background span is kept with the request that failed, and alone where only it failed."""
    telemetry = pipelines(NEVER | KEEP | {"OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url})
    for root_fails, late_fails in ((True, False), (False, True), (False, False)):
        with telemetry.tracer.start_as_current_span("root") as root:
            late = telemetry.tracer.start_span(f"late {late_fails}")
            if root_fails:
                root.set_status(Status(StatusCode.ERROR))
        if late_fails:
            late.set_status(Status(StatusCode.ERROR))
        late.end()
    telemetry.shutdown(5)

    assert names(otlp) == ["root", "late False", "late True"]


def test_an_endless_unit_is_bounded(pipelines: Any, otlp: OtlpReceiver) -> None:
    """The last spans before the failure are the ones that tell."""
    telemetry = pipelines(NEVER | KEEP | {"OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url})
    with telemetry.tracer.start_as_current_span("root") as root:
        for number in range(UNIT_SPANS + 5):
            telemetry.tracer.start_span(str(number)).end()
        root.set_status(Status(StatusCode.ERROR))
    telemetry.shutdown(5)

    assert names(otlp) == [*(str(number) for number in range(5, UNIT_SPANS + 5)), "root"]


def test_sentry_gets_the_failed_request_as_a_transaction(
    pipelines: Any, sentry: SentryReceiver
) -> None:
    """Event and transaction are of one trace; the sampling context says that it was not kept."""
    telemetry = pipelines(
        KEEP | {"SENTRY_DSN": sentry.dsn, "SENTRY_TRACES_SAMPLE_RATE": "0"},
    )
    serve(telemetry, fails=False)
    server, _ = serve(telemetry, fails=True)
    telemetry.shutdown(5)

    (event,) = sentry.events()
    (transaction,) = sentry.transactions()
    trace = transaction["contexts"]["trace"]

    assert transaction["transaction"] == "GET /x"
    assert [span["description"] for span in transaction["spans"]] == ["inner"]
    assert trace["status"] == "internal_error"
    assert trace["trace_id"] == f"{server.get_span_context().trace_id:032x}"
    assert event["contexts"]["trace"]["trace_id"] == trace["trace_id"]
    assert event["contexts"]["trace"]["span_id"] == trace["span_id"]
    assert {header["sampled"] for header in sentry.trace_headers().values()} == {"false"}


def test_without_the_setting_sentry_gets_the_event_alone(
    pipelines: Any, sentry: SentryReceiver
) -> None:
    """The event names the trace either way."""
    telemetry = pipelines({"SENTRY_DSN": sentry.dsn, "SENTRY_TRACES_SAMPLE_RATE": "0"})
    server, _ = serve(telemetry, fails=True)
    telemetry.shutdown(5)

    (event,) = sentry.events()

    assert sentry.transactions() == []
    assert event["contexts"]["trace"]["trace_id"] == (f"{server.get_span_context().trace_id:032x}")


def test_sentrys_otlp_endpoint_gets_it_too(pipelines: Any, sentry: SentryReceiver) -> None:
    """Mode otlp goes the way of every other backend."""
    telemetry = pipelines(
        KEEP
        | {
            "SENTRY_DSN": sentry.dsn,
            "SENTRY_TRACES_SAMPLE_RATE": "0",
            "TRACEBATON_SENTRY_MODE": "otlp",
        }
    )
    serve(telemetry, fails=False)
    serve(telemetry, fails=True)
    telemetry.shutdown(5)

    found = [
        span.name
        for resource in sentry.resource_spans()
        for scope in resource.scope_spans
        for span in scope.spans
    ]

    assert found == ["inner", "GET /x"]
    assert sentry.transactions() == []

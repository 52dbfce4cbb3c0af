"""A real Jaeger shows API and worker as one trace."""

import pytest
from jaeger import Jaeger
from opentelemetry.trace import SpanKind

from tracebaton.context import RequestStore, current, entered
from tracebaton.settings import Settings
from tracebaton.telemetry import build

pytestmark = pytest.mark.backends


def test_api_and_worker_are_one_trace_in_jaeger(jaeger: Jaeger) -> None:
    """The process span of the worker's own pipeline hangs under the API's send span."""
    settings = Settings.load({"OTEL_EXPORTER_OTLP_ENDPOINT": jaeger.otlp})
    api = build(settings, role="api", install=False)
    worker = build(settings, role="worker", install=False)

    with entered(RequestStore(user_id="u-1"), api.propagator.extract({})):
        with (
            api.tracer.start_as_current_span("POST /v1/jobs", kind=SpanKind.SERVER) as server,
            api.tracer.start_as_current_span("send jobs", kind=SpanKind.PRODUCER),
        ):
            carrier = api.propagator.inject_message()
        correlation_id = current().correlation_id
    message = worker.propagator.extract_message(carrier)
    with (
        entered(RequestStore(**message.fields), message.context),
        worker.tracer.start_as_current_span("process jobs", kind=SpanKind.CONSUMER),
    ):
        pass
    reports = [api.shutdown(10), worker.shutdown(10)]
    trace_id = f"{server.get_span_context().trace_id:032x}"
    spans = jaeger.trace(trace_id, until=lambda found: len(found) == 3)

    by_id = {span["spanId"]: span["name"] for span in spans}
    assert [(s["service"], s["name"], by_id.get(s.get("parentSpanId", ""))) for s in spans] == [
        ("tracebaton-api", "POST /v1/jobs", None),
        ("tracebaton-api", "send jobs", "POST /v1/jobs"),
        ("tracebaton-worker", "process jobs", "send jobs"),
    ]
    assert correlation_id == trace_id
    assert {s["attributes"]["tracebaton.correlation_id"] for s in spans} == {trace_id}
    assert [(r.spans_exported, r.spans_dropped, r.complete) for r in reports] == [
        (2, 0, True),
        (1, 0, True),
    ]

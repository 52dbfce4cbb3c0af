"""What every span carries."""

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from tracebaton.context import RequestStore, current, entered
from tracebaton.telemetry.enrichment import SpanPipeline, sentry_op


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: InMemorySpanExporter) -> Iterator[TracerProvider]:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SpanPipeline([SimpleSpanProcessor(exporter)]))
    yield provider
    provider.shutdown()


def test_every_span_has_the_stores_ids(
    provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    """The SERVER span included, whose trace id becomes the correlation id."""
    tracer = provider.get_tracer("test")
    with (
        entered(RequestStore(user_id="u-1", task_id="t-1", attempt=2)),
        tracer.start_as_current_span("GET", kind=SpanKind.SERVER) as server,
        tracer.start_as_current_span("inner"),
    ):
        store = current()

    trace_id = f"{server.get_span_context().trace_id:032x}"
    ids = {
        "tracebaton.correlation_id": trace_id,
        "tracebaton.user_id": "u-1",
        "tracebaton.task.id": "t-1",
        "tracebaton.task.attempt": 2,
    }

    assert store.correlation_id == trace_id
    assert [dict(span.attributes or {}) for span in exporter.get_finished_spans()] == [
        ids | {"sentry.op": "function"},
        ids | {"sentry.op": "function"},
    ]


def test_outside_a_request_a_span_has_no_ids(
    provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    """There is nobody to name."""
    provider.get_tracer("test").start_span("alone").end()

    (span,) = exporter.get_finished_spans()

    assert span.attributes == {"sentry.op": "function"}


@pytest.mark.parametrize(
    ("kind", "attributes", "op"),
    [
        (SpanKind.SERVER, {"http.request.method": "GET"}, "http.server"),
        (SpanKind.SERVER, {"http.method": "GET"}, "http.server"),
        (SpanKind.CLIENT, {"http.request.method": "GET"}, "http.client"),
        (SpanKind.INTERNAL, {"http.method": "GET"}, "http"),
        (SpanKind.CLIENT, {"db.system.name": "sqlite"}, "db"),
        (SpanKind.CLIENT, {"db.system": "sqlite"}, "db"),
        (SpanKind.CLIENT, {"rpc.system": "aws-api"}, "rpc"),
        (
            SpanKind.CLIENT,
            {"gen_ai.operation.name": "chat", "http.request.method": "POST"},
            "gen_ai.chat",
        ),
        (SpanKind.INTERNAL, {}, "function"),
        (
            SpanKind.PRODUCER,
            {
                "messaging.system": "aws_sqs",
                "messaging.operation.type": "send",
                "http.request.method": "POST",
            },
            "queue.publish",
        ),
        (
            SpanKind.CONSUMER,
            {"messaging.system": "aws_sqs", "messaging.operation.type": "process"},
            "queue.process",
        ),
        (
            SpanKind.CLIENT,
            {"messaging.system": "aws_sqs", "messaging.operation.type": "receive"},
            "queue.receive",
        ),
        (
            SpanKind.CLIENT,
            {"messaging.system": "aws_sqs", "messaging.operation.type": "settle"},
            "queue.settle",
        ),
        (SpanKind.CLIENT, {"messaging.system": "aws_sqs"}, "queue"),
    ],
)
def test_the_op_follows_kind_and_conventions(
    kind: SpanKind, attributes: dict[str, Any], op: str
) -> None:
    """Old and new names; messaging before HTTP, AWS SDK spans carry both."""
    assert sentry_op(kind, attributes) == op


def test_an_op_of_the_application_stays(
    provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    """Whoever names it knows better."""
    provider.get_tracer("test").start_span("x", attributes={"sentry.op": "ai.chat"}).end()

    (span,) = exporter.get_finished_spans()

    assert span.attributes == {"sentry.op": "ai.chat"}


def test_no_query_leaves_the_house(
    provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    """It may hold a token, under any name, in either generation of conventions."""
    urls = {
        "url.query": "token=s3cr3t",
        "url.full": "https://h.example/p?token=s3cr3t#s3cr3t",
        "http.url": "https://h.example/p?token=s3cr3t",
        "http.target": "/p?token=s3cr3t",
        "url.path": "/p",
    }
    span = provider.get_tracer("test").start_span("GET", attributes={"url.query": "token=s3cr3t"})
    span.add_event("kept")
    span.set_attributes(urls)  # as contrib's middleware does, after the start
    span.end()
    provider.get_tracer("test").start_span("GET", attributes={"url.full": "https://h/p"}).end()

    first, second = exporter.get_finished_spans()

    assert first.attributes == {
        "url.query": "[redacted]",
        "url.full": "https://h.example/p",
        "http.url": "https://h.example/p",
        "http.target": "/p",
        "url.path": "/p",
        "sentry.op": "function",
    }
    assert (second.attributes or {})["url.full"] == "https://h/p"
    assert [event.name for event in first.events] == ["kept"]
    assert (first.start_time, first.end_time) == (span.start_time, span.end_time)

"""No span and no Sentry event carries a secret out of the process."""

from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Status, StatusCode
from otlp_receiver import OtlpReceiver
from sentry_receiver import SentryReceiver

from tracebaton.context import RequestStore, entered
from tracebaton.problems import outcome_of
from tracebaton.settings import Settings
from tracebaton.telemetry import build
from tracebaton.telemetry.enrichment import SpanPipeline

CANARY = "c4n4ry-7f3a9b"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    """Where the spans arrive."""
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: InMemorySpanExporter) -> TracerProvider:
    """A provider with the pipeline of the product."""
    provider = TracerProvider()
    provider.add_span_processor(SpanPipeline([SimpleSpanProcessor(exporter)]))
    return provider


def test_a_span_loses_its_secrets_when_it_ends(
    provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    """Attributes, events, the exception's text and stack, the status and the name."""
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span(f"GET /x?token={CANARY}") as span:
        span.set_attribute("user.password", CANARY)
        span.set_attribute("http.request.header.authorization", [f"Bearer {CANARY}"])
        span.set_attribute("note", f"password={CANARY} and more")
        span.set_attribute("url.query", f"any={CANARY}")
        span.set_attribute("url.full", f"http://h/p?any={CANARY}")
        span.add_event("said", {"api_key": CANARY})
        span.record_exception(ValueError(f"secret: {CANARY}"))
        span.set_status(Status(StatusCode.ERROR, f"token={CANARY}"))

    [ended] = exporter.get_finished_spans()
    assert CANARY not in ended.to_json()


def test_every_sink_of_the_product_gets_spans_without_secrets(
    sentry: SentryReceiver, otlp: OtlpReceiver
) -> None:
    """Masking is done where they are sent: OTLP, the viewer, Sentry, and kept errors too."""
    telemetry = build(
        Settings.load(
            {
                "SENTRY_DSN": sentry.dsn,
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{otlp.url}/v1/traces",
                "SENTRY_TRACES_SAMPLE_RATE": "0",
                "TRACEBATON_KEEP_ERRORS": "1",
                "TRACEBATON_VIEWER_URL": otlp.url,
            }
        ),
        role="api",
        install=False,
    )
    with (
        telemetry.tracer.start_as_current_span("outer") as span,
        telemetry.tracer.start_as_current_span("inner", attributes={"password": CANARY}),
    ):
        span.set_attribute("note", f"token={CANARY}")
        span.add_event("said", {"api_key": CANARY})
        span.set_status(Status(StatusCode.ERROR, f"secret={CANARY}"))
    telemetry.shutdown(5)
    sent = b"".join(body for _, _, body in otlp.requests)

    assert len(otlp.spans()) == 4
    assert len(sentry.transactions()) == 1
    assert sent.count(b"[redacted]") == 8
    assert CANARY.encode() not in sent
    assert CANARY not in str(sentry.transactions())


def test_what_is_no_secret_stays(provider: TracerProvider, exporter: InMemorySpanExporter) -> None:
    """Counts of tokens, ids, numbers and plain text are what traces are for."""
    attributes: dict[str, Any] = {
        "gen_ai.usage.input_tokens": 12,
        "messaging.message.id": "8afc0558-5db0-4d3a-9b1e-1f2a3b4c5d6e",
        "tracebaton.correlation_id": "order-42",
        "http.route": "/v1/tasks/{id}",
        "names": ("a", "b"),
    }
    with provider.get_tracer("test").start_as_current_span("plain", attributes=attributes):
        pass

    [ended] = exporter.get_finished_spans()
    kept = ended.attributes or {}
    assert {name: kept[name] for name in attributes} == attributes


def test_an_event_loses_its_secrets(sentry: SentryReceiver) -> None:
    """Message, source line, breadcrumbs and tags of an error; the data of a transaction."""
    import logging

    settings = Settings.load({"SENTRY_DSN": sentry.dsn})
    telemetry = build(settings, role="api", install=False)
    log = logging.getLogger("test.masking")
    log.setLevel(logging.INFO)
    with (
        telemetry.reporter.isolated(),
        entered(RequestStore(correlation_id="c-1")),
        telemetry.tracer.start_as_current_span("work") as span,
    ):
        span.set_attribute("db.password", CANARY)
        log.info("login with password=%s", CANARY, extra={"api_key": CANARY})
        try:
            raise RuntimeError("cannot log in, password=c4n4ry-7f3a9b, sorry")
        except RuntimeError as exc:
            telemetry.reporter.report(exc, outcome_of(exc), mechanism="asgi", tags={})
    telemetry.shutdown(5)

    [event] = sentry.events()
    [transaction] = sentry.transactions()
    assert CANARY not in str(event)
    assert CANARY not in str(transaction)
    assert event["exception"]["values"][0]["value"] == "cannot log in, password=[redacted], sorry"
    assert event["tags"]["correlation_id"] == "c-1"
    assert event["breadcrumbs"]["values"][-1]["message"].startswith("login with password=")

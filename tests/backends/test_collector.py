"""A real Collector with the configuration that is shipped: Jaeger and Sentry behind it."""

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from collector import (
    BASE,
    SENTRY,
    TAIL,
    Collector,
    collector_binary,
    running_collector,
    settings_environment,
    validate,
)
from jaeger import Jaeger
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import (
    Span,
    SpanKind,
    StatusCode,
    Tracer,
    format_trace_id,
    set_span_in_context,
)
from opentelemetry.util.types import AttributeValue
from sentry_receiver import SentryReceiver

from backends import missing
from tracebaton import semconv
from tracebaton.context import RequestStore, entered
from tracebaton.settings import Settings
from tracebaton.telemetry import build

pytestmark = pytest.mark.backends

#: A token of the shape every JWT has; its claims are {"sub": "canary"}.
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJjYW5hcnkifQ.c2lnbmF0dXJlLWNhbmFyeQ"

Start = Callable[..., AbstractContextManager[Collector]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Run the Collector with the base configuration, overlays on top, and variables."""
    if collector_binary() is None:
        missing("no Collector: run scripts/collector (needs Go 1.25)")
    return lambda *overlays, **env: running_collector(
        tmp_path, [BASE, *overlays], settings_environment(**env)
    )


@pytest.mark.parametrize(
    "overlays",
    [[], [BASE], [SENTRY], [TAIL], [SENTRY, TAIL]],
    ids=["base", "base twice", "sentry", "tail", "sentry+tail"],
)
def test_the_collector_takes_its_configuration(overlays: Sequence[Path], start: Start) -> None:
    """Each documented combination is valid, with the variables the Sentry overlay asks for."""
    env = settings_environment(
        SENTRY_OTLP_TRACES_URL="http://127.0.0.1:1/v1/traces/", SENTRY_PUBLIC_KEY="public"
    )

    assert validate([BASE, *overlays], env) == ""


def test_the_sentry_overlay_does_not_start_without_its_variables(start: Start) -> None:
    """Spans that would go nowhere are an error of the start, not a line in a log."""
    assert "endpoint" in validate([BASE, SENTRY], settings_environment())


def test_one_trace_in_jaeger_and_in_sentry(
    start: Start, jaeger: Jaeger, sentry: SentryReceiver
) -> None:
    """API and worker send to the Collector, which hands the same spans to both."""
    url = f"http://127.0.0.1:{sentry.port}/api/1/integration/otlp/v1/traces/"
    env = {"SENTRY_OTLP_TRACES_URL": url, "SENTRY_PUBLIC_KEY": "public"}

    with start(SENTRY, JAEGER_OTLP=jaeger.otlp, **env) as collector:
        trace_id = request_and_task(collector)
        in_jaeger = jaeger.trace(trace_id, until=lambda found: len(found) == 3)
        sentry.wait_for(lambda sink: len(spans_in(sink)) == 3)

    ids = {span["spanId"]: span["name"] for span in in_jaeger}
    assert [(s["service"], s["name"], ids.get(s.get("parentSpanId", ""))) for s in in_jaeger] == [
        ("tracebaton-api", "POST /v1/jobs", None),
        ("tracebaton-api", "send jobs", "POST /v1/jobs"),
        ("tracebaton-worker", "process jobs", "send jobs"),
    ]
    assert spans_in(sentry) == {(trace_id, span["spanId"], span["name"]) for span in in_jaeger}
    assert {headers["X-Sentry-Auth"] for headers in sentry.otlp_headers} == {
        "sentry sentry_key=public"
    }


def test_the_collector_masks_what_a_process_let_through(start: Start, jaeger: Jaeger) -> None:
    """Secrets of a process without redaction arrive as ****, counts and ids as they are."""
    masked: dict[str, AttributeValue] = {
        "user.password": "hunter2",
        "http.request.header.authorization": ["Basic YWxpY2U6aHVudGVyMg=="],
        "session_token": "canary",
        "accessToken": "canary",
        "app.api_key": "canary",
    }
    shaped: dict[str, AttributeValue] = {
        "note": f"got {JWT} from alice",
        "notes": ["plain", JWT],
        "database": "postgres://app:hunter2@db/app",
        "url.query": "page=2&access_token=abc123&sort=up",
    }
    kept: dict[str, AttributeValue] = {
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.request.max_tokens": 4096,
        semconv.CORRELATION_ID: "order-42",
        semconv.TASK_ID: "0199a7f0-aaaa-7bbb-8ccc-0123456789ab",
        "url.full": "https://example.com/a?b=c",
        "done": "https://u:[redacted]@example.com/?token=[redacted] Bearer [redacted]",
        "idempotency.key": "k-1",
        "words": ["plain", "words"],
    }

    with start(JAEGER_OTLP=jaeger.otlp) as collector:
        tracer = foreign_tracer(collector, {"db.password": "hunter2"})
        with tracer.start_as_current_span("GET", attributes={**masked, **shaped, **kept}) as span:
            span.add_event("exception", {"exception.message": f"refused {JWT}"})
        [found] = jaeger.trace(trace_id_of(span))

    attributes = found["attributes"]
    assert {name: attributes[name] for name in masked} == dict.fromkeys(masked, "****")
    assert {name: attributes[name] for name in shaped} == {
        "note": "got **** from alice",
        "notes": '["plain","****"]',
        "database": "postgres****db/app",
        "url.query": "page=2&****&sort=up",
    }
    assert {name: attributes[name] for name in kept} == kept
    assert JWT not in str(found)
    [event] = found["events"]
    assert event["attributes"] == [
        {"key": "exception.message", "value": {"stringValue": "refused ****"}}
    ]


def test_the_collector_masks_log_lines_and_metrics_too(start: Start) -> None:
    """Attributes by name, bodies by shape; what it holds leaves when it is stopped."""
    attributes = [
        {"key": "cookie", "value": {"stringValue": "session=canary"}},
        {"key": "messaging.destination.name", "value": {"stringValue": "tasks"}},
    ]
    line = {
        "body": {"stringValue": f"refused {JWT} and password=hunter2"},
        "attributes": attributes,
    }
    point = {"asInt": "3", "attributes": attributes}
    metric = {"name": "messaging.client.sent.messages", "gauge": {"dataPoints": [point]}}
    sent = {
        "logs": {"resourceLogs": [{"scopeLogs": [{"logRecords": [line]}]}]},
        "metrics": {"resourceMetrics": [{"scopeMetrics": [{"metrics": [metric]}]}]},
    }

    with start(JAEGER_OTLP="http://127.0.0.1:1", OTELCOL_DEBUG="detailed") as collector:
        for signal, batch in sent.items():
            httpx.post(f"{collector.otlp}/v1/{signal}", json=batch).raise_for_status()
    shown = collector.log.read_text()

    assert "Body: Str(refused **** and ****)" in shown
    assert "Name: messaging.client.sent.messages" in shown
    assert shown.count("cookie: Str(****)") == 2
    assert shown.count("messaging.destination.name: Str(tasks)") == 2
    assert [secret for secret in (JWT, "hunter2", "canary") if secret in shown] == []


def test_no_name_of_ours_is_taken_for_a_secret() -> None:
    """The patterns leave every name of ours alone but the header that carries a key."""
    redaction = yaml.safe_load(BASE.read_text())["processors"]["redaction"]
    patterns = [pattern.removeprefix("(?i)") for pattern in redaction["blocked_key_patterns"]]
    blocked = re.compile("|".join(patterns))
    ours = {
        value
        for name, value in vars(semconv).items()
        if isinstance(value, str) and not name.startswith(("_", "EVENT_"))
    }

    assert {semconv.CORRELATION_ID, semconv.TASK_ID, semconv.GEN_AI_INPUT_TOKENS} < ours
    assert {name for name in ours if blocked.search(name.lower())} == {semconv.X_API_KEY}


def test_tail_sampling_keeps_errors_whole_and_loses_a_late_one(
    start: Start, jaeger: Jaeger
) -> None:
    """
    An error in time keeps all spans of its trace; one after the decision cannot change it.

    The limit that the overlay's header tells of. A trace with an error that was sent later and has
    arrived shows that the decisions before it are made: nothing waits for a time.
    """
    env = {"OTELCOL_DECISION_WAIT": "1s", "OTELCOL_KEEP_PERCENT": "0"}

    with start(TAIL, JAEGER_OTLP=jaeger.otlp, **env) as collector:
        api, worker = foreign_tracer(collector), foreign_tracer(collector)
        failed = ended(api, "POST")
        ended(worker, "process", parent=failed, failed=True)
        late, clean = ended(api, "POST"), ended(api, "POST")
        ended(worker, "process", parent=clean)
        decided = ended(api, "POST", failed=True)
        jaeger.trace(trace_id_of(decided))

        ended(worker, "process", parent=late, failed=True)
        ended(worker, "process", parent=decided)
        last = ended(api, "POST", failed=True)
        jaeger.trace(trace_id_of(last))
        jaeger.trace(trace_id_of(decided), until=lambda found: len(found) == 2)
        kept = {
            case: [found["name"] for found in by_start(jaeger.spans(trace_id_of(span)))]
            for case, span in {"failed": failed, "clean": clean, "late": late}.items()
        }

    assert kept == {"failed": ["POST", "process"], "clean": [], "late": []}


def request_and_task(collector: Collector) -> str:
    """Make the spans of a request and of its task by two pipelines and return the trace id."""
    settings = Settings.load({"OTEL_EXPORTER_OTLP_ENDPOINT": collector.otlp})
    api = build(settings, role="api", install=False)
    worker = build(settings, role="worker", install=False)
    with (
        entered(RequestStore(user_id="u-1"), api.propagator.extract({})),
        api.tracer.start_as_current_span("POST /v1/jobs", kind=SpanKind.SERVER) as server,
        api.tracer.start_as_current_span("send jobs", kind=SpanKind.PRODUCER),
    ):
        carrier = api.propagator.inject_message()
    message = worker.propagator.extract_message(carrier)
    store = RequestStore(correlation_id=message.fields["correlation_id"])
    with (
        entered(store, message.context),
        worker.tracer.start_as_current_span("process jobs", kind=SpanKind.CONSUMER),
    ):
        pass
    assert [api.shutdown(10).complete, worker.shutdown(10).complete] == [True, True]
    return trace_id_of(server)


def spans_in(sentry: SentryReceiver) -> set[tuple[str, str, str]]:
    """Return trace id, span id and name of what came to Sentry's OTLP endpoint."""
    return {
        (span.trace_id.hex(), span.span_id.hex(), span.name)
        for resource in sentry.resource_spans()
        for scope in resource.scope_spans
        for span in scope.spans
    }


def foreign_tracer(collector: Collector, resource: dict[str, str] | None = None) -> Tracer:
    """Return the tracer of a process without tracebaton; each span has arrived when it ends."""
    provider = TracerProvider(
        resource=Resource({"service.name": "foreign", **(resource or {})}), shutdown_on_exit=False
    )
    exporter = OTLPSpanExporter(f"{collector.otlp}/v1/traces")
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider.get_tracer("foreign")


def ended(tracer: Tracer, name: str, *, parent: Span | None = None, failed: bool = False) -> Span:
    """Make a span and end it."""
    context = set_span_in_context(parent) if parent is not None else Context()
    span = tracer.start_span(name, context)
    if failed:
        span.set_status(StatusCode.ERROR)
    span.end()
    return span


def trace_id_of(span: Span) -> str:
    """Return the trace id as backends write it."""
    return format_trace_id(span.get_span_context().trace_id)


def by_start(spans: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sort what Jaeger has by its start."""
    return sorted(spans, key=lambda span: int(span["startTimeUnixNano"]))

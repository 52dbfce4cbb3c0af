"""Spans of outgoing calls by TRACEBATON_INSTRUMENT, each in a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import requests
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from otlp_receiver import OtlpReceiver
from sentry_receiver import SentryReceiver

from tracebaton.errors import ConfigurationError
from tracebaton.settings import Settings
from tracebaton.telemetry.clients import Clients
from tracebaton.telemetry.pipeline import build

pytestmark = pytest.mark.backends

CALLS = """
import sys, json
import boto3, httpx, requests, urllib3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from opentelemetry.instrumentation.utils import suppress_instrumentation
from tracebaton.settings import Settings
from tracebaton.telemetry.pipeline import build

telemetry = build(Settings.load(), role="api")
url = sys.argv[1]
sqs = boto3.client(
    "sqs", endpoint_url=url, region_name="us-east-1", aws_access_key_id="x",
    aws_secret_access_key="x", config=Config(retries={"total_max_attempts": 1}),
)
try:
    with telemetry.tracer.start_as_current_span("work"):
        httpx.post(url + "/httpx")
        requests.post(url + "/requests")
        urllib3.request("POST", url + "/urllib3")
        try:
            sqs.list_queues()
        except (BotoCoreError, ClientError):
            pass
        with suppress_instrumentation():  # as our own queue's calls are
            try:
                sqs.list_queues()
            except (BotoCoreError, ClientError):
                pass
    telemetry.force_flush(10)
    httpx.post(url + "/alone")
finally:
    report = telemetry.shutdown(10)
print(json.dumps([report.spans_exported, report.complete]))
"""


def run(url: str, variables: Mapping[str, str]) -> Any:
    """Run the calls against *url*; return what the process says at its end."""
    kept = {
        name: os.environ[name] for name in ("PATH", "HOME", "SSL_CERT_FILE") if name in os.environ
    }
    done = subprocess.run(
        [sys.executable, "-c", CALLS, url],
        env=kept | {"NO_PROXY": "*"} | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return json.loads(done.stdout)


def spans_of(body: bytes) -> list[Span]:
    return [
        span
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def test_calls_have_a_span_each_and_sinks_have_none(
    otlp: OtlpReceiver, sentry: SentryReceiver
) -> None:
    """All that are installed at once: no call is seen twice, none of ours at all."""
    exported, complete = run(
        otlp.url,
        {
            "TRACEBATON_INSTRUMENT": "all-installed",
            "SENTRY_DSN": sentry.dsn,
            "OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url,
            "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": otlp.url + "/v1/logs",
            "TRACEBATON_VIEWER_URL": otlp.url + "/viewer",
        },
    )
    spans = [
        span for path, _, body in otlp.requests if path == "/v1/traces" for span in spans_of(body)
    ]
    work = next(span for span in spans if span.name == "work")
    children = sorted(span.name for span in spans if span.parent_span_id == work.span_id)
    alone = [span for span in spans if span.parent_span_id == b""]

    assert children == ["POST", "POST", "POST", "SQS.ListQueues"]
    assert sorted(span.name for span in alone) == ["POST", "work"]
    assert len(spans) == 6
    assert (exported, complete) == (18, True)
    assert len(sentry.transactions()) == 2


def test_a_call_carries_the_trace(otlp: OtlpReceiver) -> None:
    """What the instrumentation is there for, with the one propagator."""
    run(
        otlp.url,
        {
            "TRACEBATON_INSTRUMENT": "requests",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": otlp.url + "/my/traces",
        },
    )
    told = {path: headers.get("traceparent") for path, headers, _ in otlp.requests}
    batches = [body for path, _, body in otlp.requests if path == "/my/traces"]
    (call,) = [span for body in batches for span in spans_of(body) if span.name == "POST"]

    assert told["/requests"] == f"00-{call.trace_id.hex()}-{call.span_id.hex()}-03"
    assert told["/httpx"] is None


def test_what_somebody_else_switched_on_stays_as_it_is(pipelines: Any, otlp: OtlpReceiver) -> None:
    """A second pipeline of the process does not take the calls of the first one over."""
    first, second = (pipelines({"OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url}) for _ in range(2))
    try:
        for telemetry in (first, second):
            Clients({"requests"}).instrument(
                telemetry.tracer_provider, telemetry.meter_provider, telemetry.propagator
            )
        requests.post(otlp.url + "/call", timeout=10)
    finally:
        RequestsInstrumentor().uninstrument()
    reports = [telemetry.shutdown(5).spans_exported for telemetry in (first, second)]

    assert reports == [1, 0]


@pytest.fixture
def without_psycopg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every package but psycopg's instrumentation, as if that were not installed."""
    dist = "opentelemetry_instrumentation_psycopg-*.dist-info"
    path = list(sys.path)
    for number, folder in enumerate(map(Path, sys.path)):
        hidden = set(folder.glob(dist)) if folder.is_dir() else set()
        if hidden:
            rest = tmp_path / f"packages-{number}"
            rest.mkdir()
            for each in set(folder.iterdir()) - hidden:
                (rest / each.name).symlink_to(each)
            path[number] = str(rest)
    monkeypatch.setattr(sys, "path", path)


@pytest.mark.usefixtures("without_psycopg")
def test_what_is_not_installed_stops_the_start() -> None:
    """By its name and with the remedy; all-installed has nothing to miss."""
    settings = Settings.load({"TRACEBATON_INSTRUMENT": "httpx, psycopg,all-installed"})

    with pytest.raises(
        ConfigurationError,
        match=r"^TRACEBATON_INSTRUMENT: psycopg cannot be instrumented:"
        r" pip install opentelemetry-instrumentation-psycopg$",
    ):
        build(settings, role="api", install=False)


def test_an_unknown_name_stops_the_start() -> None:
    """By its name, with those there are."""
    with pytest.raises(
        ConfigurationError, match=r"TRACEBATON_INSTRUMENT: does not know flask.*all-installed$"
    ):
        Settings.load({"TRACEBATON_INSTRUMENT": "httpx,flask"})


@pytest.mark.usefixtures("without_psycopg")
def test_a_library_that_does_not_fit_stops_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the version that would, since its instrumentation is there and would do nothing."""
    dist = tmp_path / "instrumentation.dist-info"
    dist.mkdir()
    (dist / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: instrumentation\nVersion: 1\n"
        'Provides-Extra: instruments\nRequires-Dist: pydantic<1; extra == "instruments"\n'
    )
    (dist / "entry_points.txt").write_text("[opentelemetry_instrumentor]\npsycopg = x:Y\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    with pytest.raises(
        ConfigurationError,
        match=r"psycopg cannot be instrumented: pip install 'pydantic ?<1.*' in place of pydantic",
    ):
        Clients({"psycopg"})

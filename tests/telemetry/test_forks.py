"""A process that forks after telemetry was built, as servers that load the app first do."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from otlp_receiver import OtlpReceiver
from sentry_receiver import SentryReceiver

pytestmark = pytest.mark.backends

#: Spans before the fork wait in every queue, or have left over connections that stay open.
FORK = """
import json, os, sys
from tracebaton.metrics import MessagingMetrics
from tracebaton.settings import Settings
from tracebaton.telemetry.pipeline import build

telemetry = build(Settings.load(), role="api")
metrics = MessagingMetrics()

def work(name):
    telemetry.tracer.start_span(name).end()

def end(name):
    report = telemetry.shutdown(10)
    counts = [report.spans_exported, report.spans_dropped, report.complete]
    print(json.dumps([name, counts]), flush=True)

if sys.argv[1] == "warm":
    work("warm")
    assert telemetry.force_flush(10)
work("before")
metrics.sent("jobs", 0.1)
children = []
for number in range(2):
    pid = os.fork()
    if pid == 0:
        for _ in range(3):
            work(f"child {number}")
            assert telemetry.force_flush(10)
        metrics.sent("jobs", 0.1)
        end(f"child {number}")
        os._exit(0)
    children.append(pid)
for _ in range(3):
    work("parent")
    assert telemetry.force_flush(10)
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
end("parent")
assert codes == [0, 0], codes
"""


def fork(mode: str, variables: dict[str, str]) -> dict[str, Any]:
    """Run the forking process; return what each process reported at its end."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", FORK, mode],
        env=kept | {"NO_PROXY": "*"} | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(line) for line in done.stdout.splitlines())


def arrived(otlp: OtlpReceiver, path: str) -> list[tuple[str, str]]:
    """Return the name and the instance of each span at *path*."""
    found = []
    for at, _, body in otlp.requests:
        if at != path:
            continue
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            known = {item.key: item.value.string_value for item in resource.resource.attributes}
            found += [
                (span.name, known["service.instance.id"])
                for scope in resource.scope_spans
                for span in scope.spans
            ]
    return sorted(found)


def measured(otlp: OtlpReceiver) -> dict[str, int]:
    """Return how many messages each instance says it sent, by its last word."""
    return {
        item.value.string_value: point.as_int
        for path, _, body in otlp.requests
        if path == "/v1/metrics"
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics
        for item in resource.resource.attributes
        if item.key == "service.instance.id"
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "messaging.client.sent.messages"
        for point in metric.sum.data_points
    }


@pytest.mark.parametrize("mode", ["cold", "warm"])
def test_each_span_arrives_once_from_the_process_that_made_it(
    mode: str, otlp: OtlpReceiver, sentry: SentryReceiver
) -> None:
    """At every sink; a child starts with empty queues, its own connections and counts of zero."""
    reports = fork(
        mode,
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url,
            "TRACEBATON_VIEWER_URL": otlp.url + "/viewer",
            "SENTRY_DSN": sentry.dsn,
        },
    )
    before = ["before"] + (["warm"] if mode == "warm" else [])
    expected = sorted([*before, *["child 0", "child 1", "parent"] * 3])
    spans = arrived(otlp, "/v1/traces")
    instances = dict(spans)

    assert [name for name, _ in spans] == expected
    assert [name for name, _ in arrived(otlp, "/viewer/v1/traces")] == expected
    assert sorted(event["transaction"] for event in sentry.transactions()) == expected
    assert len({instances[name] for name in ("child 0", "child 1", "parent")}) == 3
    assert instances["before"] == instances["parent"]
    assert measured(otlp) == dict.fromkeys(
        (instances[name] for name in ("child 0", "child 1", "parent")), 1
    )
    assert reports == {
        "child 0": [9, 0, True],
        "child 1": [9, 0, True],
        "parent": [3 * (3 + len(before)), 0, True],
    }


def test_sentrys_otlp_endpoint_gets_each_span_once(sentry: SentryReceiver) -> None:
    """The other mode has other queues."""
    fork("warm", {"SENTRY_DSN": sentry.dsn, "TRACEBATON_SENTRY_MODE": "otlp"})
    names = sorted(
        span.name
        for resource in sentry.resource_spans()
        for scope in resource.scope_spans
        for span in scope.spans
    )

    assert names == sorted(["before", "warm", *["child 0", "child 1", "parent"] * 3])

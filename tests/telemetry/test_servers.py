"""Servers with several processes: each request's spans arrive, once, from the process it ran in."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from otlp_receiver import OtlpReceiver
from sentry_receiver import SentryReceiver

pytestmark = pytest.mark.backends

APP = """
import asyncio, os
from contextlib import asynccontextmanager
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from tracebaton.http.middleware import instrument
from tracebaton.settings import Settings
from tracebaton.telemetry.pipeline import build

telemetry = build(Settings.load(), role="api")

async def pid(request):
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    with telemetry.tracer.start_as_current_span("inner"):
        return PlainTextResponse(str(os.getpid()), headers={"x-loop": loop})

@asynccontextmanager
async def lifespan(app):
    yield
    telemetry.shutdown(5)

app = instrument(Starlette(routes=[Route("/pid", pid)], lifespan=lifespan))
"""
GUNICORN = ("gunicorn", "-k", "asgi", "-w", "2", "--no-control-socket", "-b", "fd://{}")
UVICORN = ("uvicorn", "--workers", "2", "--fd", "{}")
#: Forked from a process that has telemetry, forked before, or started anew; on either loop.
SERVERS = {
    "gunicorn --preload, asyncio": (*GUNICORN, "--preload", "--asgi-loop", "asyncio"),
    "gunicorn --preload, uvloop": (*GUNICORN, "--preload", "--asgi-loop", "uvloop"),
    "gunicorn, uvloop": (*GUNICORN, "--asgi-loop", "uvloop"),
    "uvicorn, asyncio": (*UVICORN, "--loop", "asyncio"),
    "uvicorn, uvloop": (*UVICORN, "--loop", "uvloop"),
}


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Listen before the server runs: requests wait for it, nobody has to look for its port."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield server


async def answers(port: int, loop: str) -> Counter[str]:
    """Ask until two processes have answered on *loop*; return how often each did."""
    seen: Counter[str] = Counter()
    async with (
        asyncio.timeout(30),
        httpx.AsyncClient(
            limits=httpx.Limits(max_keepalive_connections=0),
            base_url=f"http://127.0.0.1:{port}",
            timeout=30,
        ) as client,
    ):
        while len(seen) < 2:
            found = await asyncio.gather(*(client.get("/pid") for _ in range(8)))
            assert {response.headers["x-loop"] for response in found} == {loop}
            seen.update(response.text for response in found)
    return seen


@pytest.mark.parametrize("server", SERVERS)
def test_every_request_of_every_worker_arrives_once(
    server: str,
    listener: socket.socket,
    otlp: OtlpReceiver,
    sentry: SentryReceiver,
    tmp_path: Path,
) -> None:
    """At each sink, as span and as measurement, from the process it ran in; stopped by SIGTERM."""
    (tmp_path / "served.py").write_text(APP)
    fd = listener.fileno()
    kept = {name: os.environ[name] for name in ("PATH",) if name in os.environ}
    variables = {"SENTRY_DSN": sentry.dsn, "OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url}
    process = subprocess.Popen(
        [sys.executable, "-m", *(part.format(fd) for part in SERVERS[server]), "served:app"],
        cwd=tmp_path,
        env=kept | {"HOME": str(tmp_path), "NO_PROXY": "*"} | variables,
        pass_fds=[fd],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        seen = asyncio.run(answers(listener.getsockname()[1], server.rpartition(" ")[2]))
    finally:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    names, spans, measured = arrived(otlp)

    assert names == {"GET /pid": seen.total(), "inner": seen.total()}, said
    assert sorted(spans.values()) == sorted(2 * count for count in seen.values())
    assert {instance: 2 * count for instance, count in measured.items()} == spans
    assert len(sentry.transactions()) == seen.total()


def arrived(otlp: OtlpReceiver) -> tuple[Counter[str], Counter[str], dict[str, int]]:
    """Return spans by name, spans by instance, and measured requests by instance."""
    names: Counter[str] = Counter()
    spans: Counter[str] = Counter()
    measured: dict[str, int] = {}
    for path, _, body in otlp.requests:
        if path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                found = [span.name for scope in resource.scope_spans for span in scope.spans]
                spans[instance_of(resource)] += len(found)
                names.update(found)
        else:
            for measurements in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                measured[instance_of(measurements)] = sum(
                    point.count
                    for scope in measurements.scope_metrics
                    for metric in scope.metrics
                    if metric.name == "http.server.request.duration"
                    for point in metric.histogram.data_points
                )
    # The parent of a preloaded app measures nothing, and says so.
    return names, spans, {instance: count for instance, count in measured.items() if count}


def instance_of(resource: Any) -> str:
    known = {item.key: item.value.string_value for item in resource.resource.attributes}
    return known["service.instance.id"]

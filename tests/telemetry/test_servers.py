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

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from otlp_receiver import OtlpReceiver
from sentry_receiver import SentryReceiver

pytestmark = pytest.mark.backends

APP = """
import os
from contextlib import asynccontextmanager
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from tracebaton.http.middleware import instrument
from tracebaton.settings import Settings
from tracebaton.telemetry.pipeline import build

telemetry = build(Settings.load(), role="api")

async def pid(request):
    with telemetry.tracer.start_as_current_span("inner"):
        return PlainTextResponse(str(os.getpid()))

@asynccontextmanager
async def lifespan(app):
    yield
    telemetry.shutdown(5)

app = instrument(Starlette(routes=[Route("/pid", pid)], lifespan=lifespan))
"""
GUNICORN = (
    "gunicorn",
    "-k",
    "asgi",
    "--preload",
    "-w",
    "2",
    "--no-control-socket",
    "-b",
    "fd://{}",
)
UVICORN = ("uvicorn", "--workers", "2", "--fd", "{}")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Listen before the server runs: requests wait for it, nobody has to look for its port."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield server


async def answers(port: int) -> Counter[str]:
    """Ask until two processes have answered; return how often each did."""
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
            seen.update(response.text for response in found)
    return seen


@pytest.mark.parametrize("command", [GUNICORN, UVICORN], ids=["gunicorn --preload", "uvicorn"])
def test_every_request_of_every_worker_arrives_once(
    command: tuple[str, ...],
    listener: socket.socket,
    otlp: OtlpReceiver,
    sentry: SentryReceiver,
    tmp_path: Path,
) -> None:
    """Forked from a process that has telemetry, or started anew, and stopped by SIGTERM."""
    (tmp_path / "served.py").write_text(APP)
    fd = listener.fileno()
    kept = {name: os.environ[name] for name in ("PATH",) if name in os.environ}
    variables = {"SENTRY_DSN": sentry.dsn, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": otlp.url}
    process = subprocess.Popen(
        [sys.executable, "-m", *(part.format(fd) for part in command), "served:app"],
        cwd=tmp_path,
        env=kept | {"HOME": str(tmp_path), "NO_PROXY": "*"} | variables,
        pass_fds=[fd],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        seen = asyncio.run(answers(listener.getsockname()[1]))
    finally:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)

    spans: Counter[str] = Counter()
    names: Counter[str] = Counter()
    for _, _, body in otlp.requests:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            known = {item.key: item.value.string_value for item in resource.resource.attributes}
            found = [span.name for scope in resource.scope_spans for span in scope.spans]
            spans[known["service.instance.id"]] += len(found)
            names.update(found)

    assert names == {"GET /pid": seen.total(), "inner": seen.total()}, said
    assert sorted(spans.values()) == sorted(2 * count for count in seen.values())
    assert len(sentry.transactions()) == seen.total()

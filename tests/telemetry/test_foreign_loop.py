"""API and worker in a process of somebody else's: his loop, his framework, his OpenTelemetry."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from otlp_receiver import OtlpReceiver
from sentry_receiver import SentryReceiver

from tracebaton.local import LocalSqs, LocalSqsThread

pytestmark = pytest.mark.backends

PROGRAM = """
import asyncio, json, sys
import anyio, httpx, uvloop
from litestar import Litestar, post
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import BaseModel
from tracebaton import Tracebaton, current

exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)

jobs = Tracebaton()
seen = []

class Order(BaseModel):
    item: str

@jobs.task("order", model=Order)
async def order(data: Order) -> None:
    seen.append([type(asyncio.get_running_loop()).__module__.split(".")[0], data.item,
                 current().correlation_id])
    if data.item == "poison":
        raise LookupError("secret")

@post("/orders")
async def submit() -> dict[str, str]:
    for item in ("book", "poison"):
        await jobs.enqueue("order", Order(item=item))
    return {"trace_id": trace.format_trace_id(trace.get_current_span().get_span_context().trace_id)}

app = jobs.instrument(Litestar([submit], openapi_config=None))

async def serve():
    async with jobs.running(), anyio.create_task_group() as group:
        worker = jobs.worker(wait_seconds=1)
        group.start_soon(worker.run)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            answer = await http.post("/orders", headers={"x-correlation-id": "c-1"})
        with anyio.fail_after(20):
            while len([line for line in seen if line[1] == "poison"]) < 2:
                await anyio.sleep(0.02)
        worker.stop()
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    return answer.json()["trace_id"], len(others)

match sys.argv[1]:
    case "asyncio":
        trace_id, left = asyncio.run(serve())
    case "uvloop":
        trace_id, left = uvloop.run(serve())
    case "anyio":
        trace_id, left = anyio.run(serve)
print(json.dumps({
    "seen": sorted(seen),
    "left": left,
    "provider": trace.get_tracer_provider() is provider,
    "trace_id": trace_id,
    "spans": [
        [span.name, f"{span.context.trace_id:032x}"] for span in exporter.get_finished_spans()
    ],
}))
"""


@pytest.fixture
def sqs() -> Iterator[LocalSqsThread]:
    """Run an SQS with a queue whose second failure is the last."""
    with LocalSqs.in_thread() as server:
        server.create_queue("tasks-dlq")
        target = "arn:aws:sqs:us-east-1:000000000000:tasks-dlq"
        policy = json.dumps({"deadLetterTargetArn": target, "maxReceiveCount": "2"})
        server.create_queue("tasks", {"RedrivePolicy": policy})
        yield server


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "anyio"])
def test_one_process_is_api_and_worker_on_his_loop(
    loop: str, sqs: LocalSqsThread, otlp: OtlpReceiver, sentry: SentryReceiver, tmp_path: Path
) -> None:
    """One trace of spans that are his, one event of the failure, and nothing left on the loop."""
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", PROGRAM, loop],
        env={
            "PATH": "",
            "NO_PROXY": "*",
            "AWS_ENDPOINT_URL_SQS": sqs.url,
            "TRACEBATON_QUEUE_URL": sqs.queue_url("tasks"),
            "TRACEBATON_STORE": f"sqlite:///{tmp_path / 'tasks.db'}",
            "TRACEBATON_MAX_ATTEMPTS": "2",
            "TRACEBATON_RETRY_BASE_SECONDS": "0.01",
            "TRACEBATON_RETRY_CAP_SECONDS": "0.01",
            "TRACEBATON_VIEWER_URL": otlp.url + "/viewer",
            "OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url,
            "SENTRY_DSN": sentry.dsn,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    (event,) = sentry.events()
    names = sorted(name for name, _ in said["spans"])
    where = "uvloop" if loop == "uvloop" else "asyncio"

    assert said["seen"] == [[where, item, "c-1"] for item in ("book", "poison", "poison")]
    assert (said["left"], said["provider"]) == (0, True)
    assert {trace_id for _, trace_id in said["spans"]} == {said["trace_id"]}
    assert names == ["POST /orders"] + ["process tasks"] * 3 + ["send tasks"] * 2
    assert sorted(span.name for span in otlp.spans()) == names
    assert {path for path, _, _ in otlp.requests} == {"/viewer/v1/traces", "/v1/metrics"}
    assert sorted(one["transaction"] for one in sentry.transactions()) == [
        "POST /orders",
        "order",
        "order",
        "order",
    ]
    assert event["contexts"]["trace"]["trace_id"] == said["trace_id"]
    assert event["exception"]["values"][-1]["type"] == "LookupError"

"""Every example in examples/ does what its README says."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE
from types import ModuleType
from typing import Any

import httpx
import pytest
from command import clean_environment
from otlp_receiver import otlp_receiver

from tracebaton.local import LocalSqs
from tracebaton.testing import Stage, assert_one_trace

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def load() -> Iterator[object]:
    """Import an example from its folder, and forget it afterwards."""
    loaded: list[str] = []

    def by_name(folder: str) -> ModuleType:
        name = f"example_{folder}"
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / folder / "app.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # pydantic looks annotations up there
        loaded.append(name)
        spec.loader.exec_module(module)
        return module

    yield by_name
    for name in loaded:
        del sys.modules[name]


async def test_fastapi_and_its_worker_are_one_trace(load) -> None:  # type: ignore[no-untyped-def]
    """The FastAPI app's own route and the task it sends share trace and correlation id."""
    module = load("fastapi")
    transport = httpx.ASGITransport(module.app)
    async with (
        Stage(module.tasks) as stage,
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as http,
    ):
        answer = await http.post(
            "/orders", json={"item": "book"}, headers={"X-Correlation-ID": "adopted"}
        )
        await stage.run_until_idle()
        task = await stage.task(answer.json()["task_id"])

    assert_one_trace(stage.spans)
    assert (answer.status_code, answer.headers["x-correlation-id"]) == (202, "adopted")
    assert task.result == {"packed": "book", "for_request": "adopted"}


#: Puts one order to the Starlette app as a server would, in a process of its own.
ASK = """
import asyncio, httpx
from app import app

async def main():
    async with app.router.lifespan_context(app) as state:
        async def with_state(scope, receive, send):
            await app(scope | {"state": dict(state)}, receive, send)
        transport = httpx.ASGITransport(with_state)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            answer = await http.post("/orders", json={"item": "book"})
    print("ANSWER", answer.status_code, answer.headers["x-correlation-id"])

asyncio.run(main())
"""


def test_pieces_alone_are_one_trace() -> None:  # load("pieces") happens in its two processes
    """Somebody else's app and loop: spans of both, and the same ids in both logs."""
    with LocalSqs.in_thread() as sqs, otlp_receiver() as otlp:
        sqs.create_queue("orders")
        env = clean_environment() | {
            "TRACEBATON_QUEUE_URL": sqs.queue_url("orders"),
            "OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url,
            "OTEL_METRICS_EXPORTER": "none",
        }
        where: dict[str, Any] = {"cwd": EXAMPLES / "pieces", "env": env, "text": True}
        with subprocess.Popen([sys.executable, "app.py"], stdout=PIPE, **where) as worker:
            asked = subprocess.run(
                [sys.executable, "-c", ASK], capture_output=True, timeout=60, check=True, **where
            )
            otlp.wait_for(lambda got: len(got.spans()) >= 3, timeout=60)
            worker.terminate()
            told, _ = worker.communicate(timeout=30)

    answer = asked.stdout.splitlines()[-1].split()
    lines = [json.loads(line) for line in told.splitlines()]
    assert worker.returncode == 0
    assert answer[:2] == ["ANSWER", "202"]
    assert {span.trace_id.hex() for span in otlp.spans()} == {answer[2]}
    assert sorted(span.name for span in otlp.spans()) == [
        "POST /orders",
        "process orders",
        "send orders",
    ]
    assert [line["event"] for line in lines if line["correlation_id"] == answer[2]] == [
        "task.started",
        "audit.call",
        "audit.success",
        "task.succeeded",
    ]


def test_every_example_has_a_readme_and_a_test() -> None:
    """A folder without a README, or one that nothing here loads, is no example."""
    folders = {path.name for path in EXAMPLES.iterdir() if path.is_dir()}
    here = Path(__file__).read_text()

    assert folders == {"fastapi", "pieces"}
    for folder in folders:
        assert (EXAMPLES / folder / "README.md").is_file()
        assert f'load("{folder}")' in here

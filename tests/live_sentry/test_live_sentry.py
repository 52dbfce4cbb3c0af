"""
A real Sentry shows the request, its task and its failure. Opt-in: docs/sentry.md says how.

It was written without an account at hand: the first run against one is its own test.
"""

import os
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from command import ended, running
from stage import Broker, create_queues

from tracebaton.local import LocalSqs

NAMES = [f"TRACEBATON_LIVE_SENTRY_{name}" for name in ("DSN", "TOKEN", "ORG")]

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.timeout(420),
    pytest.mark.skipif(
        not all(os.environ.get(name) for name in NAMES), reason=f"needs {', '.join(NAMES)}"
    ),
]

APP = Path(__file__).parents[1] / "telemetry"
#: Seconds in which a span has to be found; Sentry ingests in the background.
INGESTION = 300


def test_performance_and_queues_have_the_trace(tmp_path: Path) -> None:
    """One ``http.server``, one ``queue.publish`` and one ``queue.process`` in one trace."""
    with LocalSqs.in_thread() as sqs:
        create_queues(sqs)
        env = Broker(sqs, tmp_path).env | {
            "SENTRY_DSN": os.environ[NAMES[0]],
            "SENTRY_ENVIRONMENT": "tracebaton-live",
            "SENTRY_TRACES_SAMPLE_RATE": "1",
            "TRACEBATON_SENTRY_QUEUE_CHILD": "1",
        }
        with (
            running("api", "sentry_shop:app", "--port", "0", env=env, cwd=APP) as api,
            running("worker", "sentry_shop:app", env=env, cwd=APP) as worker,
            httpx.Client(base_url=api.ready()["api"], timeout=30) as http,
        ):
            worker.ready()
            answer = http.post("/orders/order", json={}).json()
            ended(http, answer["task_id"])
            broken = http.get("/broken").json()
            assert (api.stop(), worker.stop()) == (0, 0)
    spans = found("spans", answer["trace_id"], ["span.op", "messaging.destination.name"], least=3)
    errors = found("errors", broken["trace_id"], ["title", "code"], least=1)

    assert {"http.server", "queue.publish", "queue.process"} <= {one["span.op"] for one in spans}
    assert {
        one["messaging.destination.name"] for one in spans if one["span.op"].startswith("queue.")
    } == {"tasks"}
    assert len(errors) == 1


def found(dataset: str, trace_id: str, fields: list[str], *, least: int) -> list[dict[str, Any]]:
    """Ask Sentry until it has at least as many rows of the trace."""
    params = {
        "dataset": dataset,
        "field": fields,
        "query": f"trace:{trace_id}",
        "project": os.environ[NAMES[0]].rsplit("/", 1)[-1],
        "statsPeriod": "1h",
    }
    base = os.environ.get("TRACEBATON_LIVE_SENTRY_URL", "https://sentry.io")
    url = f"{base}/api/0/organizations/{os.environ[NAMES[2]]}/events/"
    headers = {"Authorization": f"Bearer {os.environ[NAMES[1]]}"}
    over = time.monotonic() + INGESTION
    while True:
        answer = httpx.get(url, params=params, headers=headers, timeout=30)
        rows: list[dict[str, Any]] = answer.raise_for_status().json()["data"]
        if len(rows) >= least:
            return rows
        assert time.monotonic() < over, rows
        time.sleep(5)

"""Metrics that Prometheus reads: where they are answered, to whom, and what they are."""

import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from command import create_key, ended, running
from http_service import StoreService
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tracebaton.http.app import create_app
from tracebaton.http.metrics import metrics_route
from tracebaton.http.middleware import instrument
from tracebaton.local import LocalSqs
from tracebaton.metrics import MessagingMetrics

pytestmark = pytest.mark.backends

SHOP = Path(__file__).parents[1] / "acceptance"
ON = {"OTEL_METRICS_EXPORTER": "prometheus"}


def series(text: str) -> dict[str, list[tuple[Mapping[str, str], float]]]:
    """Return every sample by its name, as Prometheus's own parser reads it."""
    found: dict[str, list[tuple[Mapping[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def values(samples: Iterable[tuple[Mapping[str, str], float]], label: str) -> dict[str, float]:
    return {labels[label]: value for labels, value in samples}


def app_of(telemetry: Any) -> Starlette:
    async def answer(request: Request) -> Response:
        return PlainTextResponse("ok")

    return instrument(
        Starlette(
            routes=[Route("/items/{id}", answer), metrics_route(lambda: telemetry.exposition)]
        ),
        tracer_provider=telemetry.tracer_provider,
        meter_provider=telemetry.meter_provider,
    )


def client_of(app: Starlette) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")


async def test_a_scrape_reads_requests_and_the_queue(pipelines: Any) -> None:
    """By route, and none of its own requests; what others registered elsewhere stays there."""
    telemetry = pipelines(ON)
    others = [family.name for family in REGISTRY.collect()]
    MessagingMetrics(telemetry.meter_provider).sent("jobs", 0.1)
    async with client_of(app_of(telemetry)) as client:
        for path in ("/items/1?token=c4n4ry", "/items/2", "/metrics", "/metrics"):
            answer = await client.get(path)
    found = series(answer.text)

    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert answer.headers["cache-control"] == "no-store"
    assert values(found["http_server_request_duration_seconds_count"], "http_route") == {
        "/items/{id}": 2
    }
    assert values(found["messaging_client_sent_messages_total"], "messaging_destination_name") == {
        "jobs": 1
    }
    [(info, _)] = found["target_info"]
    assert info["service_name"] == "tracebaton-api"
    assert "c4n4ry" not in answer.text
    assert [family.name for family in REGISTRY.collect()] == others


async def test_the_format_is_the_one_that_is_asked_for(pipelines: Any) -> None:
    """OpenMetrics where the scraper knows it."""
    telemetry = pipelines(ON)
    MessagingMetrics(telemetry.meter_provider).sent("jobs", 0.1)
    asked = {"accept": "application/openmetrics-text; version=1.0.0"}
    async with client_of(app_of(telemetry)) as client:
        answer = await client.get("/metrics", headers=asked)

    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.text.endswith("# EOF\n")


async def test_a_scrape_leaves_no_trace(
    pipelines: Any, otlp: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """No span, no line, no measurement, whether it succeeds or there is nothing to read."""
    telemetry = pipelines({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": otlp.url} | ON)
    with caplog.at_level("INFO"):
        async with client_of(app_of(telemetry)) as client:
            answers = [await client.get("/metrics") for _ in range(2)]
    telemetry.shutdown(5)

    assert [answer.status_code for answer in answers] == [200, 200]
    assert otlp.requests == []
    assert [record for record in caplog.records if record.name.startswith("tracebaton")] == []
    assert "http_server_request_duration" not in answers[-1].text


async def test_the_apps_own_metrics_page_comes_first_and_asks_who_is_there() -> None:
    """What leaves no trace is not open for that; without credentials only this machine asks."""

    async def own(request: Request) -> str:
        return "mine"

    service = StoreService(None, routes=[("/metrics", own, ["GET"])])
    async with client_of(create_app(service, exposition=lambda: None)) as client:
        answers = [
            await client.get("/metrics", headers={"host": host})
            for host in ("localhost", "rebound.example")
        ]

    assert (answers[0].status_code, answers[0].json()) == (200, "mine")
    assert (answers[1].status_code, answers[1].json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize("exporter", ["otlp", "none"])
async def test_without_the_setting_there_is_nothing(pipelines: Any, exporter: str) -> None:
    """A 404 like that of any other path."""
    async with client_of(app_of(pipelines({"OTEL_METRICS_EXPORTER": exporter}))) as client:
        answer = await client.get("/metrics")

    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_metrics_can_leave_both_ways(pipelines: Any, otlp: Any) -> None:
    """Pushed to the endpoint and read, the same numbers."""
    telemetry = pipelines(
        {"OTEL_METRICS_EXPORTER": "otlp, prometheus", "OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url}
    )
    MessagingMetrics(telemetry.meter_provider).sent("jobs", 0.1)
    async with client_of(app_of(telemetry)) as client:
        answer = await client.get("/metrics")
    telemetry.shutdown(5)

    assert "messaging.client.sent.messages" in otlp.metrics()
    assert "messaging_client_sent_messages_total" in series(answer.text)


def test_without_the_extra_the_start_stops() -> None:
    """With the remedy, and exit code 2."""
    code = """
import sys
sys.modules["opentelemetry.exporter.prometheus"] = None
from tracebaton.cli import main
sys.argv = ["tracebaton", "api", "--port", "0"]
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": "", "TRACEBATON_QUEUE_NAME": "tasks"} | ON,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 2
    assert "pip install 'tracebaton[prometheus]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.acceptance
def test_api_and_worker_are_read_by_whom_they_know(tmp_path: Path) -> None:
    """Both ask for a key; with it there are the requests here and the messages there."""
    with LocalSqs.in_thread() as sqs:
        for name in ("tasks-dlq", "tasks"):
            policy = '{"deadLetterTargetArn": "arn:aws:sqs:us-east-1:000000000000:tasks-dlq",'
            redrive = {"RedrivePolicy": policy + ' "maxReceiveCount": "5"}'}
            sqs.create_queue(name, redrive if name == "tasks" else {})
        env = ON | {
            "AWS_ENDPOINT_URL_SQS": sqs.url,
            "TRACEBATON_QUEUE_URL": sqs.queue_url("tasks"),
            "TRACEBATON_STORE": f"sqlite:///{tmp_path / 'tasks.db'}",
            "TRACEBATON_AUTH": "api-key",
            "TRACEBATON_API_KEYS_FILE": str(tmp_path / "keys.json"),
        }
        key = create_key(env, "alice", cwd=SHOP)
        with (
            running("api", "shop:app", "--port", "0", env=env, cwd=SHOP) as api,
            running("worker", "shop:app", env=env, cwd=SHOP) as worker,
            httpx.Client(headers={"Authorization": f"Bearer {key}"}, timeout=10) as http,
        ):
            urls = [api.ready()["api"], worker.ready()["health"]]
            http.base_url = httpx.URL(urls[0])
            answer = http.post("/orders/order", json={})
            ended(http, answer.json()["task_id"])
            refused = [httpx.get(f"{url}/metrics").status_code for url in urls]
            text = [http.get(f"{url}/metrics").text for url in urls]
            codes = (api.stop(), worker.stop())

    requests, messages = (series(one) for one in text)
    routes = values(requests["http_server_request_duration_seconds_count"], "http_route")
    handled = values(messages["messaging_process_duration_seconds_count"], "messaging_system")
    assert refused == [401, 401]
    assert routes["/orders/{kind}"] == 1
    assert handled == {"aws_sqs": 1}
    assert [one for one in text if key in one or "alice" in one] == []
    assert codes == (0, 0)

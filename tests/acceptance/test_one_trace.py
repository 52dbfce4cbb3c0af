"""API and worker as two processes: Jaeger, Sentry, logs, task and answer tell one story."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from command import Command, create_key, ended, running
from jaeger import Jaeger
from sentry_receiver import SentryReceiver
from stage import Broker

pytestmark = [pytest.mark.acceptance, pytest.mark.backends]

HERE = Path(__file__).parent
USER = "alice"


@pytest.fixture
def env(broker: Broker, jaeger: Jaeger, sentry: SentryReceiver) -> dict[str, str]:
    """Both sinks at once, and API keys."""
    return broker.env | {
        "OTEL_EXPORTER_OTLP_ENDPOINT": jaeger.otlp,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "SENTRY_DSN": sentry.dsn,
        "SENTRY_ENVIRONMENT": "test",
        "TRACEBATON_AUTH": "api-key",
        "TRACEBATON_API_KEYS_FILE": str(broker.folder / "keys.json"),
    }


def test_a_request_and_its_task_are_one_trace_everywhere(
    env: dict[str, str], jaeger: Jaeger, sentry: SentryReceiver
) -> None:
    """One trace id and one correlation id, span for span, in every place that has them."""
    key = create_key(env, USER, cwd=HERE)
    with (
        running("api", "shop:app", "--port", "0", env=env, cwd=HERE) as api,
        running("worker", "shop:app", env=env, cwd=HERE) as worker,
    ):
        with client(api, key) as http:
            worker.ready()
            answer = http.post("/orders/order", json={}, headers={"X-Correlation-ID": "order-42"})
            task = ended(http, answer.json()["task_id"])
        trace_id = answer.json()["trace_id"]
        spans = jaeger.trace(trace_id, until=lambda found: len(found) == 4)
        sentry.wait_for(lambda sink: len(of_trace(sink.transactions(), trace_id)) == 2)
        transactions = of_trace(sentry.transactions(), trace_id)
        codes = (api.stop(), worker.stop())

    ids = {span["spanId"]: span["name"] for span in spans}
    kinds = {1: "INTERNAL", 2: "SERVER", 3: "CLIENT", 4: "PRODUCER", 5: "CONSUMER"}
    assert [
        (s["service"], s["name"], kinds[s["kind"]], ids.get(s.get("parentSpanId", "")))
        for s in spans
    ] == [
        ("tracebaton-api", "POST /orders/{kind}", "SERVER", None),
        ("tracebaton-api", "send tasks", "PRODUCER", "POST /orders/{kind}"),
        ("tracebaton-worker", "process tasks", "CONSUMER", "send tasks"),
        ("tracebaton-worker", "pack", "INTERNAL", "process tasks"),
    ]
    assert {s["attributes"]["tracebaton.correlation_id"] for s in spans} == {"order-42"}
    assert [s["attributes"].get("tracebaton.user_id") for s in spans] == [USER] * 4
    assert {s["attributes"]["tracebaton.task.id"] for s in spans} == {task["task_id"]}

    by_op = {t["contexts"]["trace"]["op"]: t for t in transactions}
    http_server, process = by_op["http.server"], by_op["queue.process"]
    [publish] = [span for span in http_server["spans"] if span["op"] == "queue.publish"]
    assert http_server["transaction"] == "POST /orders/{kind}"
    assert http_server["transaction_info"]["source"] == "route"
    assert (process["transaction"], process["transaction_info"]["source"]) == ("order", "task")
    assert process["contexts"]["trace"]["parent_span_id"] == publish["span_id"]
    assert publish["span_id"] == next(s["spanId"] for s in spans if s["name"] == "send tasks")
    data = process["contexts"]["trace"]["data"]
    assert {
        name: data[name] for name in ("messaging.destination.name", "messaging.message.retry.count")
    } == {"messaging.destination.name": "tasks", "messaging.message.retry.count": 0}
    assert data["messaging.message.receive.latency"] >= 0
    assert data["messaging.message.id"] == publish["data"]["messaging.message.id"]
    assert sentry.events() == []

    assert (answer.headers["x-correlation-id"], task["correlation_id"]) == ("order-42", "order-42")
    assert task["result"] == {"correlation_id": "order-42", "user_id": USER}
    assert task["trace_id"] == trace_id
    lines = [line for line in api.events + worker.events if line.get("trace_id") == trace_id]
    assert [line["event"] for line in lines] == [
        "task.enqueued",
        "http.request",
        "task.started",
        "task.succeeded",
    ]
    assert {(line["correlation_id"], line["user_id"]) for line in lines} == {("order-42", USER)}
    assert codes == (0, 0)
    assert api.errors == worker.errors == []


def test_a_5xx_is_one_event_and_a_4xx_is_none(
    env: dict[str, str], jaeger: Jaeger, sentry: SentryReceiver
) -> None:
    """The event has the original type and stack and hangs on the request's span."""
    key = create_key(env, USER, cwd=HERE)
    with running("api", "shop:app", "--port", "0", env=env, cwd=HERE) as api:
        with client(api, key) as http:
            broken = http.post("/orders/broken", json={})
            refused = [
                http.post("/orders/order", json={"seconds": "soon"}),
                http.post(
                    "/orders/order", content=b"{", headers={"content-type": "application/json"}
                ),
                http.get("/nowhere"),
                http.put("/orders/order", json={}),
                httpx.get(http.base_url.join("/whoami")),
            ]
        trace_id = broken.json()["trace_id"]
        [span] = jaeger.trace(trace_id)
        sentry.wait_for(lambda sink: bool(sink.events()))
        [event] = sentry.events()
        code = api.stop()

    assert (broken.status_code, broken.json()["code"]) == (500, "internal")
    assert "till" not in broken.text
    assert [answer.status_code for answer in refused] == [422, 400, 404, 405, 401]
    assert {answer.headers["content-type"] for answer in [broken, *refused]} == {
        "application/problem+json"
    }
    assert event["exception"]["values"][-1]["type"] == "ZeroDivisionError"
    assert event["exception"]["values"][-1]["stacktrace"]["frames"][-1]["function"] == "submit"
    assert event["contexts"]["trace"]["trace_id"] == trace_id
    assert event["contexts"]["trace"]["span_id"] == span["spanId"]
    assert event["tags"] | {"route": "/orders/{kind}"} == event["tags"]
    assert (event["tags"]["code"], event["tags"]["http_status"]) == ("internal", "500")
    assert span["attributes"]["error.type"] == "ZeroDivisionError"
    assert span["attributes"]["http.response.status_code"] == 500
    assert span["status"]["code"] == 2
    [line] = [line for line in api.events if line.get("sentry_event_id")]
    assert (line["event"], line["sentry_event_id"]) == ("http.error", event["event_id"])
    assert sentry.events() == [event]
    assert code == 0


def test_a_dead_task_is_one_event_that_lists_its_attempts(
    env: dict[str, str], broker: Broker, sentry: SentryReceiver
) -> None:
    """Two attempts, one event, the task dead, the message in the DLQ; Reject has no event."""
    key = create_key(env, USER, cwd=HERE)
    with (
        running("api", "shop:app", "--port", "0", env=env, cwd=HERE) as api,
        running("worker", "shop:app", env=env, cwd=HERE) as worker,
    ):
        with client(api, key) as http:
            sent = [http.post("/orders/order", json={"item": i}) for i in ("poison", "closed")]
            dead, failed = [ended(http, answer.json()["task_id"]) for answer in sent]
        sentry.wait_for(lambda sink: bool(sink.events()))
        [event] = sentry.events()
        worker.wait_for(lambda line: line["event"] == "task.dead")
        codes = (api.stop(), worker.stop())

    assert (dead["status"], dead["attempt"], failed["status"]) == ("dead", 2, "failed")
    assert (dead["error"]["code"], failed["error"]["code"]) == ("internal", "rejected")
    assert event["exception"]["values"][-1]["type"] == "LookupError"
    assert event["contexts"]["trace"]["trace_id"] == dead["trace_id"]
    assert {
        name: event["tags"][name] for name in ("task_type", "task_id", "attempt", "correlation_id")
    } == {
        "task_type": "order",
        "task_id": dead["task_id"],
        "attempt": "2",
        "correlation_id": dead["correlation_id"],
    }
    assert [one["attempt"] for one in event["contexts"]["attempts"]["failures"]] == [1]
    assert sentry.events() == [event]
    assert codes == (0, 0)


def client(api: Command, key: str) -> httpx.Client:
    """A client of the API with a key."""
    return httpx.Client(
        base_url=api.ready()["api"], headers={"Authorization": f"Bearer {key}"}, timeout=10
    )


def of_trace(payloads: list[dict[str, Any]], trace_id: str) -> list[dict[str, Any]]:
    """Those of one trace."""
    return [p for p in payloads if p["contexts"]["trace"]["trace_id"] == trace_id]

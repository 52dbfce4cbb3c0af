"""The same requests, fetched from Jaeger and from Sentry's envelopes, tell the same story."""

from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from command import create_key, ended, running
from jaeger import Jaeger
from sentry_receiver import SentryReceiver
from stage import Broker

pytestmark = [pytest.mark.acceptance, pytest.mark.backends]

HERE = Path(__file__).parent
#: The request store, as it is named on spans and in the data of Sentry's spans.
IDS = ("tracebaton.correlation_id", "tracebaton.user_id", "tracebaton.task.id")


class Told(NamedTuple):
    """What both backends know of one span."""

    parent: str | None
    name: str
    op: str
    failed: bool
    service: str
    ids: tuple[Any, ...]


def by_jaeger(span: dict[str, Any]) -> Told:
    """Return what Jaeger tells; Sentry names a worker's transaction by its task type (SPEC 5)."""
    attributes = span["attributes"]
    is_task = attributes["sentry.op"] == "queue.process"
    return Told(
        parent=span.get("parentSpanId") or None,
        name=attributes["tracebaton.task.type"] if is_task else span["name"],
        op=attributes["sentry.op"],
        failed=span.get("status", {}).get("code", 0) == 2,
        service=span["service"],
        ids=tuple(attributes.get(name) for name in IDS),
    )


def by_sentry(event: dict[str, Any]) -> dict[str, Told]:
    """Return what a transaction tells of its root and of its children, by span id."""
    service = event["contexts"]["otel"]["resource"]["service.name"]
    return {span["span_id"]: _sentry_span(span, service) for span in spans_of(event)}


def spans_of(event: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the root of a transaction, in the form of its children, and those."""
    times = {name: event[name] for name in ("start_timestamp", "timestamp")}
    root = event["contexts"]["trace"] | times | {"description": event["transaction"]}
    return [root, *event["spans"]]


def _sentry_span(span: dict[str, Any], service: str) -> Told:
    return Told(
        parent=span.get("parent_span_id"),
        name=span["description"],
        op=span["op"],
        failed=span.get("status", "ok") != "ok",
        service=service,
        ids=tuple(span["data"].get(name) for name in IDS),
    )


def microseconds(span: dict[str, Any]) -> tuple[int, int]:
    """Return when a span of either backend began and ended."""
    if "startTimeUnixNano" in span:
        return int(span["startTimeUnixNano"]) // 1000, int(span["endTimeUnixNano"]) // 1000
    moments = (datetime.fromisoformat(span[name]) for name in ("start_timestamp", "timestamp"))
    began, ended = (int(one.timestamp()) * 10**6 + one.microsecond for one in moments)
    return began, ended


def exceptions(span: dict[str, Any]) -> list[str]:
    """Return the types of the exceptions that Jaeger shows on a span."""
    return [
        item["value"]["stringValue"]
        for event in span.get("events", ())
        for item in event["attributes"]
        if item["key"] == "exception.type"
    ]


def test_both_backends_tell_the_same_story(
    broker: Broker, jaeger: Jaeger, sentry: SentryReceiver
) -> None:
    """A success, a task that dies at its second attempt and a 500, span for span."""
    env = broker.env | {
        "OTEL_EXPORTER_OTLP_ENDPOINT": jaeger.otlp,
        "OTEL_METRICS_EXPORTER": "none",
        "SENTRY_DSN": sentry.dsn,
        "TRACEBATON_AUTH": "api-key",
        "TRACEBATON_API_KEYS_FILE": str(broker.folder / "keys.json"),
    }
    key = create_key(env, "alice", cwd=HERE)
    with (
        running("api", "shop:app", "--port", "0", env=env, cwd=HERE) as api,
        running("worker", "shop:app", env=env, cwd=HERE) as worker,
        httpx.Client(
            base_url=api.ready()["api"], headers={"Authorization": f"Bearer {key}"}, timeout=10
        ) as http,
    ):
        calls = {"order": {}, "poison": {"item": "poison"}, "broken": {}}
        answers = {
            name: http.post(
                "/orders/broken" if name == "broken" else "/orders/order",
                json=body,
                headers={"X-Correlation-ID": f"story-{name}"},
            ).json()
            for name, body in calls.items()
        }
        for name in ("order", "poison"):
            ended(http, answers[name]["task_id"])
        assert (api.stop(), worker.stop()) == (0, 0)

    shapes = {}
    for name, answer in answers.items():
        of_jaeger = jaeger.trace(answer["trace_id"])
        of_sentry: dict[str, Told] = {}
        times: dict[str, tuple[int, int]] = {}
        for transaction in sentry.transactions():
            if transaction["contexts"]["trace"]["trace_id"] == answer["trace_id"]:
                of_sentry |= by_sentry(transaction)
                times |= {s["span_id"]: microseconds(s) for s in spans_of(transaction)}
        stories = {span["spanId"]: by_jaeger(span) for span in of_jaeger}
        recorded = {span["spanId"]: exceptions(span) for span in of_jaeger}
        reported = {
            event["contexts"]["trace"]["span_id"]: [event["exception"]["values"][-1]["type"]]
            for event in sentry.events()
            if event["contexts"]["trace"]["trace_id"] == answer["trace_id"]
        }
        shapes[name] = [(story.name, story.failed) for story in stories.values()]

        assert of_sentry == stories
        for span in of_jaeger:
            assert times[span["spanId"]] == pytest.approx(microseconds(span), rel=0, abs=2)
        assert {story.ids[0] for story in stories.values()} == {f"story-{name}"}
        assert {span: recorded[span] for span in reported} == reported
        assert all(stories[span].failed for span in reported)
        assert len(reported) == (name != "order")

    assert shapes == {
        "order": [
            ("POST /orders/{kind}", False),
            ("send tasks", False),
            ("order", False),
            ("pack", False),
        ],
        "poison": [
            ("POST /orders/{kind}", False),
            ("send tasks", False),
            ("order", True),
            ("order", True),
        ],
        "broken": [("POST /orders/{kind}", True)],
    }

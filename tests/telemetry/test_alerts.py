"""Alert rules: each can be read, asks for metrics that there are, and has its runbook."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from opentelemetry.sdk.trace import TracerProvider
from otlp_receiver import otlp_receiver
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tracebaton.http.metrics import metrics_route
from tracebaton.http.middleware import instrument
from tracebaton.queue.meters import WorkerMeters

from .test_prometheus import ON, client_of, series

ROOT = Path(__file__).parents[2]
RULES = yaml.safe_load((ROOT / "deploy/alerts/prometheus.yaml").read_text())["groups"][0]["rules"]
RUNBOOKS = (ROOT / "docs/operations.md").read_text()


def selectors(expression: Any) -> Iterator[Any]:
    """Yield each metric that *expression* asks for."""
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression
        return
    for name in ("expr", "lhs", "rhs", "vector_selector"):
        if (inner := getattr(expression, name, None)) is not None:
            yield from selectors(inner)
    for inner in getattr(expression, "args", None) or ():
        yield from selectors(inner)


async def scraped(pipelines: Any) -> dict[str, set[str]]:
    """Return every series that a process can have, with its labels."""

    async def answer(request: Request) -> Response:
        return PlainTextResponse("ok")

    with otlp_receiver() as sink:
        telemetry = pipelines({**ON, "OTEL_EXPORTER_OTLP_ENDPOINT": sink.url})
        meters = WorkerMeters(telemetry.meter_provider)
        meters.attempted("tasks", "order", "dead")
        meters.extended("tasks", "lost")
        meters.depth("tasks", {"visible": 1})
        meters.age("tasks", 1.0)
        meters.blocked(3.0)
        meters.restarted("tasks", "hung")
        meters.messaging.received("tasks", 0.1, messages=1)
        app = instrument(
            Starlette(
                routes=[Route("/items", answer), metrics_route(lambda: telemetry.exposition)]
            ),
            tracer_provider=telemetry.tracer_provider or TracerProvider(),
            meter_provider=telemetry.meter_provider,
        )
        async with client_of(app) as client:
            await client.get("/items")
            text = (await client.get("/metrics")).text
    return {
        name: {label for labels, _ in samples for label in labels}
        for name, samples in series(text).items()
    }


async def test_every_alert_asks_for_what_there_is(pipelines: Any) -> None:
    """A metric or a label that was renamed would leave an alert silent for ever."""
    there = await scraped(pipelines)
    for rule in RULES:
        asked = list(selectors(promql_parser.parse(rule["expr"])))
        assert asked, rule["alert"]
        for selector in asked:
            labels = {matcher.name for matcher in selector.matchers.matchers}
            assert selector.name in there, rule["alert"]
            assert labels <= there[selector.name], (rule["alert"], there[selector.name])
        for grouping in re.findall(r"by \(([^)]*)\)", rule["expr"]):
            known = set().union(*(there[selector.name] for selector in asked))
            assert {name.strip() for name in grouping.split(",")} <= known, rule["alert"]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_every_alert_has_its_runbook(rule: dict[str, Any]) -> None:
    """Its annotation names a section of the page, and its summary only labels that it has."""
    summary = rule["annotations"]["summary"]
    named = set(re.findall(r"\$labels\.(\w+)", summary))

    assert f"\n## {rule['alert']}\n" in RUNBOOKS
    assert rule["annotations"]["runbook"] == f"operations#{rule['alert'].lower()}"
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert all(name in rule["expr"] for name in named)

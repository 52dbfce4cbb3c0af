"""Spans of the calls to SQS: off by default, each where it belongs when asked for."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from pydantic import BaseModel

from tracebaton import RetryLater, Tracebaton
from tracebaton.errors import ConfigurationError
from tracebaton.queue.client_spans import ClientSpans
from tracebaton.settings import Settings
from tracebaton.telemetry.sampling import HeadSampler
from tracebaton.testing import Stage, assert_one_trace

app = Tracebaton()


class Order(BaseModel):
    """What is ordered."""

    later: bool = False


@app.task("order", model=Order)
async def order(data: Order) -> None:
    """Ask for another attempt where the order says so."""
    if data.later:
        raise RetryLater(600)


@app.route("/orders", methods=["POST"])
async def submit(request: Any) -> Any:
    """Enqueue an order."""
    return await app.enqueue("order", await app.body(request, Order))


@pytest.fixture
async def stage(request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    """Yield the application with the spans that the test asks for."""
    async with Stage(app, env={"TRACEBATON_QUEUE_SPANS": request.param}) as stage:
        yield stage


async def handle(stage: Stage, **order: Any) -> None:
    """Order something, and let the worker have it."""
    answer = await stage.http.post("/orders", json=order)
    assert answer.status_code == 202
    if order:
        with pytest.raises(Exception, match="not idle"):  # it waits for its next attempt
            await stage.run_until_idle(seconds=1)
    else:
        await stage.run_until_idle()


@pytest.mark.parametrize("stage", [""], indirect=True)
async def test_there_are_none_by_default(stage: Stage) -> None:
    """A trace shows the work and not the polling."""
    await handle(stage)

    assert [span.name for span in stage.spans] == ["send tasks", "POST /orders", "process tasks"]


def test_a_poll_that_brings_messages_is_a_trace_of_its_own() -> None:
    """It is no request's, so only who asks for it gets it; an empty one is nothing."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(
        sampler=HeadSampler(1, keep_polls=True), resource=Resource({}), shutdown_on_exit=False
    )
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("tests")
    with tracer.start_as_current_span("somebody's"):
        for kinds in ((), ("receive",)):
            spans = ClientSpans(tracer, "tasks", kinds)
            spans.received(0, 1.0)
            spans.received(3, 0.25)
    poll, _ = exporter.get_finished_spans()

    assert (poll.name, poll.kind, poll.parent) == ("receive tasks", SpanKind.CLIENT, None)
    assert (poll.end_time or 0) - (poll.start_time or 0) == 250_000_000
    assert dict(poll.attributes or {}) == {
        "messaging.system": "aws_sqs",
        "messaging.destination.name": "tasks",
        "messaging.operation.name": "receive",
        "messaging.operation.type": "receive",
        "messaging.batch.message_count": 3,
    }


@pytest.mark.parametrize("stage", ["settle"], indirect=True)
@pytest.mark.parametrize(("order", "name"), [({}, "ack tasks"), ({"later": True}, "nack tasks")])
async def test_settling_belongs_to_the_message(
    stage: Stage, order: dict[str, Any], name: str
) -> None:
    """A delete and a change of visibility are children of the process span."""
    await handle(stage, **order)
    spans = {span.name: span for span in stage.spans}
    settled, process = spans[name], spans["process tasks"]

    assert_one_trace(stage.spans)
    assert settled.kind is SpanKind.CLIENT
    assert settled.parent is not None
    assert process.context is not None
    assert settled.parent.span_id == process.context.span_id
    attributes = dict(settled.attributes or {})
    assert attributes["messaging.operation.type"] == "settle"
    assert attributes["messaging.operation.name"] == name.split()[0]
    assert attributes["messaging.message.id"] == (process.attributes or {})["messaging.message.id"]


def test_another_name_stops_the_start() -> None:
    """By the variable's name."""
    with pytest.raises(ConfigurationError, match="TRACEBATON_QUEUE_SPANS"):
        Settings.load({"TRACEBATON_QUEUE_SPANS": "receive,send"})

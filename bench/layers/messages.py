"""
Deliver messages without a broker: ``python messages.py SUBJECT MESSAGES``.

A delivery is everything between receive and settle: read, extract, attach, process span, check,
handler, log lines. Ten are in hand at once, as in a worker. CPU is the whole process's until
everything is flushed; `median_us` is one delivery's time when nothing else runs.
"""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from statistics import median
from typing import Any

from pydantic import BaseModel
from subjects import OTLP, SENTRY, SINK, Flush, nothing, otlp_batch, sdk

Deliver = Callable[[int], Awaitable[object]]

IN_HAND = 10
WARM_UP = 200


class Order(BaseModel):
    """The data of a task."""

    item_id: str
    amount: int


async def handler(order: Order) -> int:
    """Do as little as a handler can."""
    return order.amount


def envelope(*, sampled: bool) -> tuple[str, dict[str, str]]:
    """Return body and attributes of a message as our producer sends it."""
    traceparent = f"00-{'4bf92f3577b34da6a3ce929d0e0e4736'}-00f067aa0ba902b7-0{int(sampled)}"
    baggage = "tracebaton.correlation_id=4bf92f3577b34da6a3ce929d0e0e4736,tracebaton.user_id=ann"
    carrier = {"traceparent": traceparent, "baggage": baggage}
    event = {
        "specversion": "1.0",
        "id": "0190f5e6-7a4b-7c3d-8e2f-123456789abc",
        "source": "/shop-api",
        "type": "order.place",
        "time": "2026-11-26T10:00:00Z",
        "datacontenttype": "application/json",
        "schemaversion": "1",
        "correlationid": "4bf92f3577b34da6a3ce929d0e0e4736",
        "userid": "ann",
        **carrier,
        "data": {"item_id": "book-17", "amount": 3},
    }
    return json.dumps(event), carrier


def by_hand() -> tuple[Deliver, Flush]:
    """The SDK's own extract and a CONSUMER span with its attributes, and nothing else."""
    from opentelemetry import propagate, trace

    provider = sdk(otlp_batch())
    tracer = trace.get_tracer("shop")
    body, carrier = envelope(sampled=True)

    async def deliver(number: int) -> object:
        context = propagate.extract(carrier)
        attributes: dict[str, Any] = {
            "messaging.system": "aws_sqs",
            "messaging.destination.name": "orders",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.message.id": str(number),
            "messaging.message.body.size": len(body),
        }
        kind = trace.SpanKind.CONSUMER
        with tracer.start_as_current_span("process", context, kind, attributes):
            return await handler(Order.model_validate(json.loads(body)["data"]))

    return deliver, provider.shutdown


def ours(
    variables: Mapping[str, str], *, log: bool = True, sampled: bool = True
) -> tuple[Deliver, Flush]:
    """Our delivery."""
    from tracebaton import configure_logging, configure_telemetry
    from tracebaton.queue.lease import Lease
    from tracebaton.queue.message import Received
    from tracebaton.queue.sqs import Queue, Sqs, SqsAccess
    from tracebaton.queue.worker import Worker
    from tracebaton.settings import Settings
    from tracebaton.tasks import Registry, TaskType

    environment = {"OTEL_METRICS_EXPORTER": "none", **variables}
    telemetry = configure_telemetry(Settings.load(environment), role="worker")
    if log:
        stream = tempfile.TemporaryFile("w+")  # noqa: SIM115
        configure_logging(service="shop", pretty=False, stream=stream)
    registry = Registry()
    registry.add(TaskType(name="order.place", model=Order, handler=handler))
    # Nobody is called: a worker that does not run is asked how it would deliver.
    sqs = Sqs(SqsAccess(endpoint=SINK, region="us-east-1", anonymous=True))
    worker = Worker(
        sqs,
        Queue(sqs, url=f"{SINK}/000000000000/orders"),
        registry=registry,
        store=None,
        tracer=telemetry.tracer,
        propagator=telemetry.propagator,
        reporter=telemetry.reporter,
        concurrency=IN_HAND,
    )
    delivery = worker.delivery("orders")
    body, attributes = envelope(sampled=sampled)

    async def deliver(number: int) -> object:
        message = Received(
            message_id=f"00000000-0000-0000-0000-{number:012d}",
            receipt_handle=str(number),
            body=body,
            attributes=attributes,
            system={"ApproximateReceiveCount": "1", "SentTimestamp": "1795687200000"},
        )
        lease = Lease(message, received_at=time.monotonic(), visibility=60.0)
        verdict = await delivery.run(lease)
        if verdict.action != "delete":
            raise SystemExit(f"a verdict that was not expected: {verdict}")
        return verdict

    return deliver, lambda: telemetry.shutdown(30)


def direct() -> tuple[Deliver, Flush]:
    """The handler alone, its data validated."""
    body, _ = envelope(sampled=True)

    async def deliver(number: int) -> object:
        return await handler(Order.model_validate(json.loads(body)["data"]))

    return deliver, nothing


OFF = {"OTEL_SDK_DISABLED": "true"}
SUBJECTS: dict[str, Callable[[], tuple[Deliver, Flush]]] = {
    "handler": direct,
    "by-hand": by_hand,
    "ours-off-silent": lambda: ours(OFF, log=False),
    "ours-off": lambda: ours(OFF),
    "ours-unsampled": lambda: ours(OTLP, sampled=False),
    "ours": lambda: ours(OTLP),
    "ours-sentry-otlp": lambda: ours({**SENTRY, "TRACEBATON_SENTRY_MODE": "otlp"}),
    "ours-sentry": lambda: ours(SENTRY),
    "ours-sentry-unsampled": lambda: ours(SENTRY, sampled=False),
}


async def measure(name: str, count: int) -> dict[str, float]:
    deliver, flush = SUBJECTS[name]()
    spent = []
    for number in range(WARM_UP):
        started = time.perf_counter()
        await asyncio.create_task(deliver(number))  # type: ignore[arg-type]
        spent.append(time.perf_counter() - started)
    numbers = iter(range(count))

    async def slot() -> None:
        for number in numbers:
            await asyncio.create_task(deliver(number))  # type: ignore[arg-type]

    cpu = time.process_time()
    await asyncio.gather(*(slot() for _ in range(IN_HAND)))
    await asyncio.to_thread(flush)
    return {
        "median_us": median(spent) * 1e6,
        "cpu_us": (time.process_time() - cpu) / count * 1e6,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(sys.argv[1], int(sys.argv[2])))))

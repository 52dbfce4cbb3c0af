"""Somebody else's Starlette app and worker loop, each with one layer of tracebaton."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypedDict

from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tracebaton import (
    Producer,
    Settings,
    Worker,
    audited,
    configure_logging,
    configure_telemetry,
    current,
    instrument,
)
from tracebaton.queue.sqs import Queue, Sqs, SqsAccess
from tracebaton.tasks import Registry, TaskType


class Order(BaseModel):
    """What is ordered."""

    item: str


@audited
class Packing:
    """A service that knows neither request nor message."""

    async def pack(self, order: Order) -> str:
        """Pack it for whoever asked."""
        return f"{order.item} for request {current().correlation_id}"


packing = Packing()
registry = Registry()
registry.add(TaskType(name="order.pack", model=Order, handler=packing.pack))


class State(TypedDict):
    """What the app's lifespan brings."""

    producer: Producer


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[State]:
    """Set up telemetry and logging, and a producer for the queue of the settings."""
    settings = Settings.load()
    telemetry = configure_telemetry(settings, role="api")
    configure_logging(service="shop", also=telemetry.log_handler)
    sqs = Sqs(SqsAccess.of(settings))
    try:
        yield {"producer": Producer(sqs, Queue(sqs, url=settings.queue_url), registry=registry)}
    finally:
        await sqs.close()
        telemetry.shutdown(5)


async def order(request: Request) -> JSONResponse:
    """Hand the work to the worker."""
    producer: Producer = request.state.producer
    task = await producer.enqueue("order.pack", Order.model_validate_json(await request.body()))
    return JSONResponse({"task_id": task.id}, status_code=202)


app = instrument(Starlette(routes=[Route("/orders", order, methods=["POST"])], lifespan=lifespan))


async def work() -> None:
    """Run a worker without a task store until SIGTERM or SIGINT."""
    settings = Settings.load()
    telemetry = configure_telemetry(settings, role="worker")
    configure_logging(service="packing", also=telemetry.log_handler)
    sqs = Sqs(SqsAccess.of(settings))
    worker = Worker(sqs, Queue(sqs, url=settings.queue_url), registry=registry)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, worker.stop)
    await worker.run()
    await sqs.close()
    telemetry.shutdown(5)


if __name__ == "__main__":
    asyncio.run(work())

"""An existing FastAPI app that adopts tracebaton: one line for the requests, one for the tasks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from pydantic import BaseModel

from tracebaton import Tracebaton, configure_logging, current

tasks = Tracebaton()


class Order(BaseModel):
    """What is ordered."""

    item: str


@tasks.task("order.pack", model=Order, deadline=30)
async def pack(order: Order) -> dict[str, str | None]:
    """Run in the worker, with the ids of the request that sent it."""
    return {"packed": order.item, "for_request": current().correlation_id}


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Start and stop tracebaton with the app."""
    async with tasks.running() as runtime:
        configure_logging(service=runtime.service_name)
        yield


app = FastAPI(lifespan=lifespan)
tasks.instrument(app)


@app.post("/orders", status_code=202)
async def order(order: Order) -> dict[str, str | None]:
    """Hand the work to the worker."""
    task = await tasks.enqueue("order.pack", order)
    return {"task_id": task.id, "correlation_id": current().correlation_id}

"""What a type checker says of the public names; checked by mypy, never run."""

from collections.abc import Awaitable, Callable
from typing import assert_type

from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request

from tracebaton import (
    Batch,
    Reject,
    RequestStore,
    RetryLater,
    RetryPolicy,
    Task,
    Tracebaton,
    current,
    current_lease,
    instrument,
    progress,
)
from tracebaton.testing import Stage


class Order(BaseModel):
    """Data of a task."""

    item: str


app = Tracebaton()


@app.task("order", model=Order, deadline=30)
async def pack(order: Order) -> str:
    """Keep its own type under the decorator."""
    return order.item


@app.task("orders", model=Order, batch=25, retry=RetryPolicy(base_seconds=2))
async def pack_all(orders: Batch[Order]) -> list[str | Exception]:
    """Get several at once, with what each of them stands in."""
    with orders.entered(0):
        assert_type(orders[0], Order)
        assert_type(orders.stores[0], RequestStore)
        assert_type(orders.leases[0].lost, bool)
    return [Reject("no") if order.item == "no" else order.item for order in orders]


@app.route("/orders", methods=["POST"])
async def submit(request: Request) -> Task:
    """Return a task."""
    order = await app.body(request, Order)
    assert_type(order, Order)
    task = await app.enqueue("order", order)
    assert_type(task, Task)
    return task


@app.route("/prices", methods=["POST"], model=Order)
def price(request: Request, order: Order) -> dict[str, str]:
    """Get the body as a model."""
    return {"item": order.item}


async def checks() -> None:
    """Pin the types."""
    assert_type(await pack(Order(item="book")), str)
    assert_type(current(), RequestStore)
    assert_type(current().correlation_id, str | None)
    assert_type(current().attempt, int | None)
    assert_type(progress(40, "half way"), Awaitable[None])
    if (lease := current_lease()) is not None:
        assert_type(lease.deadline, float)
    assert_type(app.asgi, Starlette)
    assert_type(instrument(app.asgi), Starlette)
    async with Stage(app) as stage:
        assert_type(stage, Stage)
        assert_type(await stage.task("t"), Task)
    raise RetryLater(delay=3) from Reject("no")


handler: Callable[[Order], Awaitable[str]] = pack

"""The application that the acceptance tests run: it can succeed, fail and hang."""

import asyncio
import time

from opentelemetry import trace
from pydantic import BaseModel

from tracebaton import Reject, Tracebaton, current

app = Tracebaton()


class Order(BaseModel):
    """What the tests order."""

    item: str = "book"
    seconds: float = 0.0


@app.task("order", model=Order)
async def order(data: Order) -> dict[str, str | None]:
    """Do what the item says."""
    if data.item == "poison":
        raise LookupError("nobody sells poison")
    if data.item == "closed":
        raise Reject("The shop is closed.")
    with trace.get_tracer("shop").start_as_current_span("pack"):
        await asyncio.sleep(data.seconds)
    store = current()
    return {"correlation_id": store.correlation_id, "user_id": store.user_id}


@app.task("slow", model=Order)
def slow(data: Order) -> str:
    """Block a thread."""
    time.sleep(data.seconds)
    return "done"


@app.route("/orders/{kind}", methods=["POST"])
async def submit(request):  # type: ignore[no-untyped-def]
    """Enqueue an order, or fail in the API."""
    if request.path_params["kind"] == "broken":
        raise ZeroDivisionError("the till is broken, password=hunter2")
    return await app.enqueue(request.path_params["kind"], await app.body(request, Order))


@app.route("/whoami")
async def whoami(request):  # type: ignore[no-untyped-def]
    """Tell what the request store says, after giving other requests a chance to mix it up."""
    before = current()
    await asyncio.sleep(0.001)
    after = await asyncio.to_thread(current)
    return {
        "same": before == after,
        "correlation_id": after.correlation_id,
        "user_id": after.user_id,
        "trace_id": trace.format_trace_id(trace.get_current_span().get_span_context().trace_id),
    }

"""The application of the error table: each route fails in its own way."""

from collections.abc import AsyncIterator
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from tracebaton import Tracebaton
from tracebaton.http.body import read_json

app = Tracebaton()


class Order(BaseModel):
    """What the table orders."""

    item: str
    amount: int = 1


@app.task("order", model=Order)
async def order(data: Order) -> None:
    """Do nothing: no worker runs."""


@app.route("/crash")
async def crash(request: Request) -> Response:
    """Fail on the event loop."""
    raise LookupError("the till is broken, password=hunter2")


@app.route("/crash-in-thread")
def crash_in_thread(request: Request) -> Response:
    """Fail in a thread."""
    raise LookupError("the till is broken, password=hunter2")


@app.route("/events")
async def events(request: Request) -> Response:
    """Fail in an event stream that has begun."""
    return StreamingResponse(_failing(), media_type="text/event-stream")


@app.route("/download")
async def download(request: Request) -> Response:
    """Fail in a body that has begun and that cannot say so."""
    return StreamingResponse(_failing(), media_type="application/octet-stream")


@app.route("/slow", methods=["POST"])
async def slow(request: Request) -> Any:
    """Wait for a body not as long as the default of 30 seconds."""
    return JSONResponse(await read_json(request, timeout=0.3))


async def _failing() -> AsyncIterator[bytes]:
    yield b"data: begun\n\n"
    raise LookupError("the till is broken, password=hunter2")

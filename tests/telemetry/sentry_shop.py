"""The application whose telemetry the tests read at Sentry's end: it fails in every place."""

import asyncio
import logging
import threading
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import boto3
import httpx
import requests
import sentry_sdk
import urllib3
from botocore.config import Config
from botocore.parsers import ResponseParserError
from opentelemetry import baggage, trace
from pydantic import BaseModel
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route

from tracebaton import Tracebaton, TracebatonError

# Before telemetry is built, as modules do: it belongs to no request and no message.
sentry_sdk.set_tag("module", "leak")
sentry_sdk.add_breadcrumb(message="leak")

app = Tracebaton()
log = logging.getLogger("shop")
tracer = trace.get_tracer("shop")


class SoldOut(TracebatonError):
    """Nothing is left of it."""

    code = "sold_out"
    retryable = False


class Order(BaseModel):
    """What the tests order."""

    number: int = 0
    fails: bool = False
    seconds: float = 0.0


def mark(number: int) -> None:
    """Leave on every scope of Sentry what must not be found in another unit."""
    if number % 2:
        sentry_sdk.set_tag("number", str(number))
        sentry_sdk.set_user({"id": f"user-{number}"})
        log.warning("crumb %s", number)


@app.task("order", model=Order)
async def order(data: Order) -> dict[str, Any]:
    """Tell when it ran and what came with it."""
    began = time.time()
    mark(data.number)
    await asyncio.sleep(data.seconds)
    with tracer.start_as_current_span("gen_ai.chat", attributes={"gen_ai.operation.name": "chat"}):
        pass
    if data.fails:
        raise SoldOut(f"order {data.number}")
    return {"began": began, "baggage": dict(baggage.get_all())}


@app.task("pack", model=Order)
def pack(data: Order) -> None:
    """Do the same in a thread."""
    mark(data.number)
    time.sleep(data.seconds)
    if data.fails:
        raise SoldOut(f"pack {data.number}")


@app.task("rare", model=Order, sample_rate=0.0)
async def rare(data: Order) -> None:
    """Follow whatever the head decided."""


@app.task("always", model=Order)
async def always(data: Order) -> None:
    """Be kept where there is no head."""


@app.foreign
def by_kind(message: Any) -> str:
    """Take plain JSON that names its type."""
    return str(message.data["kind"])


@app.route("/orders/{kind}", methods=["POST"])
async def submit(request: Any) -> Any:
    """Enqueue a task."""
    delay = int(request.query_params.get("delay", 0))
    data = await app.body(request, Order)
    return await app.enqueue(request.path_params["kind"], data, delay_seconds=delay)


@app.route("/half/{kind}", methods=["POST"], sample_rate=0.5)
async def submit_half(request: Any) -> Any:
    """Enqueue a task, with a rate of its own."""
    return await app.enqueue(request.path_params["kind"], await app.body(request, Order))


@app.route("/units/{number:int}")
async def unit(request: Any) -> Any:
    """Fail with or without marks."""
    mark(request.path_params["number"])
    await asyncio.sleep(0.01)
    raise LookupError(f"unit {request.path_params['number']}")


@app.route("/broken")
async def broken(request: Any) -> Any:
    """Fail once, and be told of by everyone on the way."""
    try:
        raise ZeroDivisionError("the till is broken")
    except ZeroDivisionError as exc:
        log.exception("handler.failed")
        trace.get_current_span().record_exception(exc)
        await asyncio.create_task(captured(exc))
        await asyncio.to_thread(sentry_sdk.capture_exception, exc)
        thread = threading.Thread(target=sentry_sdk.capture_exception, args=(exc,))
        thread.start()
        thread.join()
        raise


async def captured(exc: BaseException) -> None:
    """Report it from another task."""
    sentry_sdk.capture_exception(exc)


@app.route("/unsampled", sample_rate=0.0)
async def unsampled(request: Any) -> Any:
    """Fail in a trace that is not kept."""
    raise LookupError("not kept")


@app.route("/background")
async def background(request: Any) -> Any:
    """Fail after the answer."""
    return PlainTextResponse("fine", background=BackgroundTask(fail, "background"))


@app.route("/stream")
async def stream(request: Any) -> Any:
    """Fail in the middle of the answer."""

    async def parts() -> AsyncIterator[str]:
        yield "first"
        await fail("stream")

    return StreamingResponse(parts())


async def fail(where: str) -> None:
    """Fail."""
    raise ConnectionResetError(where)


@app.route("/calls/{client}")
async def calls(request: Any) -> Any:
    """Call a URL with one of the libraries."""
    url = request.query_params["url"]
    await asyncio.to_thread(CLIENTS[request.path_params["client"]], url)
    return PlainTextResponse("called")


def call_botocore(url: str) -> None:
    """Ask another service of AWS, whose answer is none."""
    config = Config(retries={"total_max_attempts": 1})
    known = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "eu-west-1"}
    client = boto3.client("sts", endpoint_url=url, config=config, **known)
    with suppress(KeyError, ResponseParserError):
        client.get_caller_identity()


CLIENTS = {
    "httpx": httpx.get,
    "requests": requests.get,
    "urllib3": lambda url: urllib3.request("GET", url),
    "urllib": lambda url: urllib.request.urlopen(url).read(),
    "botocore": call_botocore,
}


async def job(request: Any) -> Any:
    """Answer below a mount."""
    return JSONResponse({"job": request.path_params["job_id"]})


app.asgi.router.routes.append(
    Mount("/v1", routes=[Mount("/shop", routes=[Route("/jobs/{job_id}", job, methods=["POST"])])])
)

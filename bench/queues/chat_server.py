"""
Serve ``POST /v1/ai/chat`` by uvicorn: ``python chat_server.py ours|bare`` prints its port.

``bare`` is what people write first: a Starlette endpoint that sends by boto3 in the thread pool.
``ours`` is served as `tracebaton api` serves it: by the same server and on the same loop.
"""

import asyncio
import json
import os
import socket
import sys
import time
from typing import Any
from urllib.parse import urlsplit

import uvicorn


def bare() -> Any:
    """Return the endpoint alone."""
    import boto3
    from botocore.config import Config
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    # As many connections as the thread pool has threads, or urllib3 throws some away.
    sqs = boto3.client(
        *("sqs",),
        endpoint_url=os.environ["BENCH_ENDPOINT"],
        config=Config(max_pool_connections=40),
    )
    url = os.environ["BENCH_QUEUE"]

    async def chat(request: Request) -> JSONResponse:
        body = json.dumps(await request.json())
        sent = await run_in_threadpool(sqs.send_message, QueueUrl=url, MessageBody=body)
        return JSONResponse({"id": sent["MessageId"]}, status_code=202)

    return Starlette(routes=[Route("/v1/ai/chat", chat, methods=["POST"])])


def ours() -> Any:
    """Return the worked example, whole."""
    from tracebaton.examples.chat import app

    runtime = app.runtime("api")
    runtime.configure_logging()
    return app.asgi


def main(name: str) -> None:
    """Serve until SIGTERM."""
    out = os.dup(1)
    if name == "ours":  # its log lines go nowhere, but they are written
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    app = {"bare": bare, "ours": ours}[name]()

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/_cpu":
            body = str(time.process_time()).encode()
            headers = [(b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        await app(scope, receive, send)

    {"bare": as_it_comes, "ours": as_the_command}[name](outer, out)


def as_the_command(app: Any, out: int) -> None:
    """Serve *app* as `tracebaton api` does, until a signal comes."""
    from tracebaton.cli import loop
    from tracebaton.processes import on_signals, serving

    async def serve() -> None:
        stop = asyncio.Event()
        on_signals(stop.set)
        async with serving(app, host="127.0.0.1", port=0) as (url, _):
            os.write(out, f"{urlsplit(url).port}\n".encode())
            await stop.wait()

    loop.run(serve(), fast=True)


def as_it_comes(app: Any, out: int) -> None:
    """Serve *app* by uvicorn as it comes, on the loop that it chooses."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    os.write(out, f"{listener.getsockname()[1]}\n".encode())
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="on")
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(sys.argv[1])

"""
Serve tasks by uvicorn: ``python served.py ours|bare PROCESSES`` prints where, and for whom.

``ours`` is an application as the README shows it, with API keys and SQLite. ``bare`` is what
people write first: Starlette with the stock instrumentation, boto3 in the thread pool, rows of one
SQLite table. One line of JSON tells the port, the key, and the tasks that are there.
"""

import asyncio
import json
import os
import signal
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn

#: Tasks that are there before anybody asks.
TASKS = 1_000
ITEM = {"message": "lorem ipsum dolor sit amet " * 10}


def bare(folder: Path) -> Any:
    """Return the application without ours."""
    import boto3
    from botocore.config import Config
    from opentelemetry import propagate, trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    tracer = trace.get_tracer("bench")
    # As many connections as the thread pool has threads, or urllib3 throws some away.
    sqs = boto3.client(
        *("sqs",),
        endpoint_url=os.environ["BENCH_ENDPOINT"],
        config=Config(max_pool_connections=40),
    )
    url, local = os.environ["BENCH_QUEUE"], threading.local()

    def connection() -> sqlite3.Connection:
        if not hasattr(local, "connection"):
            local.connection = sqlite3.connect(folder / "bare.db", check_same_thread=False)
            local.connection.row_factory = sqlite3.Row
        found: sqlite3.Connection = local.connection
        return found

    def send(body: str) -> str:
        with tracer.start_as_current_span("send bench", kind=trace.SpanKind.PRODUCER):
            carrier: dict[str, str] = {}
            propagate.inject(carrier)
            attributes: Any = {
                name: {"DataType": "String", "StringValue": value}
                for name, value in carrier.items()
            }
            sent = sqs.send_message(QueueUrl=url, MessageBody=body, MessageAttributes=attributes)
        return str(sent["MessageId"])

    async def submit(request: Request) -> Response:
        body = json.dumps(await request.json())
        return JSONResponse({"id": await run_in_threadpool(send, body)}, status_code=202)

    def show(request: Request) -> Response:
        query = "SELECT * FROM tasks WHERE id = ?"
        row = connection().execute(query, (request.path_params["id"],)).fetchone()
        return JSONResponse(dict(row))

    def index(request: Request) -> Response:
        query = "SELECT * FROM tasks ORDER BY created_at DESC LIMIT ?"
        rows = connection().execute(query, (int(request.query_params["limit"]),)).fetchall()
        return JSONResponse({"tasks": [dict(row) for row in rows]})

    def events(request: Request) -> Response:
        def frames() -> Iterator[bytes]:
            query = "SELECT * FROM tasks WHERE id = ?"
            row = connection().execute(query, (request.path_params["id"],)).fetchone()
            data = json.dumps(dict(row))
            for number in range(1, 5):
                yield f"id: {number}\nevent: status\ndata: {data}\n\n".encode()

        return StreamingResponse(frames(), media_type="text/event-stream")

    app = Starlette(
        routes=[
            Route("/v1/tasks", index),
            Route("/v1/tasks/chat", submit, methods=["POST"]),
            Route("/v1/tasks/{id}", show),
            Route("/v1/tasks/{id}/events", events),
        ]
    )
    # One span a request, as ours makes: with the stock spans of each send it would be slower.
    app.add_middleware(OpenTelemetryMiddleware, exclude_spans=["send", "receive"])
    return app


def ours(folder: Path) -> Any:
    """Return an application of ours."""
    from pydantic import BaseModel

    from tracebaton import Tracebaton

    class Chat(BaseModel):
        message: str

    app = Tracebaton()

    @app.task("chat", model=Chat)
    async def chat(data: Chat) -> None:
        """Nobody works here."""

    app.runtime("api").configure_logging()
    return app.asgi


async def filled(folder: Path, *, ended: bool) -> list[str]:
    """Let both stores have the same tasks and return their ids."""
    from tracebaton.tasks import Task, TaskStatus
    from tracebaton.tasks.sqlite import SqliteTaskStore

    store, ids = SqliteTaskStore(folder / "tasks.db"), []
    for number in range(TASKS if ended else int(os.environ["BENCH_LISTENERS"])):
        now = time.time()
        task = Task(
            id=f"{number:032x}",
            type="chat",
            user_id="alice",
            correlation_id=f"{number:032x}",
            trace_id=f"{number:032x}",
            created_at=now,
            updated_at=now,
        )
        await store.create(task)
        if ended:
            await store.start(task.id, attempt=1)
            await store.finish(task.id, TaskStatus.SUCCEEDED, attempt=1, result=ITEM)
        ids.append(task.id)
    await store.close()
    with sqlite3.connect(folder / "tasks.db") as file:
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with sqlite3.connect(folder / "bare.db") as file:
        file.execute("PRAGMA journal_mode = WAL")
        file.execute("ATTACH ? AS ours", (str(folder / "tasks.db"),))
        file.execute("CREATE TABLE tasks AS SELECT * FROM ours.tasks")
        file.execute("CREATE UNIQUE INDEX by_id ON tasks (id)")
        file.execute("CREATE INDEX by_time ON tasks (created_at)")
    return ids


def main(name: str, processes: int) -> None:
    """Serve until SIGTERM."""
    folder = Path(os.environ["BENCH_FOLDER"])
    from tracebaton.http.keys import create_key

    key = create_key(folder / "keys.json", "alice")
    ids = asyncio.run(filled(folder, ended="BENCH_LISTENERS" not in os.environ))
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    told = {"port": listener.getsockname()[1], "key": key, "ids": ids}
    out = os.dup(1)
    if name == "ours":  # its log lines go nowhere, but they are written
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    first = all(os.fork() for _ in range(processes - 1))
    app = {"bare": bare, "ours": ours}[name](folder)
    if first:
        os.write(out, json.dumps(told).encode() + b"\n")
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="on")
    uvicorn.Server(config).run(sockets=[listener])
    if first and processes > 1:
        os.killpg(0, signal.SIGTERM)  # whoever ended this one knows nothing of the other


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

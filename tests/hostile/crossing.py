"""
An API, its worker and their clients in one process, as many at once as there is room for.

Each client has a case of its own, named in its path, its tags, its breadcrumbs, its log lines and
its spans. Whoever looks at the sinks can tell whether anything of one case is found in another's.
Run by `test_hostile_isolation.py`.
"""

import asyncio
import contextlib
import contextvars
import json
import logging
import os
import random
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import sentry_sdk
from opentelemetry import context as otel
from opentelemetry import trace
from pydantic import BaseModel
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from tracebaton import Reject, Tracebaton, current
from tracebaton.http.keys import create_key
from tracebaton.local import LocalSqs

USERS = 5
#: Clients that are under way at once.
CROWD = 48

app = Tracebaton()
_log = logging.getLogger("crossing")
_pool = ThreadPoolExecutor(4)
#: Contexts of requests that are over, or not yet.
_earlier: deque[contextvars.Context] = deque(maxlen=30)


class Work(BaseModel):
    """What a message asks for."""

    case: str
    way: str


class Broken(RuntimeError):
    """What fails on purpose."""


def say(case: str, place: str) -> None:
    """Leave the mark of *case* in every sink, and compare the store with what it has to be."""
    store, user = current(), case.split("_")[1]
    if store.user_id != user:
        _log.error("mixed", extra={"fields": {"case": case, "place": place, "store": str(store)}})
    fields = {"case": case, "place": place, "user": store.user_id}
    _log.info("step", extra={"fields": fields})
    with trace.get_tracer("crossing").start_as_current_span(f"step {place}") as span:
        span.set_attribute("case", case)
    sentry_sdk.set_tag("case", case)
    sentry_sdk.get_current_scope().set_tag("current", case)
    sentry_sdk.add_breadcrumb(message=f"crumb {case}")
    sentry_sdk.set_user({"id": user, "username": case})


async def steps(case: str) -> None:
    """Say it here, after others had their turn, in a child task and in threads."""
    say(case, "begin")
    await asyncio.sleep(random.random() / 200)
    say(case, "later")
    _earlier.append(contextvars.copy_context())
    await asyncio.create_task(_child(case))
    await asyncio.to_thread(say, case, "thread")
    here = otel.get_current()
    await asyncio.get_running_loop().run_in_executor(_pool, _attached, here, case)


async def _child(case: str) -> None:
    await asyncio.sleep(0)
    say(case, "child")


def _attached(context: otel.Context, case: str) -> None:
    token = otel.attach(context)
    try:
        say_span_only(case)
    finally:
        otel.detach(token)


def say_span_only(case: str) -> None:
    """As `say()`, where Sentry's scope does not reach: a thread of the application's own."""
    if current().user_id != case.split("_")[1]:
        _log.error("mixed", extra={"fields": {"case": case, "place": "executor"}})
    _log.info("step", extra={"fields": {"case": case, "place": "executor"}})


def _seen(case: str) -> dict[str, Any]:
    store = current()
    return {"case": case, "user_id": store.user_id, "correlation_id": store.correlation_id}


@app.route("/plain/{case}")
async def plain(request: Request) -> Response:
    """Answer after a while."""
    case = request.path_params["case"]
    await steps(case)
    return JSONResponse(_seen(case))


@app.route("/sync/{case}")
def sync(request: Request) -> Response:
    """Answer from a thread."""
    case = request.path_params["case"]
    say(case, "sync")
    time.sleep(random.random() / 500)
    say(case, "sync later")
    return JSONResponse(_seen(case))


@app.route("/raise/{case}")
async def fail(request: Request) -> Response:
    """Fail, sometimes deep inside."""
    case = request.path_params["case"]
    await steps(case)
    raise Broken(f"broken {case}")


@app.route("/raise-sync/{case}")
def fail_in_thread(request: Request) -> Response:
    """Fail in a thread."""
    case = request.path_params["case"]
    say(case, "sync")
    raise Broken(f"broken {case}")


@app.route("/timeout/{case}")
async def time_out(request: Request) -> Response:
    """Give up on something slow."""
    case = request.path_params["case"]
    say(case, "begin")
    try:
        async with asyncio.timeout(0.003):
            await asyncio.sleep(10)
    except TimeoutError:
        say(case, "timed out")
    return JSONResponse(_seen(case))


@app.route("/stream/{case}")
async def stream(request: Request) -> Response:
    """Stream, with a span held open between the chunks."""
    case = request.path_params["case"]

    async def chunks() -> AsyncIterator[bytes]:
        with trace.get_tracer("crossing").start_as_current_span("streaming") as span:
            span.set_attribute("case", case)
            for _ in range(4):
                await asyncio.sleep(random.random() / 500)
                say(case, "chunk")
                yield json.dumps(_seen(case)).encode() + b"\n"

    return StreamingResponse(chunks())


@app.route("/stream-sync/{case}")
async def stream_sync(request: Request) -> Response:
    """Stream from a generator that runs in threads."""
    case = request.path_params["case"]

    def chunks() -> Iterator[bytes]:
        for _ in range(3):
            say(case, "sync chunk")
            yield json.dumps(_seen(case)).encode() + b"\n"

    return StreamingResponse(chunks())


@app.route("/stream-fail/{case}")
async def stream_fail(request: Request) -> Response:
    """Break in the middle of a stream."""
    case = request.path_params["case"]

    async def chunks() -> AsyncIterator[bytes]:
        say(case, "chunk")
        yield json.dumps(_seen(case)).encode() + b"\n"
        await asyncio.sleep(0)
        raise Broken(f"broken {case}")

    return StreamingResponse(chunks(), media_type="text/event-stream")


@app.route("/background/{case}")
async def background(request: Request) -> Response:
    """Go on after the answer, and sometimes fail there."""
    case = request.path_params["case"]
    say(case, "before")

    async def later() -> None:
        await steps(case)
        if random.random() < 0.3:
            raise Broken(f"broken {case}")

    return JSONResponse(_seen(case), background=BackgroundTask(later))


@app.route("/enqueue/{way}/{case}")
async def enqueue(request: Request) -> Any:
    """Hand over to the worker."""
    case, way = request.path_params["case"], request.path_params["way"]
    say(case, "enqueue")
    await app.enqueue("async" if way != "sync" else "sync", {"case": case, "way": way})
    return JSONResponse(_seen(case))


@app.task("async", model=Work, deadline=0.5)
async def work(data: Work) -> None:
    """Do what the message says."""
    await steps(data.case)
    if data.way == "raise":
        raise Broken(f"broken {data.case}")
    if data.way == "reject":
        raise Reject("not today")
    if data.way == "hang":
        await asyncio.sleep(10)


@app.task("sync", model=Work)
def work_in_thread(data: Work) -> None:
    """Do it in a thread."""
    say(data.case, "worker thread")


_WAYS = (
    "plain",
    "sync",
    "raise",
    "raise-sync",
    "timeout",
    "stream",
    "stream-sync",
    "stream-fail",
    "background",
    "enqueue/ok",
    "enqueue/ok",
    "enqueue/sync",
    "enqueue/raise",
    "enqueue/reject",
    "enqueue/hang",
)
#: What a client does: reads to the end, leaves, is cancelled by its server, or sends no key.
_MANNERS = ("reads",) * 7 + ("leaves", "cancelled", "nobody")


async def client(number: int, keys: list[str]) -> None:
    """Be one client, and compare what comes back."""
    user = random.randrange(USERS)
    case = f"case{number}_user{user}"
    way, manner = random.choice(_WAYS), random.choice(_MANNERS)
    own = random.random() < 0.5
    headers = [(b"host", b"localhost")]
    if manner != "nobody":
        headers.append((b"authorization", f"Bearer {keys[user]}".encode()))
    if own:
        headers.append((b"x-correlation-id", f"id.{case}".encode()))
    status, body = await _ask(f"/{way}/{case}", headers, manner)
    if manner == "nobody":
        assert status == 401, (status, case)
    elif manner == "reads":
        for line in body.splitlines():
            document = json.loads(line) if line.startswith(b"{") else {}
            if "case" in document:
                same = (document["case"], document["user_id"]) == (case, f"user{user}")
                if not same or (own and document["correlation_id"] != f"id.{case}"):
                    _log.error("mixed", extra={"fields": {"asked": case, "got": str(document)}})


async def _ask(path: str, headers: list[tuple[bytes, bytes]], manner: str) -> tuple[int, bytes]:
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50_000),
        "scheme": "http",
        "root_path": "",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
        "state": {},
    }
    gone, status, body = asyncio.Event(), 0, b""
    patience = random.random() / 100

    async def receive() -> dict[str, Any]:
        if not asked:
            asked.append(True)
            return {"type": "http.request", "body": b"", "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status, body
        await asyncio.sleep(0)  # a socket that is busy
        if message["type"] == "http.response.start":
            status = message["status"]
        else:
            body += message.get("body", b"")
            if not message.get("more_body", False):
                gone.set()

    asked: list[bool] = []
    # A server may run a request in the context of another one (uvicorn#3158).
    dirty = random.choice(_earlier).copy() if _earlier and random.random() < 0.4 else None
    call = asyncio.create_task(_answered(scope, receive, send), context=dirty)
    if manner in ("leaves", "cancelled"):
        await asyncio.sleep(patience)
        gone.set()
        if manner == "cancelled":
            call.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.wait_for(call, 20)
    return status, body


async def _answered(scope: Any, receive: Any, send: Any) -> None:
    before = otel.get_current()
    try:
        with contextlib.suppress(Broken):  # a stream that breaks breaks its connection
            await app.asgi(scope, receive, send)
    finally:
        if otel.get_current() != before:
            _log.error("mixed", extra={"fields": {"left": str(otel.get_current())}})


async def main(cases: int, seconds: float, seed: int) -> None:
    """Run clients until *cases* are done or *seconds* are over."""
    random.seed(seed)
    folder = Path(tempfile.mkdtemp(dir=os.environ["CROSSING_FOLDER"]))
    keys = [create_key(folder / "keys.json", f"user{number}") for number in range(USERS)]
    async with LocalSqs() as sqs:
        sqs.create_queue("dlq")
        target = "arn:aws:sqs:us-east-1:000000000000:dlq"
        policy = {"deadLetterTargetArn": target, "maxReceiveCount": "1"}
        url = sqs.create_queue("tasks", {"RedrivePolicy": json.dumps(policy)})
        own = {
            "AWS_ENDPOINT_URL_SQS": sqs.url,
            "TRACEBATON_QUEUE_URL": url,
            "TRACEBATON_STORE": f"sqlite:///{folder / 'tasks.db'}",
            "TRACEBATON_AUTH": "api-key",
            "TRACEBATON_API_KEYS_FILE": str(folder / "keys.json"),
            "TRACEBATON_MAX_ATTEMPTS": "1",
            "TRACEBATON_CONCURRENCY": "20",
        }
        os.environ.update(own)
        async with app.running() as runtime:
            runtime.configure_logging()
            worker = app.worker(wait_seconds=1)
            await worker.prepare()
            working = asyncio.create_task(worker.run())
            sizes = await _crowds(cases, seconds, keys, lambda: _idle(sqs), runtime.telemetry)
            assert not working.done()
            worker.stop()
            await working
        done = sqs.stats()["tasks"]["sent"]
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    told = {
        "event": "crossing.done",
        "requests": sizes[0],
        "messages": done,
        "memory": sizes[1:],
        "left": [repr(task) for task in tasks],
        "loop": type(asyncio.get_running_loop()).__module__,
    }
    sys.stdout.write(json.dumps(told) + "\n")


def _idle(sqs: LocalSqs) -> bool:
    now = sqs.stats()["tasks"]
    return now["visible"] == now["in_flight"] == 0


async def _crowds(
    cases: int, seconds: float, keys: list[str], idle: Callable[[], bool], telemetry: Any
) -> list[int]:
    began, done, sizes = time.monotonic(), 0, list[int]()
    while done < cases and time.monotonic() - began < seconds:
        crowd = min(CROWD, cases - done)
        await asyncio.gather(*(client(done + number, keys) for number in range(crowd)))
        done += crowd
        if done % (CROWD * 8) == 0 or done >= cases:
            while not idle():
                await asyncio.sleep(0.01)
            await asyncio.to_thread(telemetry.force_flush, 20)
            sizes.append(_resident())
    return [done, *sizes]


def _resident() -> int:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


if __name__ == "__main__":
    loop_factory: Any = None
    if sys.argv[4] == "uvloop":
        import uvloop

        loop_factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))

"""Every kind of request under the old and the new HTTP conventions: one right span each."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

PROGRAM = '''
import asyncio, json, sys
import httpx
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from tracebaton import instrument

exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))

async def answer(request):
    return PlainTextResponse("ok")

async def stream(request):
    async def chunks():
        for number in range(3):
            yield f"data: {number}\\n\\n"
    return StreamingResponse(chunks(), media_type=request.query_params.get("as", "text/plain"))

async def background(request):
    async def work():
        raise LookupError("secret")
    return PlainTextResponse("ok", background=BackgroundTask(work))

async def fail(request):
    raise {"bug": LookupError("secret"), "gone": HTTPException(410), "away": HTTPException(503)}[
        request.path_params["kind"]
    ]

async def socket(websocket):
    await websocket.accept()
    await websocket.receive_text()
    await websocket.close(4001)

app = instrument(Starlette(routes=[
    Route("/items/{id:int}", answer, methods=["GET", "POST"]),
    Route("/stream", stream),
    Route("/background", background),
    Route("/fail/{kind}", fail),
    Mount("/api", routes=[Mount("/v1", routes=[Route("/{thing}", answer)])]),
    WebSocketRoute("/rooms/{room}", socket),
]), tracer_provider=provider)

async def open_socket():
    messages = iter([{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "hi"}])
    async def receive():
        return next(messages)
    async def send(message):
        pass
    scope = {"type": "websocket", "path": "/rooms/9", "raw_path": b"/rooms/9", "root_path": "",
             "query_string": b"token=c4n4ry", "headers": [], "subprotocols": [],
             "scheme": "ws", "server": ("localhost", 80)}
    await app(scope, receive, send)

async def leave():
    """Ask for a stream and be gone after its first chunk."""
    gone = asyncio.Event()
    asked = False
    async def receive():
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}
    async def send(message):
        if message["type"] == "http.response.body":
            gone.set()
            await asyncio.sleep(0)
    scope = {"type": "http", "method": "GET", "path": "/stream", "raw_path": b"/stream",
             "root_path": "", "query_string": b"", "headers": [(b"host", b"localhost")],
             "http_version": "1.1", "scheme": "http", "server": ("localhost", 80)}
    await app(scope, receive, send)

async def main():
    transport = httpx.ASGITransport(app)
    told = {}
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for method, path in CASES:
            exporter.clear()
            if method == "WEBSOCKET":
                await open_socket()
            elif method == "LEAVE":
                await leave()
            else:
                await client.request(method, path)
            told[f"{method} {path}"] = [
                [span.name, span.kind.name, dict(span.attributes), span.status.status_code.name,
                 [event.name for event in span.events]]
                for span in exporter.get_finished_spans()
            ]
    print(json.dumps(told))

CASES = json.loads(sys.argv[1])
asyncio.run(main())
'''

#: Method and path; then name, route, status and failure of the one SERVER span.
CASES: dict[tuple[str, str], tuple[str, str | None, int | None, str | None]] = {
    ("GET", "/items/7?token=c4n4ry"): ("GET /items/{id}", "/items/{id}", 200, None),
    ("POST", "/items/7"): ("POST /items/{id}", "/items/{id}", 200, None),
    ("HEAD", "/items/7"): ("HEAD /items/{id}", "/items/{id}", 200, None),
    ("OPTIONS", "/items/7"): ("OPTIONS /items/{id}", "/items/{id}", 405, None),
    ("BREW", "/items/7"): ("HTTP /items/{id}", "/items/{id}", 405, None),
    ("GET", "/nothing/here"): ("GET", None, 404, None),
    ("GET", "/api/v1/x"): ("GET /api/v1/{thing}", "/api/v1/{thing}", 200, None),
    ("GET", "/api/v2/nothing"): ("GET", None, 404, None),
    ("GET", "/stream"): ("GET /stream", "/stream", 200, None),
    ("GET", "/stream?as=text/event-stream"): ("GET /stream", "/stream", 200, None),
    ("LEAVE", "/stream"): ("GET /stream", "/stream", 200, None),
    ("GET", "/background"): ("GET /background", "/background", 200, None),
    ("GET", "/fail/gone"): ("GET /fail/{kind}", "/fail/{kind}", 410, None),
    ("GET", "/fail/away"): ("GET /fail/{kind}", "/fail/{kind}", 503, "HTTPException"),
    ("GET", "/fail/bug"): ("GET /fail/{kind}", "/fail/{kind}", 500, "LookupError"),
    ("WEBSOCKET", "/rooms/9"): ("/rooms/{room}", "/rooms/{room}", None, None),
}
OLD = {"method": "http.method", "status": "http.status_code"}
NEW = {"method": "http.request.method", "status": "http.response.status_code"}
#: Somebody's process: the variable is unset, and it was read before we could set it.
READ_BEFORE = """
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
HTTPXClientInstrumentor().instrument()
"""
#: The variable's value, which names there have to be, and which there may not.
CONVENTIONS: dict[str, tuple[list[dict[str, str]], list[dict[str, str]]]] = {
    "read before": ([OLD], [NEW]),
    "unset": ([NEW], [OLD]),
    "old": ([OLD], [NEW]),
    "http/dup": ([OLD, NEW], []),
    "http": ([NEW], [OLD]),
}


@pytest.mark.parametrize("conventions", CONVENTIONS)
def test_every_kind_of_request_is_one_right_span(conventions: str) -> None:
    """Name, kind, route, status and failure; the query nowhere; background work on its own."""
    chosen = {"OTEL_SEMCONV_STABILITY_OPT_IN": conventions}
    program = READ_BEFORE + PROGRAM if conventions == "read before" else PROGRAM
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(list(CASES))],
        env={"PATH": os.environ["PATH"]}
        | ({} if conventions in ("read before", "unset") else chosen),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, list[Any]] = json.loads(done.stdout)
    wanted, unwanted = CONVENTIONS[conventions]

    assert "c4n4ry" not in json.dumps(list(told.values()))
    for (method, path), expected in CASES.items():
        spans = told[f"{method} {path}"]
        [(name, _, attributes, status, events)] = [s for s in spans if s[1] == "SERVER"]
        code = [attributes.get(names["status"]) for names in wanted]
        verbs = {attributes.get(names["method"]) for names in wanted}

        assert (name, attributes.get("http.route")) == expected[:2], path
        assert expected[2] is None or code == [expected[2]] * len(code), path
        assert verbs == {{"BREW": "_OTHER", "LEAVE": "GET", "WEBSOCKET": None}.get(method, method)}
        assert attributes.get("error.type") == expected[3], path
        assert status == ("ERROR" if expected[3] else "UNSET"), path
        assert events == (["exception"] if expected[3] else []), path
        assert not {each for names in unwanted for each in names.values()} & set(attributes), path
        assert [s[0] for s in spans if s[1] != "SERVER"] == (
            ["GET /background background"] if path == "/background" else []
        ), path
        assert attributes.get("tracebaton.client.disconnected") == (
            True if method == "LEAVE" else None
        )
    socket = told["WEBSOCKET /rooms/9"][0][2]
    assert socket["tracebaton.websocket.close_code"] == 4001

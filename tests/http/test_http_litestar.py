"""Litestar apps of anybody's: the same span, store, line, problems and error story."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from litestar import Litestar, Request, Response, Router, WebSocket, asgi, get, post, websocket
from litestar.background_tasks import BackgroundTask
from litestar.config.cors import CORSConfig
from litestar.exceptions import HTTPException, NotFoundException
from litestar.params import FromPath, JSONBody
from litestar.plugins.opentelemetry import OpenTelemetryConfig, OpenTelemetryPlugin
from litestar.response import Stream
from opentelemetry import trace

from tracebaton.context import authenticate, current
from tracebaton.errors import QueueUnavailable
from tracebaton.http.middleware import instrument


@dataclass
class Item:
    name: str
    price: float


@get("/items/{item_id:int}", sync_to_thread=True)
def show(item_id: FromPath[int]) -> dict[str, Any]:
    authenticate("ann")
    store = current()
    return {"user_id": store.user_id, "correlation_id": store.correlation_id}


@post("/items")
async def create(data: JSONBody[Item]) -> Item:
    return data


@get("/fail/{kind:str}")
async def fail(kind: FromPath[str]) -> None:
    raise {
        "gone": HTTPException(status_code=410, detail="Sold out."),
        "own": HTTPException(status_code=503, headers={"retry-after": "9"}),
        "queue": QueueUnavailable(),
    }.get(kind, LookupError("secret"))


@get("/stream/{kind:str}")
async def stream(kind: FromPath[str]) -> Stream:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        if kind == "broken":
            raise LookupError("secret")
        yield b"data: 2\n\n"

    return Stream(chunks(), media_type="text/event-stream")


@get("/background", sync_to_thread=False)
def background() -> Response[str]:
    async def work() -> None:
        raise LookupError("secret")

    return Response("ok", background=BackgroundTask(work))


@asgi("/mounted", is_mount=True, copy_scope=True)
async def mounted(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


@websocket("/socket/{room:str}")
async def socket(socket: WebSocket[Any, Any, Any], room: FromPath[str]) -> None:
    await socket.accept()
    if room == "broken":
        raise LookupError("secret")
    await socket.send_text(str(current().correlation_id))
    await socket.close()


def shop(**options: Any) -> Litestar:
    handlers = [show, create, fail, stream, background, mounted, socket]
    return Litestar([Router("/api", route_handlers=handlers)], openapi_config=None, **options)


@pytest.fixture
def app(provider: Any, reporter: Any) -> Litestar:
    return instrument(shop(), tracer_provider=provider, reporter=reporter)


@pytest.mark.parametrize(
    ("method", "path", "status", "name"),
    [
        ("GET", "/api/items/7", 200, "GET /api/items/{item_id}"),
        ("GET", "/api/items/7/", 200, "GET /api/items/{item_id}"),
        ("POST", "/api/items", 201, "POST /api/items"),
        ("GET", "/api/stream/whole", 200, "GET /api/stream/{kind}"),
        ("GET", "/api/mounted/deep/down", 200, "GET /api/mounted"),
        ("GET", "/nothing/here", 404, "GET"),
        ("DELETE", "/api/items/7", 405, "DELETE"),
        ("BREW", "/api/items/7", 405, "HTTP"),
    ],
)
async def test_a_request_is_one_span_and_one_line(
    ask: Any, app: Litestar, spans: Any, lines: Any, method: str, path: str, status: int, name: str
) -> None:
    """Named by the whole template without converters; ids on the answer, the span and the line."""
    body = {"json": {"name": "pen", "price": 1.5}} if method == "POST" else {}
    async with ask(app) as client:
        answer = await client.request(method, path, headers={"x-correlation-id": "c-1"}, **body)
    (span,) = spans()
    (line,) = lines.of("http.request")

    assert (answer.status_code, span.name, line["status"]) == (status, name, status)
    assert answer.headers["x-correlation-id"] == line["correlation_id"] == "c-1"
    assert span.attributes["tracebaton.correlation_id"] == "c-1"
    assert span.attributes["http.response.status_code"] == status
    ids = span.context
    assert answer.headers["traceresponse"][3:52] == f"{ids.trace_id:032x}-{ids.span_id:016x}"


async def test_the_store_is_read_in_a_thread(ask: Any, app: Litestar, lines: Any) -> None:
    """A synchronous handler runs in Litestar's pool; what it authenticates is known afterwards."""
    async with ask(app) as client:
        answer = await client.get("/api/items/7", headers={"x-correlation-id": "c-1"})

    assert answer.json() == {"user_id": "ann", "correlation_id": "c-1"}
    assert lines.of("http.request")[0]["user_id"] == "ann"


@pytest.mark.parametrize(
    ("path", "status", "code", "detail", "reports"),
    [
        ("/api/fail/gone", 410, "gone", "Sold out.", 0),
        ("/api/fail/own", 503, "dependency", None, 1),
        ("/api/fail/queue", 503, "queue_unavailable", None, 1),
        ("/api/fail/bug", 500, "internal", None, 1),
        ("/nothing", 404, "not_found", None, 0),
    ],
)
async def test_errors_are_problems_and_told_once(
    ask: Any,
    app: Litestar,
    spans: Any,
    reporter: Any,
    lines: Any,
    path: str,
    status: int,
    code: str,
    detail: str | None,
    reports: int,
) -> None:
    """One mapping for answer, span, line and report, whoever raised it."""
    async with ask(app) as client:
        answer = await client.get(path)
    (span,), problem = spans(), answer.json()
    (line,) = lines.of("http.error")

    assert (answer.status_code, problem["code"], line["code"]) == (status, code, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["trace_id"] == f"{span.context.trace_id:032x}"
    assert detail is None or problem["detail"] == detail
    assert "secret" not in answer.text
    assert [report.outcome.status for report in reporter.reports] == [status] * reports
    assert span.status.is_ok is (status < 500)
    assert len([e for e in span.events if e.name == "exception"]) == (status >= 500)


async def test_a_header_of_the_exception_is_kept(ask: Any, app: Litestar) -> None:
    """Retry-After as the handler said it, Allow as Litestar says it."""
    async with ask(app) as client:
        answers = [await client.get("/api/fail/own"), await client.delete("/api/items/7")]

    assert answers[0].headers["retry-after"] == "9"
    assert "GET" in answers[1].headers["allow"]


async def test_validation_points_at_the_field(ask: Any, app: Litestar) -> None:
    """Litestar's own 400, with what is wrong where."""
    async with ask(app) as client:
        answer = await client.post("/api/items", json={"name": "pen", "price": "dear"})
    (error,) = answer.json()["errors"]

    assert answer.status_code == 400
    assert error["pointer"] == "/price"
    assert "float" in error["detail"]


async def test_the_owners_handlers_stay(ask: Any, provider: Any, reporter: Any) -> None:
    """What the app answers itself is told, and is its own answer."""

    def on_lookup(request: Request[Any, Any, Any], exc: LookupError) -> Response[str]:
        return Response("mine", status_code=418)

    def on_any(request: Request[Any, Any, Any], exc: Exception) -> Response[str]:
        return Response("any", status_code=500)

    def on_missing(request: Request[Any, Any, Any], exc: NotFoundException) -> Response[str]:
        return Response("where", status_code=404)

    handlers = {LookupError: on_lookup, 500: on_any, NotFoundException: on_missing}
    app = instrument(shop(exception_handlers=handlers), tracer_provider=provider, reporter=reporter)
    async with ask(app) as client:
        answers = [await client.get(path) for path in ("/api/fail/bug", "/nothing")]
        queue = await client.get("/api/fail/queue")

    assert [(answer.status_code, answer.text) for answer in answers] == [
        (418, "mine"),
        (404, "where"),
    ]
    assert (queue.status_code, queue.json()["code"]) == (503, "queue_unavailable")
    assert [report.outcome.status for report in reporter.reports] == [503]


async def test_plain_answers_can_be_kept(ask: Any, provider: Any, reporter: Any) -> None:
    """Litestar's own documents, told all the same."""
    app = instrument(shop(), tracer_provider=provider, reporter=reporter, problems=False)
    async with ask(app) as client:
        answer = await client.get("/api/fail/bug")

    assert answer.json() == {"status_code": 500, "detail": "Internal Server Error"}
    assert [report.outcome.code for report in reporter.reports] == ["internal"]
    assert "x-correlation-id" in answer.headers


async def test_a_stream_that_fails_ends_with_the_problem(
    ask: Any, app: Litestar, spans: Any, reporter: Any
) -> None:
    """The original exception is told, not Litestar's word for its lateness."""
    async with ask(app) as client:
        answer = await client.get("/api/stream/broken")
    (span,) = spans()

    assert 'event: error\ndata: {"type":' in answer.text
    assert [type(report.exc) for report in reporter.reports] == [LookupError]
    assert span.attributes["error.type"] == "LookupError"


async def test_a_background_task_that_fails_has_its_own_span(
    ask: Any, app: Litestar, spans: Any, reporter: Any
) -> None:
    """The answer is out; the failure is told once, under the request's ids."""
    async with ask(app) as client:
        answer = await client.get("/api/background")
    server, later = spans()

    assert (answer.status_code, answer.text) == (200, "ok")
    assert (server.name, later.name) == ("GET /api/background", "GET /api/background background")
    assert later.parent.span_id == server.context.span_id
    assert [type(report.exc) for report in reporter.reports] == [LookupError]


@pytest.mark.parametrize(("room", "code", "reports"), [("a", 1000, 0), ("broken", 4500, 1)])
async def test_a_socket_is_one_span(
    app: Litestar, spans: Any, reporter: Any, lines: Any, room: str, code: int, reports: int
) -> None:
    """Its failure is told once."""
    sent: list[dict[str, Any]] = []
    messages = iter([{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}])

    async def receive() -> dict[str, Any]:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "websocket",
        "path": f"/api/socket/{room}",
        "raw_path": b"",
        "root_path": "",
        "query_string": b"",
        "headers": [(b"x-correlation-id", b"c-1")],
        "subprotocols": [],
        "extensions": {},
    }
    await app(scope, receive, send)  # type: ignore[arg-type]
    (span,), (line,) = spans(), lines.of("http.request")

    assert (span.name, line["close_code"]) == ("/api/socket/{room}", code)
    assert sent[-1]["code"] == code
    assert len(reporter.reports) == reports
    assert [m["text"] for m in sent if m["type"] == "websocket.send"] == ["c-1"] * (not reports)


async def test_what_leaves_no_trace_leaves_none(ask: Any, app: Litestar, spans: Any) -> None:
    """Probes of the app's own."""
    app.register(get("/livez", sync_to_thread=False)(_alive))
    async with ask(app) as client:
        assert (await client.get("/livez")).text == "ok"

    assert spans() == ()


def _alive() -> str:
    return "ok"


async def test_its_own_plugin_is_taken_over(
    ask: Any, provider: Any, spans: Any, reporter: Any
) -> None:
    """One span a request, by the owner's provider and with the owner's hook."""

    def hook(span: Any, scope: Any) -> None:
        span.set_attribute("mine", True)

    config = OpenTelemetryConfig(tracer_provider=provider, server_request_hook_handler=hook)
    app = shop(plugins=[OpenTelemetryPlugin(config)], cors_config=CORSConfig())
    instrument(app, reporter=reporter)
    async with ask(app) as client:
        await client.get("/api/items/7")
        await client.get("/api/fail/bug")
    good, bad = spans()

    assert (good.name, bad.name) == ("GET /api/items/{item_id}", "GET /api/fail/{kind}")
    assert good.attributes["mine"] is bad.attributes["mine"] is True
    assert "tracebaton.correlation_id" in good.attributes
    assert len(reporter.reports) == 1


async def test_instrumenting_twice_changes_nothing(
    ask: Any, app: Litestar, spans: Any, reporter: Any
) -> None:
    """One layer of each."""
    before = app.asgi_handler
    again = instrument(app)
    async with ask(app) as client:
        await client.get("/api/fail/bug")

    assert again is app
    assert app.asgi_handler is before
    assert (len(spans()), len(reporter.reports)) == (1, 1)


async def test_a_crowd_keeps_its_own_ids(ask: Any, app: Litestar) -> None:
    """Requests at the same time, half of them in threads."""
    async with ask(app) as client:
        answers = await asyncio.gather(
            *(client.get("/api/items/7", headers={"x-correlation-id": f"c-{n}"}) for n in range(50))
        )

    assert [answer.json()["correlation_id"] for answer in answers] == [f"c-{n}" for n in range(50)]
    assert not trace.get_current_span().get_span_context().is_valid


def test_the_lifespan_runs_through(provider: Any) -> None:
    """Start-up and shutdown are the app's own."""
    seen: list[str] = []

    async def up() -> None:
        seen.append("up")

    async def down() -> None:
        seen.append("down")

    app = instrument(shop(on_startup=[up], on_shutdown=[down]), tracer_provider=provider)

    async def run() -> list[str]:
        messages: Iterator[str] = iter(["lifespan.startup", "lifespan.shutdown"])
        said: list[str] = []

        async def receive() -> dict[str, str]:
            return {"type": next(messages)}

        async def send(message: Any) -> None:
            said.append(message["type"])

        await app({"type": "lifespan"}, receive, send)  # type: ignore[arg-type, typeddict-item]
        return said

    assert asyncio.run(run()) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert seen == ["up", "down"]


def test_any_other_framework_is_refused_with_a_remedy() -> None:
    """Rather than an app that looks instrumented."""
    with pytest.raises(Exception, match=r"knows Starlette, FastAPI and Litestar apps.*AsyncClient"):
        instrument(httpx.AsyncClient())

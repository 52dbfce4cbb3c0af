"""Both ids are on every answer, whoever gives it."""

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tracebaton.http.middleware import instrument


class Gate:
    """A middleware of the app's own that answers, or fails, by itself."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/gate/shut":
            await PlainTextResponse("shut", 403)(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == "/gate/broken":
            raise LookupError
        else:
            await self.app(scope, receive, send)


async def answer(request: Request) -> Response:
    async def chunks() -> Any:
        yield "a"

    match request.path_params["kind"]:
        case "stream":
            return StreamingResponse(chunks())
        case "away":
            return RedirectResponse("/elsewhere")
        case "gone":
            raise HTTPException(410)
        case "broken":
            raise LookupError
    return PlainTextResponse("ok", int(request.path_params["kind"]))


async def mine(request: Request, exc: Exception) -> Response:
    return PlainTextResponse("mine", 500)


def app(**options: Any) -> Starlette:
    routes = [
        Route("/answer/{kind}", answer),
        Mount("/deep", app=Starlette(routes=[Route("/{kind}", answer)])),
    ]
    return Starlette(routes=routes, middleware=[Middleware(Gate)], **options)


OPTIONS: dict[str, dict[str, Any]] = {
    "problems": {},
    "the app's own 500": {"exception_handlers": {Exception: mine}},
    "the debug page": {"debug": True},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/answer/200", 200),
        ("HEAD", "/answer/200", 200),
        ("GET", "/answer/204", 204),
        ("GET", "/answer/304", 304),
        ("GET", "/answer/stream", 200),
        ("GET", "/answer/away", 307),
        ("GET", "/answer/gone", 410),
        ("GET", "/answer/503", 503),
        ("GET", "/answer/broken", 500),
        ("GET", "/deep/200", 200),
        ("GET", "/deep/broken", 500),
        ("GET", "/nothing", 404),
        ("DELETE", "/answer/200", 405),
        ("GET", "/gate/shut", 403),
        ("GET", "/gate/broken", 500),
    ],
)
async def test_every_answer_has_both_ids(
    ask: Any, provider: Any, spans: Any, options: str, method: str, path: str, status: int
) -> None:
    """The caller's correlation id and the span that tells of it, the outermost 500 included."""
    built = instrument(app(**OPTIONS[options]), tracer_provider=provider)
    async with ask(built, raise_app_exceptions=False) as client:
        found = await client.request(method, path, headers={"x-correlation-id": "c-1"})
    (span,) = spans()
    ids = f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-"

    assert found.status_code == status
    assert found.headers.get_list("x-correlation-id") == ["c-1"]
    assert [value[:53] for value in found.headers.get_list("traceresponse")] == [ids]


async def test_a_failure_below_a_mount_is_the_requests_own(
    ask: Any, provider: Any, spans: Any, reporter: Any
) -> None:
    """A problem, recorded on the one span, told once: not a plain 500 and a background failure."""
    built = instrument(app(), tracer_provider=provider, reporter=reporter)
    async with ask(built) as client:
        broken = await client.get("/deep/broken")
        gone = await client.get("/deep/gone")
    first, _ = spans()

    assert (broken.json()["code"], gone.json()["code"]) == ("internal", "gone")
    assert [event.name for event in first.events] == ["exception"]
    assert first.attributes["error.type"] == "LookupError"
    assert [type(report.exc) for report in reporter.reports] == [LookupError]


async def test_an_app_below_that_runs_already_is_told_of_afterwards(
    ask: Any, provider: Any, spans: Any, reporter: Any
) -> None:
    """Its stack is built and its answer its own; the failure is not lost."""
    outer = app()
    nested = outer.routes[1].app  # type: ignore[attr-defined]
    async with ask(nested) as client:
        await client.get("/200")
    built = instrument(outer, tracer_provider=provider, reporter=reporter)
    async with ask(built) as client:
        found = await client.get("/deep/broken")

    assert (found.status_code, found.text) == (500, "Internal Server Error")
    assert [span.name for span in spans()] == ["GET /deep/{kind}", "GET /deep/{kind} background"]
    assert [type(report.exc) for report in reporter.reports] == [LookupError]


async def test_the_app_below_answers_by_its_own_handlers(
    ask: Any, provider: Any, reporter: Any
) -> None:
    """As it did before, and without ours where nobody wants problems."""
    nested = Starlette(routes=[Route("/{kind}", answer)], exception_handlers={410: mine})
    outer = Starlette(routes=[Mount("/deep", app=nested)])
    built = instrument(outer, tracer_provider=provider, reporter=reporter, problems=False)
    async with ask(built) as client:
        found = [await client.get(path) for path in ("/deep/gone", "/deep/a/b")]

    assert [(one.status_code, one.text) for one in found] == [(500, "mine"), (404, "Not Found")]
    assert [type(report.exc) for report in reporter.reports] == [HTTPException]

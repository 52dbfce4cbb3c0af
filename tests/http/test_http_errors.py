"""The one error story: what each failure is to the caller, the span, the log and the reporter."""

import asyncio
import inspect
import json
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

import pytest
from opentelemetry.trace import SpanKind
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.types import Message, Receive, Scope, Send

from tracebaton.errors import (
    NotFound,
    QueueUnavailable,
    RetryLater,
    TooManyRequests,
    TracebatonError,
)
from tracebaton.http.answers import http_outcome
from tracebaton.http.exchange import Exchange
from tracebaton.http.middleware import instrument
from tracebaton.problems import outcome_of


class Domain(Exception):
    """An exception of the app's own."""


class Slotted(Exception):
    """An exception that cannot be marked."""

    __slots__ = ()


def raising(exc: Exception, **options: Any) -> Starlette:
    async def endpoint(request: Request) -> Response:
        raise exc

    return Starlette(routes=[Route("/x/{id}", endpoint)], **options)


def story(span: Any) -> tuple[Any, ...]:
    """Return what a span says of a failure."""
    return (
        span.status.status_code.name,
        span.attributes.get("http.response.status_code"),
        span.attributes.get("error.type"),
        [event.name for event in span.events],
    )


@pytest.mark.parametrize(
    ("exc", "status", "code", "retryable", "reported"),
    [
        (Domain("secret"), 500, "internal", True, True),
        (Slotted("secret"), 500, "internal", True, True),
        (TracebatonError("secret"), 500, "internal", False, True),
        (QueueUnavailable(), 503, "queue_unavailable", True, True),
        (RetryLater(7), 503, "retry_later", True, False),
        (NotFound(), 404, "not_found", False, False),
        (TooManyRequests(), 429, "too_many_requests", True, False),
        (HTTPException(500, "secret"), 500, "internal", False, True),
        (HTTPException(503), 503, "dependency", True, True),
        (HTTPException(504), 504, "dependency_timeout", True, True),
        (HTTPException(502), 502, "bad_gateway", True, True),
        (HTTPException(400), 400, "bad_request", False, False),
        (HTTPException(418), 418, "im_a_teapot", False, False),
        (HTTPException(410, "Moved on."), 410, "gone", False, False),
        (HTTPException(499, "Left."), 499, "status_499", False, False),
    ],
)
async def test_one_mapping_feeds_every_reader(
    ask: Any,
    provider: Any,
    spans: Any,
    lines: Any,
    reporter: Any,
    exc: Exception,
    status: int,
    code: str,
    retryable: bool,
    reported: bool,
) -> None:
    """5xx: span ERROR with one exception, one error line, one report. 4xx: one warning line."""
    app = instrument(raising(exc), tracer_provider=provider, reporter=reporter)
    async with ask(app) as client:
        answer = await client.get("/x/1?token=t", headers={"x-correlation-id": "c"})

    (span,) = spans()
    (line,) = lines.of("http.error")
    problem = answer.json()
    failed = status >= 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code)
    assert (problem["retryable"], problem["instance"]) == (retryable, "/x/1")
    assert problem["correlation_id"] == answer.headers["x-correlation-id"] == "c"
    assert problem["trace_id"] == f"{span.context.trace_id:032x}"
    assert "secret" not in answer.text
    assert ("retry-after" in answer.headers) is (status in (429, 503))
    name = type(exc).__name__
    if failed:
        assert story(span) == ("ERROR", status, name, ["exception"])
    else:
        assert story(span) == ("UNSET", status, None, [])
    steering = isinstance(exc, RetryLater)
    assert line["level"] == ("error" if failed and not steering else "warning")
    assert (line["status"], line["code"], line["route"]) == (status, code, "/x/{id}")
    assert line["error_type"] == name
    assert len(reporter.reports) == int(reported)
    assert line.get("sentry_event_id") == ("event-1" if reported else None)
    unexpected = reported and not outcome_of(exc).outage and status not in (503, 504)
    assert ("exception" in line) is unexpected


async def test_retry_after_is_what_is_known(ask: Any) -> None:
    """Seconds are rounded up; the exception's own header stays; a default where neither is."""
    app = instrument(raising(TooManyRequests(retry_after=1.2)))
    async with ask(app) as client:
        known = await client.get("/x/1")
    async with ask(instrument(raising(TooManyRequests()))) as client:
        unknown = await client.get("/x/1")

    own = HTTPException(503, headers={"Retry-After": "9"})
    async with ask(instrument(raising(own))) as client:
        said = await client.get("/x/1")

    headers = [answer.headers.get_list("retry-after") for answer in (known, unknown, said)]
    assert headers == [["2"], ["5"], ["9"]]


async def test_a_detail_meant_for_the_caller_is_kept(ask: Any) -> None:
    """Text as it is, anything else as JSON; headers of the exception go along."""
    text = HTTPException(410, "Moved on.", headers={"x-own": "1"})
    data: Any = HTTPException(400, {"why": "not"})  # type: ignore[arg-type]  # FastAPI allows it
    async with ask(instrument(raising(text))) as client:
        gone = await client.get("/x/1")
    async with ask(instrument(raising(data))) as client:
        bad = await client.get("/x/1")

    assert (gone.json()["title"], gone.json()["detail"]) == ("Gone", "Moved on.")
    assert gone.headers["x-own"] == "1"
    assert bad.json()["detail"] == '{"why": "not"}'


async def test_an_exception_that_is_no_error_is_told_to_nobody(ask: Any, lines: Any) -> None:
    """A redirect by exception stays one."""
    exc = HTTPException(303, headers={"location": "/y"})
    async with ask(instrument(raising(exc))) as client:
        answer = await client.get("/x/1")

    assert (answer.status_code, answer.headers["location"]) == (303, "/y")
    assert lines.of("http.error") == []


async def test_a_path_is_repeated_as_a_uri(ask: Any) -> None:
    """``instance`` is the path without its query, percent-encoded."""
    async with ask(instrument(Starlette())) as client:
        answer = await client.get("/caf%C3%A9/a%20b%1b[0m?x=1")

    assert answer.json()["instance"] == "/caf%C3%A9/a%20b%1B%5B0m"


async def test_a_head_request_gets_the_headers_alone(ask: Any) -> None:
    """The length is that of the document it would have got."""
    async with ask(instrument(Starlette())) as client:
        head, get = await client.head("/no"), await client.get("/no")

    assert (head.status_code, head.content) == (404, b"")
    assert head.headers["content-type"] == "application/problem+json"
    assert head.headers["content-length"] == get.headers["content-length"]


@pytest.mark.parametrize(("size", "status"), [(32 * 1024, 200), (32 * 1024 + 1, 431)])
async def test_headers_have_a_limit(
    ask: Any, provider: Any, spans: Any, size: int, status: int
) -> None:
    """Names and values together; what is over it reaches nothing of the app."""
    seen: list[str] = []

    async def endpoint(request: Request) -> Response:
        seen.append(request.url.path)
        return PlainTextResponse("")

    app = instrument(Starlette(routes=[Route("/", endpoint)]), tracer_provider=provider)
    async with ask(app) as client:
        request = client.build_request("GET", "/")
        base = sum(len(key) + len(value) for key, value in request.headers.raw)
        answer = await client.get("/", headers={"x-pad": "p" * (size - base - len("x-pad"))})

    (span,) = spans()
    assert answer.status_code == span.attributes["http.response.status_code"] == status
    assert seen == (["/"] if status == 200 else [])
    if status == 431:
        assert answer.json()["code"] == "headers_too_large"


@pytest.mark.parametrize("kind", ["async", "sync", "callable"])
@pytest.mark.parametrize("status", [200, 409, 500, 503])
async def test_a_handler_of_the_app_is_heard(
    ask: Any,
    provider: Any,
    spans: Any,
    lines: Any,
    reporter: Any,
    status: int,
    kind: str,
) -> None:
    """Its status decides whether anything failed; its answer is its own."""

    def sync(request: Any, exc: Exception) -> Response:
        return JSONResponse({"own": True}, status_code=status)

    async def on_loop(request: Any, exc: Exception) -> Response:
        return sync(request, exc)

    class Handler:
        async def __call__(self, request: Any, exc: Exception) -> Response:
            return sync(request, exc)

    handler: Any = {"async": on_loop, "sync": sync, "callable": Handler()}[kind]
    app = raising(Domain("secret"), exception_handlers={Domain: handler})
    async with ask(instrument(app, tracer_provider=provider, reporter=reporter)) as client:
        answer = await client.get("/x/1")

    (span,) = spans()
    expected = {
        200: ("UNSET", 200, None, []),
        409: ("UNSET", 409, None, []),
        500: ("ERROR", 500, "Domain", ["exception"]),
        503: ("ERROR", 503, "Domain", ["exception"]),
    }
    assert (answer.status_code, answer.json()) == (status, {"own": True})
    assert story(span) == expected[status]
    assert len(reporter.reports) == (status >= 500)
    assert [(line["level"], line["status"]) for line in lines.of("http.error")] == {
        200: [],
        409: [("warning", 409)],
        500: [("error", 500)],
        503: [("error", 503)],
    }[status]


async def test_a_handler_by_status_is_heard(ask: Any, lines: Any) -> None:
    """The app's own 404 page stays."""

    async def page(request: Any, exc: Exception) -> Response:
        return PlainTextResponse("no such page", status_code=404)

    app = Starlette(exception_handlers={404: page})
    async with ask(instrument(app)) as client:
        answer = await client.get("/no")

    assert (answer.text, answer.status_code) == ("no such page", 404)
    assert answer.headers["x-correlation-id"]
    assert [line["code"] for line in lines.of("http.error")] == ["not_found"]


async def test_a_failure_belongs_to_the_request_whatever_span_is_current(
    ask: Any, provider: Any, spans: Any, lines: Any, reporter: Any
) -> None:
    """A middleware's own span is open while its app's handler answers; report and lines are the
    SERVER span's nevertheless."""
    tracer = provider.get_tracer("app")

    class Spanning:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            with tracer.start_as_current_span("inner"):
                await self.app(scope, receive, send)

    app = raising(QueueUnavailable(), middleware=[Middleware(Spanning)])
    async with ask(instrument(app, tracer_provider=provider, reporter=reporter)) as client:
        await client.get("/x/1")

    server = next(span for span in spans() if span.kind is SpanKind.SERVER)
    server_id = f"{server.context.span_id:016x}"
    assert [line["span_id"] for line in lines.all] == [server_id, server_id]
    assert [f"{report.span_id:016x}" for report in reporter.reports] == [server_id]


@pytest.mark.parametrize("key", [500, Exception])
async def test_the_apps_own_500_is_left_to_it(
    ask: Any, provider: Any, spans: Any, lines: Any, reporter: Any, key: Any
) -> None:
    """Starlette's outermost layer answers; told once, ids on the answer, nothing raised again."""

    async def sorry(request: Request, exc: Exception) -> Response:
        return PlainTextResponse("sorry", status_code=500)

    app = raising(Domain(), exception_handlers={key: sorry})
    async with ask(instrument(app, tracer_provider=provider, reporter=reporter)) as client:
        answer = await client.get("/x/1", headers={"x-correlation-id": "c"})

    (span,) = spans()
    assert (answer.text, answer.headers["x-correlation-id"]) == ("sorry", "c")
    assert story(span) == ("ERROR", 500, "Domain", ["exception"])
    assert [line["event"] for line in lines.all] == ["http.error", "http.request"]
    assert len(reporter.reports) == 1


async def test_a_dependency_is_answered_by_us_even_so(ask: Any) -> None:
    """The app's own 500 is for what nobody expected; a 503 of our tree is a problem document."""

    async def sorry(request: Request, exc: Exception) -> Response:
        raise AssertionError

    app = raising(QueueUnavailable(), exception_handlers={Exception: sorry})
    async with ask(instrument(app)) as client:
        answer = await client.get("/x/1")

    assert answer.json()["code"] == "queue_unavailable"


async def test_the_debug_page_is_left_to_starlette(ask: Any, reporter: Any) -> None:
    """Who asks for debug gets the traceback page; the story is told all the same."""
    app = instrument(raising(Domain("text"), debug=True), reporter=reporter)
    async with ask(app) as client:
        answer = await client.get("/x/1")

    assert (answer.status_code, "Traceback" in answer.text) == (500, True)
    assert len(reporter.reports) == 1


async def test_a_handler_that_fails_itself_is_answered(
    ask: Any, provider: Any, spans: Any, reporter: Any
) -> None:
    """Both failures are told, and the caller gets a problem."""

    async def worse(request: Request, exc: Exception) -> Response:
        raise LookupError

    app = raising(Domain(), exception_handlers={Exception: worse})
    async with ask(instrument(app, tracer_provider=provider, reporter=reporter)) as client:
        answer = await client.get("/x/1")

    (span,) = spans()
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert [type(report.exc) for report in reporter.reports] == [Domain, LookupError]
    assert span.attributes["error.type"] == "LookupError"


async def test_a_reporter_that_fails_changes_nothing(ask: Any, reporter: Any, lines: Any) -> None:
    """The answer is the same, the line has no event id."""

    class Broken(type(reporter)):  # type: ignore[misc]  # the fixture's class
        def report(self, *args: Any, **kwargs: Any) -> str | None:
            raise OSError("sink is down")

    async with ask(instrument(raising(Domain()), reporter=Broken())) as client:
        answer = await client.get("/x/1")

    assert answer.json()["code"] == "internal"
    assert [line["event"] for line in lines.all] == [
        "telemetry.failed",
        "http.error",
        "http.request",
    ]
    assert "sentry_event_id" not in lines.of("http.error")[0]


async def test_plain_answers_can_be_kept(ask: Any, lines: Any) -> None:
    """With ``problems=False`` Starlette's own defaults answer, told all the same."""
    async with ask(instrument(raising(HTTPException(410)), problems=False)) as client:
        answer = await client.get("/x/1")

    assert (answer.text, answer.headers["content-type"]) == ("Gone", "text/plain; charset=utf-8")
    assert [line["code"] for line in lines.of("http.error")] == ["gone"]


async def test_a_failed_background_task_is_told_once_after_the_answer(
    ask: Any, provider: Any, spans: Any, lines: Any, reporter: Any
) -> None:
    """It has a span of its own below the request's, and the request's ids."""

    async def later() -> None:
        raise Domain

    async def endpoint(request: Request) -> Response:
        return PlainTextResponse("fine", background=BackgroundTask(later))

    app = Starlette(routes=[Route("/x/{id}", endpoint)])
    app = instrument(app, tracer_provider=provider, reporter=reporter)
    async with ask(app) as client:
        answer = await client.get("/x/1", headers={"x-correlation-id": "c"})

    server, background = spans()
    (report,) = reporter.reports
    assert (answer.status_code, answer.text) == (200, "fine")
    assert story(server) == ("UNSET", 200, None, [])
    assert (background.name, background.kind) == ("GET /x/{id} background", SpanKind.INTERNAL)
    assert background.parent.span_id == server.context.span_id
    assert background.start_time <= background.end_time
    assert story(background) == ("ERROR", None, "Domain", ["exception"])
    assert report.span_id == background.context.span_id
    assert [(line["event"], line["correlation_id"]) for line in lines.all] == [
        ("http.request", "c"),
        ("http.error", "c"),
    ]


def streaming(exc: Exception, media_type: str, **options: Any) -> Starlette:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"data: 1\n\ndata: half"
        raise exc

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(chunks(), media_type=media_type)

    return Starlette(routes=[Route("/s", endpoint)], **options)


@pytest.mark.parametrize("exc", [Domain("secret"), QueueUnavailable()])
async def test_a_stream_that_fails_is_broken_off_and_told(
    ask: Any, provider: Any, spans: Any, lines: Any, reporter: Any, exc: Exception
) -> None:
    """What left the app reaches the server; the original exception was told, once."""
    app = instrument(streaming(exc, "text/plain"), tracer_provider=provider, reporter=reporter)
    async with ask(app) as client:
        with pytest.raises((Domain, RuntimeError)):
            await client.get("/s")

    (span,) = spans()
    (report,) = reporter.reports
    assert report.exc is exc
    assert story(span) == ("ERROR", 200, type(exc).__name__, ["exception"])
    assert [line["event"] for line in lines.all] == ["http.error", "http.request"]


async def test_an_event_stream_ends_with_the_problem(
    ask: Any, provider: Any, spans: Any, reporter: Any
) -> None:
    """The last event is ``error``; it stands apart from the one that was half sent."""
    app = streaming(Domain("secret"), "text/event-stream")
    app = instrument(app, tracer_provider=provider, reporter=reporter)
    async with ask(app) as client:
        answer = await client.get("/s", headers={"x-correlation-id": "c"})

    (span,) = spans()
    *_, last = answer.text.strip().split("\n\n")
    event, data = last.split("\n")
    assert event == "event: error"
    assert json.loads(data.removeprefix("data: "))["correlation_id"] == "c"
    assert "secret" not in answer.text
    assert story(span) == ("ERROR", 200, "Domain", ["exception"])
    assert len(reporter.reports) == 1


async def test_a_compressed_event_stream_is_broken_off(ask: Any) -> None:
    """Plain text inside gzip would be noise."""

    async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream"), (b"content-encoding", b"gzip")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        raise Domain

    async with ask(instrument(Starlette(routes=[Mount("/", app=asgi)]))) as client:
        with pytest.raises(Domain):
            await client.get("/")


async def test_middleware_of_the_app_sees_what_its_handlers_answer(ask: Any) -> None:
    """Problems of our tree are made inside the app's own middleware, CORS and gzip included."""
    app = raising(NotFound("n" * 2000), middleware=[Middleware(GZipMiddleware)])
    async with ask(instrument(app)) as client:
        answer = await client.get("/x/1")

    assert answer.headers["content-encoding"] == "gzip"
    assert answer.json()["code"] == "not_found"


@pytest.mark.skipif(
    "max_body_size" not in inspect.signature(Starlette).parameters,
    reason="this Starlette has no body limit",
)
async def test_starlettes_own_body_limit_works_as_before(ask: Any, lines: Any) -> None:
    """Its signals pass through untold: it answers, and nothing is an error of ours."""

    async def read(request: Request) -> Response:
        await request.body()
        raise AssertionError

    app = Starlette(routes=[Route("/", read, methods=["POST"])], max_body_size=3)
    async with ask(instrument(app)) as client:
        announced = await client.post("/", content=b"12345")
        chunked = await client.post("/", content=chunks())

    assert (announced.status_code, chunked.status_code) == (413, 413)
    assert [line["level"] for line in lines.of("http.error")] == ["warning", "warning"]


async def chunks() -> AsyncIterator[bytes]:
    yield b"12"
    yield b"345"


async def test_each_failure_of_many_is_told_with_its_own_ids(
    ask: Any, provider: Any, lines: Any, reporter: Any
) -> None:
    """100 at once: one report each, in its own trace."""

    async def endpoint(request: Request) -> Response:
        await asyncio.sleep(0)
        raise Domain(request.path_params["id"])

    app = Starlette(routes=[Route("/{id}", endpoint)])
    async with ask(instrument(app, tracer_provider=provider, reporter=reporter)) as client:
        await asyncio.gather(*(client.get(f"/{number}") for number in range(100)))

    told = {(str(report.exc), f"{report.trace_id:032x}") for report in reporter.reports}
    assert len(reporter.reports) == 100
    assert told == {
        (line["path"].removeprefix("/"), line["trace_id"]) for line in lines.of("http.error")
    }


async def test_statuses_have_phrases() -> None:
    """Every status the standard library knows maps to a code a machine can branch on."""
    codes = [
        http_outcome(HTTPException(status)).code for status in HTTPStatus if status.value >= 400
    ]

    assert all(code.replace("_", "").isalnum() and code == code.lower() for code in codes)
    assert len(set(codes)) == len(codes)


def test_messages_are_noted_by_type() -> None:
    """A message that is neither start, body nor end changes nothing."""
    exchange = Exchange({"type": "http", "path": "/", "method": "GET"}, route=None)
    message: Message = {"type": "http.response.debug", "info": {}}
    exchange.sent(message)
    exchange.received({"type": "http.request"})

    assert (exchange.started, exchange.complete) == (False, False)

"""The thin thread: one request through every layer, seen in its span, its line, its report."""

from typing import Any

from opentelemetry.trace import SpanKind, StatusCode
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from tracebaton import context
from tracebaton.http.middleware import instrument


async def ids(request: Request) -> Response:
    return JSONResponse({"correlation_id": context.current().correlation_id})


async def boom(request: Request) -> Response:
    raise LookupError("the password is hunter2")


ROUTES = [Mount("/api", routes=[Route("/things/{id:int}", ids)]), Route("/boom", boom)]


async def test_one_request_is_one_span_one_line_and_one_id(
    ask: Any, provider: Any, spans: Any, lines: Any
) -> None:
    """A request without an id gets its trace id, everywhere the same."""
    app = instrument(Starlette(routes=ROUTES), tracer_provider=provider)

    async with ask(app) as client:
        answer = await client.get("/api/things/7?token=x")

    (span,) = spans()
    trace_id = f"{span.context.trace_id:032x}"
    span_id = f"{span.context.span_id:016x}"
    (line,) = lines.all
    assert (span.name, span.kind) == ("GET /api/things/{id}", SpanKind.SERVER)
    assert span.attributes["http.route"] == "/api/things/{id}"
    assert span.attributes["http.response.status_code"] == 200
    assert span.attributes["tracebaton.correlation_id"] == trace_id
    assert answer.json() == {"correlation_id": trace_id}
    assert answer.headers["x-correlation-id"] == trace_id
    assert answer.headers["traceresponse"] == f"00-{trace_id}-{span_id}-03"
    assert (line["event"], line["trace_id"], line["span_id"]) == ("http.request", trace_id, span_id)
    assert (line["path"], line["route"], line["status"]) == (
        "/api/things/7",
        "/api/things/{id}",
        200,
    )


async def test_an_unexpected_failure_is_told_once_to_everyone(
    ask: Any, provider: Any, spans: Any, lines: Any, reporter: Any
) -> None:
    """Problem, span, log line and report tell the same story, and the caller no internals."""
    app = instrument(Starlette(routes=ROUTES), tracer_provider=provider, reporter=reporter)

    async with ask(app) as client:
        answer = await client.get("/boom", headers={"x-correlation-id": "mine-1"})

    (span,) = spans()
    (report,) = reporter.reports
    (line,) = lines.of("http.error")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-correlation-id"] == "mine-1"
    assert answer.json() == {
        "type": "https://tracebaton.dev/errors#internal",
        "title": "Internal Server Error",
        "status": 500,
        "detail": "Something went wrong inside the service. Report the correlation id if it stays.",
        "instance": "/boom",
        "code": "internal",
        "retryable": True,
        "correlation_id": "mine-1",
        "trace_id": f"{span.context.trace_id:032x}",
    }
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == "LookupError"
    assert span.attributes["http.response.status_code"] == 500
    assert [event.name for event in span.events] == ["exception"]
    assert type(report.exc) is LookupError
    assert (report.span_id, report.mechanism) == (span.context.span_id, "asgi")
    assert report.tags == {"route": "/boom"}
    assert (line["level"], line["sentry_event_id"]) == ("error", "event-1")
    assert "LookupError" in line["exception"]

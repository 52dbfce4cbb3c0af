"""What `instrument()` does around an app: ids, spans, lines, and whose instrumentation counts."""

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from opentelemetry import baggage, propagate, trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.starlette import StarletteInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    Decision,
    Sampler,
    SamplingResult,
)
from opentelemetry.trace import NoOpTracerProvider, SpanKind
from starlette import applications
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Host, Mount, Route
from starlette.types import Message, Receive, Scope, Send

from tracebaton import context
from tracebaton.context import RequestStore
from tracebaton.errors import ConfigurationError
from tracebaton.http.middleware import instrument
from tracebaton.propagation import Propagator

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


async def ids(request: Request) -> Response:
    return JSONResponse({"correlation_id": context.current().correlation_id})


async def fail(request: Request) -> Response:
    raise LookupError


def ids_app(**options: Any) -> Starlette:
    return Starlette(routes=[Route("/ids", ids), Route("/fail", fail)], **options)


@pytest.fixture
def our_propagator() -> Iterator[None]:
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(Propagator())
    yield
    propagate.set_global_textmap(before)


@pytest.mark.parametrize("sent", ["a", "A-z0._:-9", "x" * 128])
async def test_a_valid_correlation_id_is_kept(ask: Any, sent: str) -> None:
    """It is the store's, and every answer has it."""
    async with ask(instrument(ids_app())) as client:
        answer = await client.get("/ids", headers={"x-correlation-id": sent})

    assert answer.json() == {"correlation_id": sent}
    assert answer.headers["x-correlation-id"] == sent


@pytest.mark.parametrize("sent", ["", "x" * 129, "a b", "a\tb", "ü", "a;b", "<script>", "a\x00"])
async def test_a_forged_correlation_id_is_replaced(ask: Any, provider: Any, sent: str) -> None:
    """It becomes the trace id; what was sent is repeated nowhere."""
    headers = [(b"x-correlation-id", sent.encode("latin-1"))]
    async with ask(instrument(ids_app(), tracer_provider=provider)) as client:
        answer = await client.get("/ids", headers=headers)

    correlation_id = answer.json()["correlation_id"]
    assert answer.headers["traceresponse"].split("-")[1] == correlation_id
    assert answer.headers["x-correlation-id"] == correlation_id


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([("x-request-id", "r")], "r"),
        ([("x-correlation-id", "c"), ("x-request-id", "r")], "c"),
        ([("x-correlation-id", "no good"), ("x-request-id", "r")], "r"),
        ([("x-correlation-id", "c"), ("x-correlation-id", "c")], "c"),
        ([("x-correlation-id", "c"), ("x-correlation-id", "d")], None),
    ],
)
async def test_one_header_decides(ask: Any, headers: Any, expected: str | None) -> None:
    """The first valid one; several different ones are as good as none."""
    async with ask(instrument(ids_app())) as client:
        found = (await client.get("/ids", headers=headers)).json()["correlation_id"]

    assert found == expected or (expected is None and found not in ("c", "d"))


async def test_without_tracing_the_id_is_a_fresh_one(ask: Any) -> None:
    """No span, no traceresponse, and still an id that is one request's only."""
    async with ask(instrument(ids_app(), tracer_provider=NoOpTracerProvider())) as client:
        first, second = [await client.get("/ids") for _ in range(2)]

    assert len(first.headers["x-correlation-id"]) == 32
    assert first.headers["x-correlation-id"] != second.headers["x-correlation-id"]
    assert "traceresponse" not in first.headers


async def test_an_unsampled_request_has_its_trace_id(ask: Any, spans: Any) -> None:
    """A span that does not record still names the request."""
    app = instrument(ids_app(), tracer_provider=TracerProvider(sampler=ALWAYS_OFF))
    async with ask(app) as client:
        answer = await client.get("/ids")

    _, trace_id, _, flags = answer.headers["traceresponse"].split("-")
    assert answer.json() == {"correlation_id": trace_id}
    assert int(flags, 16) & 1 == 0
    assert spans() == ()


async def test_an_answers_own_ids_give_way_or_stay(ask: Any) -> None:
    """There is one correlation id, ours; a traceresponse that somebody wrote is left alone."""

    async def own(request: Request) -> Response:
        headers = {"X-Correlation-Id": "own", "Traceresponse": "theirs"}
        return PlainTextResponse("", headers=headers)

    app = instrument(Starlette(routes=[Route("/", own)]), tracer_provider=TracerProvider())
    async with ask(app) as client:
        answer = await client.get("/", headers={"x-correlation-id": "mine"})

    assert answer.headers.get_list("x-correlation-id") == ["mine"]
    assert answer.headers.get_list("traceresponse") == ["theirs"]


async def test_the_callers_trace_goes_on(
    ask: Any, provider: Any, spans: Any, our_propagator: None
) -> None:
    """traceparent is joined, its trace id is the correlation id, baggage from outside is not."""
    seen: list[Any] = []

    async def look(request: Request) -> Response:
        seen.append((context.current(), dict(baggage.get_all())))
        return PlainTextResponse("")

    app = instrument(Starlette(routes=[Route("/", look)]), tracer_provider=provider)
    headers = {"traceparent": PARENT, "baggage": "tracebaton.user_id=root,user_id=root"}
    async with ask(app) as client:
        answer = await client.get("/", headers=headers)

    (span,) = spans()
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"
    assert answer.headers["x-correlation-id"] == TRACE
    assert seen == [(RequestStore(correlation_id=TRACE), {})]


async def test_the_store_survives_the_stock_propagators(
    ask: Any, provider: Any, spans: Any
) -> None:
    """They start from an empty context; store and remote parent are both there below them."""
    async with ask(instrument(ids_app(), tracer_provider=provider)) as client:
        headers = {"traceparent": PARENT, "x-correlation-id": "mine"}
        answer = await client.get("/ids", headers=headers)

    (span,) = spans()
    assert answer.json() == {"correlation_id": "mine"}
    assert span.attributes["tracebaton.correlation_id"] == "mine"
    assert f"{span.context.trace_id:032x}" == TRACE


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize("off", [None, NoOpTracerProvider()])
async def test_the_callers_trace_goes_on_where_nobody_records(
    ask: Any, our_propagator: None, off: Any, hooked: bool
) -> None:
    """Its ids are the request's, for what it sends on; an owner's hook is called all the same."""
    seen: list[Any] = []

    def hook(span: trace.Span, scope: Scope) -> None:
        seen.append("hook")

    async def look(request: Request) -> Response:
        seen.append((context.current().correlation_id, Propagator().inject_message()))
        return PlainTextResponse("")

    app = Starlette(routes=[Route("/", look)])
    StarletteInstrumentor.instrument_app(
        app, tracer_provider=off, server_request_hook=hook if hooked else None
    )
    async with ask(instrument(app)) as client:
        answer = await client.get("/", headers={"traceparent": PARENT})

    members = f"tracebaton.correlation_id={TRACE}"
    assert seen == ["hook"] * hooked + [(TRACE, {"traceparent": PARENT, "baggage": members})]
    assert answer.headers["x-correlation-id"] == TRACE


class _Forgetful(Sampler):
    """Keeps every span, and of what it starts with nothing."""

    def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
        return SamplingResult(Decision.RECORD_AND_SAMPLE)

    def get_description(self) -> str:
        return "Forgetful"


@pytest.mark.parametrize("sampler", [ALWAYS_ON, _Forgetful()])
async def test_a_span_has_what_the_instrumentation_and_the_app_set(
    ask: Any, exporter: Any, spans: Any, sampler: Sampler
) -> None:
    """Whatever the sampler made of the attributes at its start, and however often they are set."""

    async def colour(request: Request) -> Response:
        span = trace.get_current_span()
        span.set_attribute("colour", "red")
        span.set_attribute("http.route", "/mine")
        return PlainTextResponse("")

    provider = TracerProvider(sampler=sampler)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    app = instrument(Starlette(routes=[Route("/", colour)]), tracer_provider=provider)
    async with ask(app) as client:
        await client.get("/")

    (span,) = spans()
    assert span.attributes["http.request.method"] == "GET"
    assert (span.attributes["colour"], span.attributes["http.route"]) == ("red", "/mine")


async def test_metrics_alone_are_recorded(ask: Any) -> None:
    """Where no spans are, the instrumentation still counts the requests."""
    reader = InMemoryMetricReader()
    app = instrument(
        ids_app(),
        tracer_provider=NoOpTracerProvider(),
        meter_provider=MeterProvider(metric_readers=[reader]),
    )
    async with ask(app) as client:
        await client.get("/ids")

    data = reader.get_metrics_data()
    assert data is not None
    (of_resource,) = data.resource_metrics
    (of_scope,) = of_resource.scope_metrics
    assert "http.server.request.duration" in {metric.name for metric in of_scope.metrics}


async def test_chosen_headers_are_captured(
    ask: Any, provider: Any, spans: Any, our_propagator: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the instrumentation is told to keep is there, and the app sees every header."""

    async def names(request: Request) -> Response:
        shown = {"x-colour", "x-size", "user-agent"}
        return JSONResponse(sorted(shown.intersection(request.headers)))

    seen = []
    for variable in ("", "x-colour"):
        monkeypatch.setenv("OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST", variable)
        app = instrument(Starlette(routes=[Route("/", names)]), tracer_provider=provider)
        async with ask(app) as client:
            seen.append((await client.get("/", headers={"x-colour": "red", "x-size": "1"})).json())

    plain, captured = spans()
    assert seen == [["user-agent", "x-colour", "x-size"]] * 2
    assert "http.request.header.x_colour" not in plain.attributes
    assert captured.attributes["http.request.header.x_colour"] == ("red",)
    assert plain.attributes["user_agent.original"] == captured.attributes["user_agent.original"]


async def test_custom_fields_can_be_declared(ask: Any) -> None:
    """The store has the class that the app's owner gave."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Tenant(RequestStore):
        tenant: str | None = None

    async def look(request: Request) -> Response:
        context.authenticate("u-1", tenant="acme")
        store = context.current()
        assert isinstance(store, Tenant)
        return PlainTextResponse(f"{store.user_id} {store.tenant}")

    app = instrument(Starlette(routes=[Route("/", look)]), store=Tenant)
    async with ask(app) as client:
        answer = await client.get("/")

    assert answer.text == "u-1 acme"


async def test_what_authentication_knows_reaches_the_access_line(ask: Any, lines: Any) -> None:
    """The line is written inside the request, after the user is known."""

    async def look(request: Request) -> Response:
        context.authenticate("u-1")
        return PlainTextResponse("12345")

    app = instrument(
        Starlette(routes=[Route("/u/{id}", look)]), tracer_provider=NoOpTracerProvider()
    )
    async with ask(app) as client:
        await client.get("/u/7?secret=1", headers={"x-correlation-id": "c"})

    (line,) = lines.all
    assert line.pop("duration_ms") >= 0
    assert {key: line[key] for key in line if key != "timestamp"} == {
        "level": "info",
        "event": "http.request",
        "logger": "tracebaton.http",
        "service": "test",
        "trace_id": None,
        "span_id": None,
        "correlation_id": "c",
        "user_id": "u-1",
        "task_id": None,
        "attempt": None,
        "method": "GET",
        "path": "/u/7",
        "route": "/u/{id}",
        "status": 200,
        "bytes": 5,
        "client": "127.0.0.1",
    }


async def test_every_place_of_a_request_sees_the_store(ask: Any) -> None:
    """Endpoint, sync endpoint, to_thread, child task, background task, old-style middleware."""
    seen: dict[str, str | None] = {}

    def note(place: str) -> None:
        seen[place] = context.current().correlation_id

    class Old(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call: RequestResponseEndpoint) -> Response:
            note("middleware")
            return await call(request)

    async def on_loop(request: Request) -> Response:
        note("endpoint")
        await asyncio.to_thread(note, "thread")
        await asyncio.create_task(asyncio.to_thread(note, "task"))
        return PlainTextResponse("", background=BackgroundTask(note, "background"))

    def in_thread(request: Request) -> Response:
        note("sync endpoint")
        return PlainTextResponse("")

    routes = [Route("/a", on_loop), Route("/b", in_thread)]
    app = instrument(Starlette(routes=routes, middleware=[Middleware(Old)]))
    async with ask(app) as client:
        for path in ("/a", "/b"):
            await client.get(path, headers={"x-correlation-id": "c"})

    places = ("middleware", "endpoint", "thread", "task", "sync endpoint", "background")
    assert seen == dict.fromkeys(places, "c")
    assert context.current() == RequestStore()


async def test_a_request_inherits_nothing(ask: Any, provider: Any, spans: Any) -> None:
    """Whatever context the server's task was started in, a request begins with an empty one."""
    tracer = provider.get_tracer("outer")
    with context.entered(RequestStore(user_id="before")), tracer.start_as_current_span("before"):
        async with ask(instrument(ids_app(), tracer_provider=provider)) as client:
            await client.get("/ids")
        inside = context.current().user_id

    request = next(span for span in spans() if span.kind is SpanKind.SERVER)
    assert request.parent is None
    assert "tracebaton.user_id" not in request.attributes
    assert inside == "before"


async def test_each_request_is_isolated_where_failures_go(ask: Any, reporter: Any) -> None:
    """The reporter starts a unit of work for each request."""
    async with ask(instrument(ids_app(), reporter=reporter)) as client:
        for _ in range(3):
            await client.get("/ids")

    assert reporter.isolations == 3


async def test_quiet_paths_leave_no_trace(ask: Any, provider: Any, spans: Any, lines: Any) -> None:
    """No span, no metric, no line, by the exact path; the id is answered all the same."""
    reader = InMemoryMetricReader()
    meters = MeterProvider(metric_readers=[reader])
    routes = [
        Route(path, ids)
        for path in ("/livez", "/readyz", "/startupz", "/metrics", "/items/livez", "/livez2")
    ]
    app = instrument(Starlette(routes=routes), tracer_provider=provider, meter_provider=meters)
    async with ask(app) as client:
        quiet = [
            await client.get(path) for path in ("/livez", "/readyz", "/startupz", "/metrics?a=b")
        ]
        before = (len(spans()), len(lines.all), reader.get_metrics_data())
        for path in ("/items/livez", "/livez2"):
            await client.get(path)

    assert before == (0, 0, None)
    assert all(len(answer.headers["x-correlation-id"]) == 32 for answer in quiet)
    assert {span.name for span in spans()} == {"GET /items/livez", "GET /livez2"}
    assert len(lines.of("http.request")) == 2
    assert reader.get_metrics_data() is not None
    meters.shutdown()


async def test_a_quiet_path_that_fails_is_still_told(
    ask: Any, spans: Any, lines: Any, reporter: Any
) -> None:
    """An exception in a probe is an error like any other."""
    app = instrument(Starlette(routes=[Route("/readyz", fail)]), reporter=reporter)
    async with ask(app) as client:
        answer = await client.get("/readyz")

    assert answer.json()["code"] == "internal"
    assert len(reporter.reports) == 1
    assert [line["event"] for line in lines.all] == ["http.error"]


async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("opaque")(scope, receive, send)


class Broken(Convertor[str]):
    regex = "[^/]+"

    def convert(self, value: str) -> str:
        raise LookupError(value)

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("broken", Broken())


@pytest.mark.parametrize(
    ("method", "url", "name"),
    [
        ("GET", "/plain", "GET /plain"),
        ("HEAD", "/plain", "HEAD /plain"),
        ("POST", "/plain", "POST /plain"),
        ("GET", "/nothing", "GET"),
        ("BREW", "/plain", "HTTP /plain"),
        ("BREW", "/nothing", "HTTP"),
        ("GET", "/v1/acme/users/7", "GET /v1/{tenant}/users/{id}"),
        ("GET", "/v1/acme/other", "GET"),
        ("GET", "/static/a/b.css", "GET /static"),
        ("GET", "http://admin.local/who", "GET /who"),
        ("GET", "/sub/deep/x", "GET /sub/deep/{x}"),
        ("GET", "/broken/x", "GET"),
    ],
)
async def test_a_span_is_named_by_the_whole_template(
    ask: Any, provider: Any, spans: Any, method: str, url: str, name: str
) -> None:
    """Mounts, hosts and other apps included; never a raw path."""
    sub = Starlette(routes=[Mount("/deep", routes=[Route("/{x}", ids)])])
    routes = [
        Route("/plain", ids),
        Mount("/v1/{tenant}", routes=[Route("/users/{id:int}", ids)]),
        Mount("/static", app=asgi),
        Host("admin.local", app=Starlette(routes=[Route("/who", ids)])),
        Mount("/sub", app=sub),
        Route("/broken/{x:broken}", ids),
    ]
    app = instrument(Starlette(routes=routes), tracer_provider=provider)
    async with ask(app) as client:
        await client.request(method, url)

    (span,) = spans()
    route = name.partition(" ")[2] or None
    assert span.name == name
    assert span.attributes.get("http.route") == route
    assert span.attributes["http.request.method"] == ("_OTHER" if method == "BREW" else method)


async def test_a_405_names_every_method_of_the_path(ask: Any) -> None:
    """Also below a mount, and over several routes; the app's own 405 keeps its own header."""

    async def refuse(request: Request) -> Response:
        raise HTTPException(405, headers={"Allow": "BREW"})

    routes = [
        Route("/a/{x}", ids),
        Route("/a/{y}", ids, methods=["POST"]),
        Mount("/m", routes=[Route("/b", ids, methods=["PUT"]), Route("/b", ids)]),
        Route("/own", refuse),
    ]
    async with ask(instrument(Starlette(routes=routes))) as client:
        flat = await client.delete("/a/1")
        below = await client.delete("/m/b")
        own = await client.get("/own")

    assert flat.headers["allow"] == "GET, HEAD, POST"
    assert below.headers["allow"] == "GET, HEAD, PUT"
    assert (own.status_code, own.headers["allow"]) == (405, "BREW")


async def test_a_stream_is_one_span_to_its_last_byte(
    ask: Any, provider: Any, spans: Any, lines: Any
) -> None:
    """No span of a send or a receive; the line counts every byte."""

    async def chunks() -> Any:
        for _ in range(3):
            yield b"1234"

    async def stream(request: Request) -> Response:
        await request.body()
        return StreamingResponse(chunks())

    app = Starlette(routes=[Route("/", stream, methods=["POST"])])
    async with ask(instrument(app, tracer_provider=provider)) as client:
        await client.post("/", content=b"x")

    assert [span.name for span in spans()] == ["POST /"]
    assert [line["bytes"] for line in lines.all] == [12]


async def test_a_users_own_instrumentation_is_kept(
    ask: Any, provider: Any, spans: Any, exporter: Any
) -> None:
    """Hooks, tracer and exclusions of a call made before ours; still one span, outside."""

    def hook(span: trace.Span, scope: Scope) -> None:
        span.set_attribute("hooked", True)

    app = ids_app()
    StarletteInstrumentor.instrument_app(app, tracer_provider=provider, server_request_hook=hook)
    instrument(app)  # without a provider: theirs counts
    StarletteInstrumentor.instrument_app(app)  # later: changes nothing
    async with ask(app) as client:
        answer = await client.get("/fail")

    (span,) = spans()
    assert span.attributes["hooked"] is True
    assert span.attributes["error.type"] == "LookupError"
    assert answer.headers["x-correlation-id"] == f"{span.context.trace_id:032x}"
    assert [entry.cls for entry in app.user_middleware] == [OpenTelemetryMiddleware]


async def test_a_users_own_middleware_entry_is_kept(ask: Any, provider: Any, spans: Any) -> None:
    """Its exclusions and its naming, given by position or by name."""

    def details(scope: Scope) -> tuple[str, dict[str, Any]]:
        return "named by hand", {}

    entry = Middleware(OpenTelemetryMiddleware, "/ids", details, tracer_provider=provider)
    app = ids_app(middleware=[entry])
    app._is_instrumented_by_opentelemetry = True  # type: ignore[attr-defined]  # as its owner does
    async with ask(instrument(app)) as client:
        excluded = await client.get("/ids")
        await client.get("/fail")

    assert [span.name for span in spans()] == ["named by hand"]
    assert len(excluded.headers["x-correlation-id"]) == 32


async def test_the_global_instrumentor_is_kept_and_mounted_apps_have_no_second_span(
    ask: Any, provider: Any, spans: Any
) -> None:
    """Every app made after it carries an entry; each request has one span nevertheless."""
    StarletteInstrumentor().instrument(tracer_provider=provider)
    try:
        sub = applications.Starlette(routes=[Route("/ids", ids)])
        app = applications.Starlette(routes=[Mount("/sub", app=sub)])
    finally:
        StarletteInstrumentor._original_starlette = applications.Starlette.__base__
        applications.Starlette = Starlette  # type: ignore[misc]  # uninstrument() would build
    async with ask(instrument(app)) as client:
        await client.get("/sub/ids")

    assert [span.name for span in spans()] == ["GET /sub/ids"]


async def test_an_app_mounted_in_an_app_that_both_are_ours_is_one_request(
    ask: Any, provider: Any, spans: Any, lines: Any
) -> None:
    """One span, one line, one report: the inner layers find the outer ones' exchange."""
    inner = instrument(ids_app(), tracer_provider=provider)
    app = Starlette(routes=[Mount("/in", app=inner)])
    async with ask(instrument(app, tracer_provider=provider)) as client:
        answer = await client.get("/in/fail", headers={"x-correlation-id": "c"})

    assert [span.name for span in spans()] == ["GET /in/fail"]
    assert [line["event"] for line in lines.all] == ["http.error", "http.request"]
    assert answer.json()["correlation_id"] == "c"


async def test_instrumenting_twice_changes_nothing(ask: Any, provider: Any, spans: Any) -> None:
    """The second call returns the same app."""
    app = ids_app()
    once = instrument(app, tracer_provider=provider)

    assert instrument(once) is app

    async with ask(app) as client:
        await client.get("/ids")

    assert len(spans()) == 1


async def test_uninstrumenting_takes_the_span_and_leaves_the_store(ask: Any, provider: Any) -> None:
    """The owner may take OpenTelemetry out again."""
    app = instrument(ids_app(), tracer_provider=provider)
    StarletteInstrumentor.uninstrument_app(app)
    async with ask(app) as client:
        answer = await client.get("/ids", headers={"x-correlation-id": "c"})

    assert answer.json() == {"correlation_id": "c"}
    assert "traceresponse" not in answer.headers


async def test_a_running_app_is_refused(ask: Any) -> None:
    """Its stack stands: middleware that holds state would be made twice."""
    app = ids_app()
    async with ask(app) as client:
        await client.get("/ids")

    with pytest.raises(ConfigurationError, match="before the first request"):
        instrument(app)


def test_another_instrumentor_is_refused() -> None:
    """An app that claims to be instrumented, and not by what we can move, would have two spans."""
    app = ids_app()
    app._is_instrumented_by_opentelemetry = True  # type: ignore[attr-defined]  # as FastAPI's does

    with pytest.raises(ConfigurationError, match="StarletteInstrumentor"):
        instrument(app)


@pytest.mark.parametrize("agent", [b"\xff\\x", b"\\\x80", "\\é".encode()])
async def test_bytes_that_stop_the_instrumentation_cost_nothing(
    ask: Any, provider: Any, spans: Any, lines: Any, agent: bytes
) -> None:
    """A header that it cannot decode costs neither span nor answer; the app sees it as it came."""
    seen: list[bytes] = []

    async def look(request: Request) -> Response:
        seen.append(dict(request.scope["headers"])[b"user-agent"])
        return PlainTextResponse("seen")

    app = instrument(Starlette(routes=[Route("/look", look)]), tracer_provider=provider)
    async with ask(app) as client:
        answer = await client.get("/look", headers=[(b"user-agent", agent)])

    assert (answer.status_code, seen) == (200, [agent])
    assert [line["event"] for line in lines.all] == ["http.request"]
    assert [span.name for span in spans()] == ["GET /look"]


async def test_an_owners_hook_that_fails_does_not_stop_the_request(
    ask: Any, provider: Any, lines: Any
) -> None:
    """Telemetry costs no answer, whoever wrote it."""

    def details(scope: Scope) -> tuple[str, dict[str, Any]]:
        raise LookupError("the owner's mistake")

    app = ids_app()
    app.add_middleware(
        OpenTelemetryMiddleware, default_span_details=details, tracer_provider=provider
    )
    app._is_instrumented_by_opentelemetry = True  # type: ignore[attr-defined]  # as its instrumentor
    async with ask(instrument(app)) as client:
        answer = await client.get("/ids", headers={"x-correlation-id": "c"})

    assert (answer.status_code, answer.json()) == (200, {"correlation_id": "c"})
    assert [line["event"] for line in lines.all] == ["telemetry.failed", "http.request"]


async def test_telemetry_that_fails_late_does_not_ask_twice(ask: Any) -> None:
    """What breaks after the app was reached never sends the request into it again."""
    calls: list[str] = []

    class Broken(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            raise RuntimeError("a processor of somebody's")

    async def chunks() -> Any:
        calls.append("once")
        yield b"begun"
        raise LookupError

    async def stream(request: Request) -> Response:
        return StreamingResponse(chunks())

    provider = TracerProvider()
    provider.add_span_processor(Broken())
    app = instrument(Starlette(routes=[Route("/", stream)]), tracer_provider=provider)
    async with ask(app) as client:
        with pytest.raises(RuntimeError, match="somebody"):
            await client.get("/")

    assert calls == ["once"]


async def test_a_lifespan_runs_through(ask: Any) -> None:
    """What is no request is passed on untouched."""
    app = instrument(ids_app())
    sent: list[Message] = []
    waiting = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    async def receive() -> Message:
        return next(waiting)

    async def send(message: Message) -> None:
        sent.append(message)

    await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)

    assert [message["type"] for message in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]


async def test_nothing_is_logged_about_contexts(ask: Any, caplog: Any) -> None:
    """Tokens are detached where they were attached, also when a request is cancelled."""
    started = asyncio.Event()

    async def hang(request: Request) -> Response:
        started.set()
        await asyncio.Event().wait()
        raise AssertionError

    app = instrument(Starlette(routes=[Route("/hang", hang), Route("/ids", ids)]))
    async with ask(app) as client:
        request = asyncio.create_task(client.get("/hang"))
        await asyncio.wait_for(started.wait(), 5)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        await client.get("/ids")

    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []
    assert context.current() == RequestStore()


async def test_a_cancelled_request_is_no_failure(
    ask: Any, provider: Any, spans: Any, lines: Any, reporter: Any
) -> None:
    """Its span ends without an error and its line has no status."""
    started = asyncio.Event()

    async def hang(request: Request) -> Response:
        started.set()
        await asyncio.Event().wait()
        raise AssertionError

    app = Starlette(routes=[Route("/hang", hang)])
    async with ask(instrument(app, tracer_provider=provider, reporter=reporter)) as client:
        request = asyncio.create_task(client.get("/hang"))
        await asyncio.wait_for(started.wait(), 5)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request

    (span,) = spans()
    assert (span.status.is_unset, span.events) == (True, ())
    assert [(line["event"], line["status"]) for line in lines.all] == [("http.request", None)]
    assert reporter.reports == []


async def call(
    app: Any, messages: list[Message], *, takes: int | None = None, **scope: Any
) -> list[Message]:
    """
    Ask *app* with exactly these messages from the server; then it waits for ever.

    Args:
        takes: Messages that can be sent before the connection is gone.
    """
    waiting = iter(messages)
    sent: list[Message] = []

    async def receive() -> Message:
        message = next(waiting, None)
        if message is None:
            await asyncio.Event().wait()
        assert message is not None
        return message

    async def send(message: Message) -> None:
        if len(sent) == takes:
            raise BrokenPipeError
        sent.append(message)

    request = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost")],
        "client": None,
        "server": ("localhost", 80),
    }
    await app(request | scope, receive, send)
    return sent


BODY: Message = {"type": "http.request", "body": b"", "more_body": False}
GONE: Message = {"type": "http.disconnect"}


async def test_a_caller_who_left_a_stream_is_marked(
    provider: Any, spans: Any, lines: Any, reporter: Any
) -> None:
    """The span and the line say so; nothing failed."""

    async def forever() -> Any:
        yield b"first"
        await asyncio.Event().wait()

    async def stream(request: Request) -> Response:
        return StreamingResponse(forever())

    app = Starlette(routes=[Route("/", stream)])
    await call(instrument(app, tracer_provider=provider, reporter=reporter), [BODY, GONE])

    (span,) = spans()
    (line,) = lines.all
    assert span.attributes["tracebaton.client.disconnected"] is True
    assert span.status.is_unset
    assert (line["disconnected"], line["status"], line["client"]) == (True, 200, None)
    assert reporter.reports == []


async def test_a_caller_who_left_while_sending_is_marked(
    provider: Any, spans: Any, lines: Any, reporter: Any
) -> None:
    """A body that breaks off is no failure of ours, and nobody is answered."""

    async def read(request: Request) -> Response:
        await request.body()
        raise AssertionError

    app = Starlette(routes=[Route("/", read)])
    part = {"type": "http.request", "body": b"par", "more_body": True}
    sent = await call(instrument(app, tracer_provider=provider, reporter=reporter), [part, GONE])

    (span,) = spans()
    assert sent == []
    assert span.attributes["tracebaton.client.disconnected"] is True
    assert [(line["event"], line["disconnected"]) for line in lines.all] == [("http.request", True)]
    assert reporter.reports == []


@pytest.mark.parametrize(("messages", "gone"), [([BODY, GONE], True), ([BODY], False)])
async def test_a_caller_who_did_not_wait_is_marked(
    provider: Any, spans: Any, lines: Any, messages: list[Message], gone: bool
) -> None:
    """An answer that took its time asks at the end whether anyone is there to read it."""

    async def slow(request: Request) -> Response:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 0.3)
        return PlainTextResponse("late")

    app = Starlette(routes=[Route("/", slow)])
    sent = await call(instrument(app, tracer_provider=provider), messages)

    (span,) = spans()
    assert sent[-1]["body"] == b"late"
    assert span.attributes.get("tracebaton.client.disconnected", False) is gone
    assert lines.all[0].get("disconnected", False) is gone


@pytest.mark.parametrize("takes", [0, 1])
async def test_an_answer_that_cannot_be_sent_is_no_failure(
    provider: Any, spans: Any, lines: Any, reporter: Any, takes: int
) -> None:
    """A server may raise an OSError where the connection is gone (ASGI 2.4)."""

    async def hello(request: Request) -> Response:
        return PlainTextResponse("hello")

    app = instrument(
        Starlette(routes=[Route("/", hello)]), tracer_provider=provider, reporter=reporter
    )
    sent = await call(app, [BODY], takes=takes)

    (span,) = spans()
    assert len(sent) == takes
    assert span.status.is_unset
    assert [(line["event"], line["disconnected"]) for line in lines.all] == [("http.request", True)]
    assert reporter.reports == []


async def test_a_disconnect_after_the_answer_means_nothing(lines: Any) -> None:
    """Servers say so after every answer, to whoever still listens."""

    async def late(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("all")(scope, receive, send)
        while (await receive())["type"] != "http.disconnect":
            pass

    app = Starlette(routes=[Mount("/", app=late)])
    await call(instrument(app), [BODY, GONE])

    assert "disconnected" not in lines.all[0]


async def test_trailers_and_paths_complete_an_answer(lines: Any) -> None:
    """An answer ends with its trailers, or with the file that the server sends itself."""

    async def trailing(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
        await send({"type": "http.response.body", "body": b"12"})
        await send({"type": "http.response.trailers", "headers": [], "more_trailers": True})
        await send({"type": "http.response.trailers", "headers": []})

    async def path(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.pathsend", "path": "/dev/null"})

    for app in (trailing, path):
        sent = await call(instrument(Starlette(routes=[Mount("/", app=app)])), [BODY])
        assert sent[0]["headers"][0][0] == b"x-correlation-id"

    assert [line["bytes"] for line in lines.all] == [2, 0]


async def test_mixed_requests_at_once_keep_their_own_ids(ask: Any, provider: Any) -> None:
    """500 requests interleave on one loop and in threads; each answer has its own ids."""

    async def look(request: Request) -> Response:
        context.authenticate(request.path_params["user"])
        await asyncio.sleep(0)
        inner = await asyncio.to_thread(context.current)
        await asyncio.sleep(0)
        here = context.current()
        return JSONResponse([here.user_id, inner.user_id, here.correlation_id])

    app = instrument(Starlette(routes=[Route("/{user}", look)]), tracer_provider=provider)
    async with ask(app) as client:

        async def one(number: int) -> httpx.Response:
            headers = {"x-correlation-id": f"c-{number}"}
            answer: httpx.Response = await client.get(f"/u-{number}", headers=headers)
            return answer

        answers = await asyncio.gather(*(one(number) for number in range(500)))

    assert [answer.json() for answer in answers] == [
        [f"u-{number}", f"u-{number}", f"c-{number}"] for number in range(500)
    ]

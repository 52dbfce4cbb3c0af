"""FastAPI apps of anybody's: the same span, store and problems, and no second telemetry."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from opentelemetry import metrics, trace
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse

from tracebaton.context import authenticate, current
from tracebaton.errors import QueueUnavailable
from tracebaton.http.middleware import instrument


class Item(BaseModel):
    name: str
    price: float


def user() -> str:
    authenticate("ann")
    return "ann"


def shop(**options: Any) -> FastAPI:
    app = FastAPI(**options)
    router = APIRouter(prefix="/items")
    nested = APIRouter()
    mounted = FastAPI()

    @router.get("/{item_id}")
    async def show(item_id: int, who: str = Depends(user)) -> dict[str, Any]:
        return {"user_id": current().user_id, "correlation_id": current().correlation_id}

    @router.post("/")
    def create(item: Item) -> Item:
        return item

    @nested.get("/deep/{x}")
    async def deep(x: str) -> str:
        return x

    @app.get("/fail/{kind}")
    async def fail(kind: str) -> None:
        raise {
            "own": HTTPException(409, "Taken."),
            "json": HTTPException(400, {"why": "not"}),
            "queue": QueueUnavailable(),
        }.get(kind, LookupError("secret"))

    @mounted.get("/inner/{y}")
    async def inner(y: str) -> str:
        return y

    router.include_router(nested, prefix="/nested")
    app.include_router(router, prefix="/api")
    app.mount("/mounted", mounted)
    return app


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "/api/items/7", "GET /api/items/{item_id}"),
        ("GET", "/api/items/nested/deep/1", "GET /api/items/nested/deep/{x}"),
        ("DELETE", "/api/items/7", "DELETE /api/items/{item_id}"),
        ("GET", "/mounted/inner/1", "GET /mounted/inner/{y}"),
        ("GET", "/openapi.json", "GET /openapi.json"),
        ("GET", "/nothing/here", "GET"),
    ],
)
async def test_a_span_has_the_template_of_included_routers(
    ask: Any, provider: Any, spans: Any, method: str, path: str, name: str
) -> None:
    """Whatever prefix a router was included under, and never a raw path."""
    async with ask(instrument(shop(), tracer_provider=provider)) as client:
        await client.request(method, path)

    assert [span.name for span in spans()] == [name]


async def test_a_dependency_may_authenticate(
    ask: Any, provider: Any, spans: Any, lines: Any
) -> None:
    """What a sync dependency says in its thread is known to the endpoint and the access line."""
    async with ask(instrument(shop(), tracer_provider=provider)) as client:
        answer = await client.get("/api/items/7", headers={"x-correlation-id": "c"})

    assert answer.json() == {"user_id": "ann", "correlation_id": "c"}
    assert [(line["event"], line["user_id"]) for line in lines.all] == [("http.request", "ann")]


@pytest.mark.parametrize(
    ("path", "status", "code", "detail", "reported"),
    [
        ("/fail/own", 409, "conflict", "Taken.", 0),
        ("/fail/json", 400, "bad_request", '{"why": "not"}', 0),
        ("/fail/queue", 503, "queue_unavailable", None, 1),
        ("/fail/any", 500, "internal", None, 1),
        ("/nothing", 404, "not_found", None, 0),
    ],
)
async def test_errors_are_problems(
    ask: Any, reporter: Any, path: str, status: int, code: str, detail: str | None, reported: int
) -> None:
    """FastAPI's own defaults give way, as Starlette's do."""
    async with ask(instrument(shop(), reporter=reporter)) as client:
        answer = await client.get(path)

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert detail is None or answer.json()["detail"] == detail
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(reporter.reports) == reported
    assert "secret" not in answer.text


async def test_a_405_has_every_method(ask: Any) -> None:
    """Over included routers too."""
    async with ask(instrument(shop())) as client:
        answer = await client.put("/api/items/")

    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_validation_points_into_the_body_and_elsewhere(ask: Any) -> None:
    """Body fields by their pointer, parameters by where they stand; no value comes back."""
    async with ask(instrument(shop())) as client:
        body = await client.post("/api/items/", json={"name": "a", "price": "hunter2"})
        empty = await client.post("/api/items/", json={})
        path = await client.get("/api/items/hunter2")

    assert [body.status_code, empty.status_code, path.status_code] == [422, 422, 422]
    assert [error["pointer"] for error in body.json()["errors"]] == ["/price"]
    assert [error["pointer"] for error in empty.json()["errors"]] == ["/name", "/price"]
    assert [error["pointer"] for error in path.json()["errors"]] == ["/path/item_id"]
    assert "hunter2" not in body.text + path.json()["errors"][0]["detail"]


async def test_the_owners_handlers_stay(ask: Any, lines: Any) -> None:
    """Only FastAPI's defaults are replaced, and with ``problems=False`` not even those."""

    async def own(request: Request, exc: Exception) -> JSONResponse:
        return JSONResponse({"own": True}, status_code=422)

    async with ask(instrument(shop(exception_handlers={RequestValidationError: own}))) as client:
        answer = await client.post("/api/items/", json={})
    async with ask(instrument(shop(), problems=False)) as client:
        default = await client.get("/fail/own")

    assert answer.json() == {"own": True}
    assert default.json() == {"detail": "Taken."}
    assert [line["level"] for line in lines.of("http.error")] == ["warning", "warning"]


@pytest.fixture
def global_provider(provider: Any) -> Iterator[None]:
    """Set the global provider, which is what FastAPI's own telemetry goes by."""
    before = trace._TRACER_PROVIDER
    trace._TRACER_PROVIDER = provider
    yield
    trace._TRACER_PROVIDER = before


@pytest.mark.usefixtures("global_provider")
async def test_fastapis_own_telemetry_steps_back(ask: Any, spans: Any) -> None:
    """It sees that the app is instrumented: one span, joined with our store."""
    assert metrics.get_meter_provider() is not None

    async with ask(instrument(shop())) as client:
        answer = await client.get("/api/items/7")

    (span,) = spans()
    assert span.name == "GET /api/items/{item_id}"
    assert answer.json()["correlation_id"] == f"{span.context.trace_id:032x}"


@pytest.fixture
def instrumented(provider: Any) -> Iterator[FastAPI]:
    """Return an app that its owner instrumented, with a hook, before we come."""

    def hook(span: Any, scope: Any) -> None:
        span.set_attribute("mine", True)

    app = shop()
    FastAPIInstrumentor.instrument_app(
        app, tracer_provider=provider, server_request_hook=hook, excluded_urls="deep"
    )
    yield app
    FastAPIInstrumentor.uninstrument_app(app)  # it changed Starlette's background tasks too


async def test_the_owners_instrumentor_is_taken_over(
    ask: Any, instrumented: FastAPI, spans: Any, reporter: Any, lines: Any
) -> None:
    """One span a request, by its provider, hook and excluded URLs; one story of a failure."""
    async with ask(instrument(instrumented, reporter=reporter)) as client:
        paths = ("/api/items/7?token=c4n4ry", "/fail/bug", "/api/items/nested/deep/1")
        answers = [await client.get(path) for path in paths]
    good, bad = spans()

    assert (good.name, bad.name) == ("GET /api/items/{item_id}", "GET /fail/{kind}")
    assert good.attributes["mine"] is bad.attributes["mine"] is True
    assert [event.name for event in bad.events] == ["exception"]
    assert bad.attributes["error.type"] == "LookupError"
    assert "c4n4ry" not in good.to_json()
    assert answers[1].json()["trace_id"] == f"{bad.context.trace_id:032x}"
    assert [answer.status_code for answer in answers] == [200, 500, 200]
    assert (len(reporter.reports), len(lines.of("http.request"))) == (1, 3)


async def test_a_failure_is_recorded_once_beside_the_owners_handler(
    ask: Any, instrumented: FastAPI, spans: Any, reporter: Any
) -> None:
    """The instrumentor would record what passes it on its way to that handler."""

    @instrumented.exception_handler(Exception)
    async def last(request: Request, exc: Exception) -> JSONResponse:
        return JSONResponse({"mine": True}, status_code=500)

    async with ask(
        instrument(instrumented, reporter=reporter), raise_app_exceptions=False
    ) as client:
        answer = await client.get("/fail/bug")
    (span,) = spans()

    assert (answer.status_code, answer.json()) == (500, {"mine": True})
    assert [event.name for event in span.events] == ["exception"]
    assert len(reporter.reports) == 1


def test_the_app_stays_what_it_was() -> None:
    """Building the stack leaves handlers and middleware as their owner set them."""
    app = shop()
    handlers, middleware = dict(app.exception_handlers), list(app.user_middleware)
    instrument(app)
    app.build_middleware_stack()

    assert app.exception_handlers == handlers
    assert app.user_middleware[1:] == middleware

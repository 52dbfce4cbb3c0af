"""The OpenAPI document: it says what the service does, and the service does what it says."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from http_server import Address, serving
from http_service import Chat, StoreService, registry
from hypothesis import HealthCheck, given, settings
from pydantic import BaseModel, Field
from schemathesis.specs.openapi.checks import ignored_auth
from starlette.requests import Request
from starlette.routing import Route

from tracebaton.http.app import create_app
from tracebaton.http.auth import authenticator
from tracebaton.http.endpoints import BodyEndpoint
from tracebaton.http.keys import create_key
from tracebaton.http.openapi import openapi
from tracebaton.settings import Settings
from tracebaton.tasks import Registry, TaskType
from tracebaton.tasks.sqlite import SqliteTaskStore

#: Paths that are no part of the API: probes, and the documents themselves.
APART = {
    *("/", "/livez", "/readyz", "/startupz", "/metrics"),
    *("/openapi.json", "/docs", "/docs/docs.css"),
}


class Problem(BaseModel):
    """A model of the application that is called like one of ours."""

    text: str = Field(max_length=10)


def test_every_route_is_described_and_nothing_else(task_store: Any) -> None:
    """Path by path and method by method, the application's own included."""

    async def own(request: Request) -> None:
        """Do something."""

    service = StoreService(task_store, routes=[("/own/{number:int}", own, ["POST", "GET"])])
    app = create_app(service)
    document = openapi(registry(), service.routes, title="t", version="1")
    routed = {
        (re.sub(r":\w+\}", "}", route.path), method.lower())
        for route in app.routes
        if isinstance(route, Route) and route.path not in APART
        for method in (route.methods or set()) - {"HEAD"}
    }
    routed.discard(("/v1/tasks/{type}", "post"))
    routed.add(("/v1/tasks/ai.chat", "post"))

    described = {(path, method) for path, item in document["paths"].items() for method in item}
    assert described == routed
    assert document["paths"]["/own/{number}"]["get"]["summary"] == "Do something."


def test_a_route_with_a_model_is_described_by_it() -> None:
    """Its body, its summary, the key it honours; a route without one says nothing of a body."""

    async def priced(request: Request, order: Order) -> None:
        """Tell what an order costs."""

    async def read(request: Request) -> None: ...

    routes = [
        ("/price", BodyEndpoint(priced, Order), ["POST"]),
        ("/read", read, ["POST", "GET"]),
    ]
    document = openapi(registry(), routes, title="t", version="1")
    with_model, without = document["paths"]["/price"]["post"], document["paths"]["/read"]
    body = with_model["requestBody"]["content"]["application/json"]["schema"]

    assert body == {"$ref": "#/components/schemas/Order"}
    assert list(document["components"]["schemas"]["Order"]["properties"]) == [
        *("item", "number", "tags", "note"),
    ]
    assert with_model["summary"] == "Tell what an order costs."
    assert {"400", "408", "413", "415", "422"} < with_model["responses"].keys()
    assert "requestBody" not in without["post"]
    assert [
        [parameter["name"] for parameter in one["parameters"]]
        for one in (with_model, without["post"], without["get"])
    ] == [["Idempotency-Key"], ["Idempotency-Key"], []]


def test_models_of_one_name_stay_apart() -> None:
    """The application's own, and ours."""

    class Other(BaseModel):
        number: int

    Other.__name__ = Other.__qualname__ = "Problem"
    types = Registry()
    for name, model in (("a", Problem), ("b", Other), ("c", Chat)):
        types.add(TaskType(name=name, model=model, handler=print))
    document = openapi(types, (), title="t", version="1")
    schemas = document["components"]["schemas"]
    bodies = {
        name: schemas[
            document["paths"][f"/v1/tasks/{name}"]["post"]["requestBody"]["content"][
                "application/json"
            ]["schema"]["$ref"].rsplit("/", 1)[1]
        ]
        for name in "abc"
    }

    assert [list(body["properties"]) for body in bodies.values()] == [
        ["text"],
        ["number"],
        ["message"],
    ]
    assert "code" in schemas["tracebaton.Problem"]["properties"]


async def test_the_page_loads_nothing_of_others(ask: Any, task_store: Any, tmp_path: Path) -> None:
    """No script, no other place, no frame; nobody needs a key to read it, on this machine only
    where nobody needs one at all."""
    keys = tmp_path / "keys.json"
    create_key(keys, "ann")
    environ = {"TRACEBATON_AUTH": "api-key", "TRACEBATON_API_KEYS_FILE": str(keys)}
    closed = StoreService(task_store, authenticator=authenticator(Settings.load(environ)))
    paths = ("/docs", "/docs/docs.css", "/openapi.json")
    async with ask(create_app(closed)) as client:
        answers = [await client.get(path) for path in paths]
        data = await client.get("/v1/tasks")
    async with ask(create_app(StoreService(task_store))) as client:
        foreign = [await client.get(path, headers={"host": "evil.example"}) for path in paths]

    page = answers[0]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert data.status_code == 401
    assert [answer.status_code for answer in foreign] == [403, 403, 403]
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert page.headers["x-frame-options"] == "DENY"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "POST /v1/tasks/ai.chat" in page.text
    assert "<script" not in page.text
    assert re.findall(r"(?:src|href)=\"([^\"]*)\"", page.text) == ["docs/docs.css", "openapi.json"]
    assert answers[2].json()["openapi"] == "3.1.1"


class Order(BaseModel):
    """What schemathesis makes up: a bit of everything."""

    item: str = Field(min_length=1, max_length=50)
    number: int = Field(ge=1, le=1_000)
    tags: list[str] = Field(default=[], max_length=5)
    note: str | None = None


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    """Serve two task types, with a store and without authentication."""
    types = Registry()
    types.add(TaskType(name="order", model=Order, handler=print))
    types.add(TaskType(name="ai.chat", model=Chat, handler=print))

    def price(request: Request, order: Order) -> dict[str, int]:
        """Tell what an order costs."""
        return {"total": order.number * 100}

    routes = [("/price/{shop}", BodyEndpoint(price, Order), ["POST"])]
    with ExitStack() as stack:
        store = SqliteTaskStore(tmp_path_factory.mktemp("openapi") / "tasks.db")
        app = create_app(StoreService(store, registry=types, routes=routes))
        yield stack.enter_context(serving(app))


@pytest.fixture(scope="module")
def described(address: Address) -> Any:
    """The document as the server hands it out."""
    url = f"http://127.0.0.1:{address.port}/openapi.json"
    return schemathesis.openapi.from_url(url)


OPERATIONS = (
    ("/v1/tasks/order", "POST"),
    ("/v1/tasks/ai.chat", "POST"),
    ("/v1/tasks", "GET"),
    ("/v1/tasks/{id}", "GET"),
    ("/v1/tasks/{id}", "DELETE"),
    ("/v1/tasks/{id}/events", "GET"),
    ("/price/{shop}", "POST"),
)


#: Any text is a task's id, so that nothing is negative there.
CASES = [("POSITIVE", *operation) for operation in OPERATIONS] + [
    ("NEGATIVE", path, method) for path, method in OPERATIONS if path != "/v1/tasks/{id}"
]


@pytest.mark.parametrize(("mode", "path", "method"), CASES)
def test_the_service_keeps_to_its_document(
    described: Any, address: Address, mode: str, path: str, method: str
) -> None:
    """Every check of schemathesis on what it makes up, good and bad; none answers 5xx."""
    operation = described[path][method]
    generated = operation.as_strategy(generation_mode=schemathesis.GenerationMode[mode])

    @settings(
        max_examples=15,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=generated)
    def check(case: Any) -> None:
        if mode == "POSITIVE":
            # Good ones are the service's own, or were used before: they cannot be made up.
            case.query.pop("cursor", None)
            case.headers.pop("Idempotency-Key", None)
        answer = case.call(base_url=f"http://127.0.0.1:{address.port}")
        assert answer.status_code < 500
        # Without authentication there is none to ignore.
        case.validate_response(answer, excluded_checks=[ignored_auth])

    check()


def test_the_document_is_complete(described: Any) -> None:
    """No operation is left out above."""
    found = {(path, method.upper()) for path, item in described.items() for method in item}

    assert found == set(OPERATIONS)


def test_a_submitted_task_is_as_described(described: Any, address: Address) -> None:
    """The answers along one life of a task, by the document's schemas."""
    url = f"http://127.0.0.1:{address.port}"
    with httpx.Client(base_url=url) as client:
        task_id = client.post("/v1/tasks/ai.chat", json={"message": "hi"}).json()["task_id"]
    for path, method in (("/v1/tasks/{id}", "GET"), ("/v1/tasks/{id}", "DELETE")):
        case = described[path][method].Case(path_parameters={"id": task_id})
        answer = case.call(base_url=url)
        case.validate_response(answer, excluded_checks=[ignored_auth])

        assert answer.status_code in {200, 202}

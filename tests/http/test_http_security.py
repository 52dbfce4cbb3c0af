"""What a browser is told with every answer, whoever made it."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from http_service import StoreService
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from tracebaton.http.app import create_app, create_health_app
from tracebaton.http.auth import authenticator
from tracebaton.http.keys import create_key
from tracebaton.settings import Settings
from tracebaton.tasks.sqlite import SqliteTaskStore

NOSNIFF = {"x-content-type-options": "nosniff"}
PRIVATE = NOSNIFF | {"cache-control": "private, no-cache"}
#: A problem says nothing that is worth keeping.
NEVER_KEPT = NOSNIFF | {"cache-control": "no-store"}
PAGE = PRIVATE | {
    "content-security-policy": "frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
}
#: Of all that is said here.
NAMES = {
    *PAGE,
    "x-frame-options",
    "cross-origin-opener-policy",
    "cross-origin-resource-policy",
}


async def page(request: Request) -> Response:
    return HTMLResponse("<h1>yours</h1>")


async def plain(request: Request) -> Response:
    return PlainTextResponse("yours")


async def data(request: Request) -> dict[str, int]:
    return {"yours": 1}


async def own(request: Request) -> Response:
    headers = {"Cache-Control": "public, max-age=60", "Content-Security-Policy": "img-src *"}
    return HTMLResponse("<h1>yours</h1>", headers=headers)


async def broken(request: Request) -> Response:
    raise LookupError


ROUTES = [
    ("/page", page, ["GET"]),
    ("/plain", plain, ["GET"]),
    ("/data", data, ["GET"]),
    ("/own", own, ["GET"]),
    ("/broken", broken, ["GET"]),
]


@pytest.fixture
def service(task_store: SqliteTaskStore, tmp_path: Path) -> StoreService:
    keys = tmp_path / "keys.json"
    create_key(keys, "other")
    environ = {"TRACEBATON_AUTH": "api-key", "TRACEBATON_API_KEYS_FILE": str(keys)}
    return StoreService(
        task_store, routes=ROUTES, authenticator=authenticator(Settings.load(environ))
    )


def told(answer: httpx.Response) -> dict[str, str]:
    """Return what an answer says of all that is said here."""
    return {name: value for name, value in answer.headers.items() if name in NAMES}


async def test_every_answer_says_what_it_needs(
    ask: Any, service: StoreService, tmp_path: Path
) -> None:
    """Tasks and problems are nobody's to keep, pages nobody's to frame, types are what they say."""
    key = {"x-api-key": create_key(tmp_path / "keys.json", "alice")}
    async with ask(create_app(service), raise_app_exceptions=False) as client:
        sent = await client.post("/v1/tasks/ai.chat", json={"message": "a"}, headers=key)
        path = sent.headers["location"]
        shown = await client.get(path, headers=key)
        known = {"if-none-match": shown.headers["etag"]}
        answers = {
            "submitted": sent,
            "shown": shown,
            "not modified": await client.get(path, headers=key | known),
            "listed": await client.get("/v1/tasks", headers=key),
            "cancelled": await client.delete(path, headers=key),
            "index": await client.get("/", headers=key),
            "data": await client.get("/data", headers=key),
            "plain": await client.get("/plain", headers=key),
            "page": await client.get("/page", headers=key),
            "alive": await client.get("/livez"),
        }
        problems = [
            await client.get("/v1/tasks"),
            await client.get("/v1/tasks/none", headers=key),
            await client.put("/v1/tasks/none", headers=key),
            await client.get("/data", headers=key | {"x-pad": "p" * 40_000}),
            await client.get("/broken", headers=key),
        ]
        heard = await client.get(f"{path}/events", headers=key)

    expected = dict.fromkeys(answers, PRIVATE) | {"page": PAGE}
    assert {name: told(answer) for name, answer in answers.items()} == expected
    assert [answer.status_code for answer in problems] == [401, 404, 405, 431, 500]
    assert [told(answer) for answer in problems] == [NEVER_KEPT] * 5
    assert told(heard) == NOSNIFF | {"cache-control": "private, no-store"}


async def test_the_pages_of_ours_run_nothing(ask: Any, service: StoreService) -> None:
    """The documentation and its style: no script, no frame, no other place."""
    async with ask(create_app(service)) as client:
        pages = [await client.get(path) for path in ("/docs", "/docs/docs.css")]

    for answer in pages:
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'self'")
        assert "frame-ancestors 'none'" in policy
        assert told(answer).keys() == NAMES


async def test_what_an_application_says_itself_stands(
    ask: Any, service: StoreService, tmp_path: Path
) -> None:
    """Once, and beside it only what it does not say."""
    key = {"x-api-key": create_key(tmp_path / "keys.json", "alice")}
    async with ask(create_app(service)) as client:
        answer = await client.get("/own", headers=key)

    assert answer.headers.get_list("cache-control") == ["public, max-age=60"]
    assert answer.headers.get_list("content-security-policy") == ["img-src *"]
    assert answer.headers["referrer-policy"] == "no-referrer"


async def test_a_worker_s_health_port_says_it_too(ask: Any) -> None:
    """Its answers and its problems."""

    async def ready() -> dict[str, bool]:
        return {"queue": False}

    async with ask(create_health_app(ready)) as client:
        alive, unready = await client.get("/livez"), await client.get("/readyz")

    assert (told(alive), told(unready)) == (PRIVATE, NEVER_KEPT)

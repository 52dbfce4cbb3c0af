"""How much may be asked, and whose address asks."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from http_service import StoreService
from starlette.requests import Request

from tracebaton.errors import TooManyRequests
from tracebaton.http.app import create_app
from tracebaton.http.auth import authenticator
from tracebaton.http.keys import create_key
from tracebaton.http.limits import RateLimit, limits
from tracebaton.http.proxies import Proxies
from tracebaton.settings import Settings

HI = {"message": "hi"}


class Clock:
    """A clock that stands until it is set."""

    time = 1_000.0

    def __call__(self) -> float:
        return self.time


@pytest.mark.parametrize("limit", [1, 3, 7, 60, 600, 999])
def test_a_minutes_worth_passes_at_once_and_no_more(limit: int) -> None:
    """Then one for each share of the minute, told to the second."""
    clock = Clock()
    rate = RateLimit(limit, now=clock)
    taken = [rate.take("ann") for _ in range(limit)]
    over = rate.take("ann")
    clock.time += 60 / limit
    next_one, after = rate.take("ann"), rate.take("ann")
    clock.time += 61
    whole = rate.take("ann")

    assert [one.remaining for one in taken if one] == list(reversed(range(limit)))
    assert not any(one.wait for one in taken if one)
    assert over is not None
    assert next_one is not None
    assert after is not None
    assert whole is not None
    assert 1 <= over.wait <= 60 / limit + 1
    assert (next_one.wait, after.wait > 0, whole.remaining) == (0, True, limit - 1)


def test_each_has_a_limit_of_his_own() -> None:
    """And only so many are remembered."""
    rate = RateLimit(1)
    first = [rate.take(who) for who in ("ann", "bob")]
    again = rate.take("ann")
    for number in range(11_000):
        rate.take(f"u-{number}")

    assert [one.wait for one in first if one] == [0, 0]
    assert again is not None
    with pytest.raises(TooManyRequests):
        again.check()
    assert len(rate._whole) == 10_000


@pytest.mark.parametrize(
    ("environ", "limit"),
    [
        ({}, None),
        ({"TRACEBATON_RATE_PER_MINUTE": "5"}, 5),
        ({"TRACEBATON_AUTH": "api-key", "TRACEBATON_API_KEYS_FILE": "x"}, 600),
        (
            {
                "TRACEBATON_AUTH": "api-key",
                "TRACEBATON_API_KEYS_FILE": "x",
                "TRACEBATON_RATE_PER_MINUTE": "0",
            },
            None,
        ),
    ],
)
def test_the_setting_has_a_default_by_auth(environ: dict[str, str], limit: int | None) -> None:
    """Off without authentication, else 600; 0 is off in any case."""
    found = limits(Settings.load(environ)).take("ann")

    assert (found.limit if found else None) == limit


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
async def client(ask: Any, task_store: Any, keys: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A service with keys, whose users may write three times a minute."""
    create_key(keys, "nobody")
    environ = {"TRACEBATON_AUTH": "api-key", "TRACEBATON_API_KEYS_FILE": str(keys)}
    service = StoreService(
        task_store,
        authenticator=authenticator(Settings.load(environ)),
        limits=RateLimit(3, now=Clock()),
    )
    async with ask(create_app(service)) as client:
        yield client


async def test_writes_are_limited_by_user(client: httpx.AsyncClient, keys: Path) -> None:
    """429 with Retry-After and what is left; reading goes on, and so does everybody else."""
    ann, bob = ({"x-api-key": create_key(keys, user)} for user in ("ann", "bob"))
    mine = [await client.post("/v1/tasks/ai.chat", json=HI, headers=ann) for _ in range(5)]
    task = await client.get(mine[0].headers["location"], headers=ann)
    cancel = await client.delete(mine[0].headers["location"], headers=ann)
    others = await client.post("/v1/tasks/ai.chat", json=HI, headers=bob)

    assert [answer.status_code for answer in mine] == [202, 202, 202, 429, 429]
    problem = mine[3].json()
    assert (problem["code"], problem["retryable"]) == ("too_many_requests", True)
    assert 1 <= int(mine[3].headers["retry-after"]) <= 21
    assert [answer.headers["ratelimit-remaining"] for answer in mine] == ["2", "1", "0", "0", "0"]
    assert mine[0].headers["ratelimit-policy"] == '"default";q=3;w=60'
    assert mine[0].headers["ratelimit"] == '"default";r=2;t=20'
    assert mine[0].headers["ratelimit-limit"] == "3"
    assert (task.status_code, cancel.status_code, others.status_code) == (200, 429, 202)
    assert "ratelimit-limit" not in task.headers


async def test_refused_credentials_are_limited_by_address(
    client: httpx.AsyncClient, keys: Path
) -> None:
    """Whoever guesses is slowed down; a good key from the same address passes."""
    ann = {"x-api-key": create_key(keys, "ann")}
    guesses = [await client.get("/v1/tasks", headers={"x-api-key": "x"}) for _ in range(5)]
    good = await client.post("/v1/tasks/ai.chat", json=HI, headers=ann)

    assert [answer.status_code for answer in guesses] == [401, 401, 401, 429, 429]
    assert good.status_code == 202


async def test_without_authentication_addresses_are_limited(ask: Any, task_store: Any) -> None:
    """Where the setting asks for it."""
    service = StoreService(task_store, limits=RateLimit(1))
    async with ask(create_app(service)) as client:
        answers = [await client.post("/v1/tasks/ai.chat", json=HI) for _ in range(2)]
        probe = await client.get("/livez")

    assert [answer.status_code for answer in answers] == [202, 429]
    assert probe.status_code == 200


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["1.1.1.1, 203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["1.1.1.1", "203.0.113.9, 10.0.0.7"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9:1234"], "203.0.113.9"),
        ("10.0.0.1", ["[2001:db8::1]:1234"], "2001:db8::1"),
        ("::ffff:10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["unknown"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9, ' OR 1"], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("192.0.2.1", ["203.0.113.9"], "192.0.2.1"),
        ("testclient", ["203.0.113.9"], "testclient"),
    ],
)
def test_only_what_our_proxies_added_is_believed(
    peer: str, forwarded: list[str], client: str
) -> None:
    """Read from the right, up to the first address that is no proxy."""
    assert Proxies(["10.0.0.0/8"]).client_of(peer, forwarded) == client


@pytest.mark.parametrize(
    ("trusted", "client", "scheme"),
    [([], "10.0.0.1", "http"), (["10.0.0.0/8"], "203.0.113.9", "https")],
)
async def test_the_request_is_the_clients(
    task_store: Any, lines: Any, trusted: list[str], client: str, scheme: str
) -> None:
    """The route, the access line and the limit see whom the proxy speaks for."""

    async def show(request: Request) -> dict[str, Any]:
        return {"client": request.client.host if request.client else None, "url": str(request.url)}

    service = StoreService(task_store, proxies=Proxies(trusted), routes=[("/show", show, ["GET"])])
    app = create_app(service)
    headers = {"x-forwarded-for": "1.1.1.1, 203.0.113.9", "x-forwarded-proto": "https"}
    transport = httpx.ASGITransport(app, client=("10.0.0.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        answer = await http.get("/show", headers=headers)

    [line] = lines.of("http.request")
    assert answer.json() == {"client": client, "url": f"{scheme}://localhost/show"}
    assert line["client"] == client

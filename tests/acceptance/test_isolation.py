"""A thousand requests at once on a real server: not one id in the wrong place."""

import asyncio
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest
from command import create_key, running
from stage import Broker

pytestmark = pytest.mark.acceptance

HERE = Path(__file__).parent
USERS = ("alice", "bob", "carol")
REQUESTS = 1000


async def test_a_thousand_requests_never_mix_their_ids(broker: Broker) -> None:
    """Kept-alive connections, mixed users, own ids: each answer is its own request's."""
    env = broker.env | {
        "TRACEBATON_AUTH": "api-key",
        "TRACEBATON_API_KEYS_FILE": str(broker.folder / "keys.json"),
    }
    keys = {user: create_key(env, user, cwd=HERE) for user in USERS}
    with running("api", "shop:app", "--port", "0", env=env, cwd=HERE) as api:
        url = api.ready()["api"]
        limits = httpx.Limits(max_connections=50, max_keepalive_connections=50)
        async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60) as http:
            answers = await asyncio.gather(*(ask(http, keys, n) for n in range(REQUESTS)))
        api.stop()

    bodies = [answer.json() for _, answer in answers]
    wrong = [
        (number, body)
        for number, (user, answer) in enumerate(answers)
        for body in [answer.json()]
        if (body["same"], body["user_id"], body["correlation_id"])
        != (True, user, f"request-{number}")
        or answer.headers["x-correlation-id"] != f"request-{number}"
    ]
    logged = {
        (line["correlation_id"], line["user_id"], line["trace_id"])
        for line in api.events
        if line["event"] == "http.request"
    }
    assert wrong == []
    assert len({body["trace_id"] for body in bodies}) == REQUESTS
    assert logged == {
        (body["correlation_id"], body["user_id"], body["trace_id"]) for body in bodies
    }


def test_pipelined_requests_on_one_connection_never_mix(broker: Broker) -> None:
    """A hundred requests written in one go: every answer has its own ids, none its neighbour's."""
    with running("api", "shop:app", "--port", "0", env=broker.env, cwd=HERE) as api:
        host, port = api.ready()["api"].removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            # Every second one brings no id: it must get a fresh one and not the last one's.
            for number in range(100):
                own = f"X-Correlation-ID: piped-{number}\r\n" if number % 2 else ""
                connection.sendall(f"GET /whoami HTTP/1.1\r\nHost: {host}\r\n{own}\r\n".encode())
            bodies = list(read_bodies(connection, 100))
        api.stop()

    given = [body["correlation_id"] for body in bodies[1::2]]
    fresh = [body["correlation_id"] for body in bodies[::2]]
    assert given == [f"piped-{number}" for number in range(1, 100, 2)]
    assert fresh == [body["trace_id"] for body in bodies[::2]]
    assert len({body["trace_id"] for body in bodies}) == 100
    assert all(body["same"] for body in bodies)


async def ask(http: httpx.AsyncClient, keys: dict[str, str], number: int) -> tuple[str, Any]:
    """Send one request as one of the users."""
    user = USERS[number % len(USERS)]
    answer = await http.get(
        "/whoami",
        headers={
            "Authorization": f"Bearer {keys[user]}",
            "X-Correlation-ID": f"request-{number}",
        },
    )
    return user, answer.raise_for_status()


def read_bodies(connection: socket.socket, count: int) -> Iterable[dict[str, Any]]:
    """Read *count* JSON answers from one connection."""
    with connection.makefile("rb") as stream:
        for _ in range(count):
            length = 0
            while (line := stream.readline()) != b"\r\n":
                assert line, "the connection ended early"
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            yield httpx.Response(200, content=stream.read(length)).json()

"""``Idempotency-Key``: the same request twice is one task and one answer."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from http_service import Chat, StoreService
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from tracebaton.errors import QueueUnavailable, StoreUnavailable
from tracebaton.http import idempotency
from tracebaton.http.app import create_app
from tracebaton.http.auth import authenticator
from tracebaton.http.body import body
from tracebaton.http.keys import create_key
from tracebaton.settings import Settings
from tracebaton.tasks import Task
from tracebaton.tasks.sqlite import SqliteTaskStore

KEY = {"idempotency-key": "k-1"}
HI = {"message": "hi"}


@pytest.fixture
def service(task_store: Any) -> StoreService:
    return StoreService(task_store)


@pytest.fixture
async def client(ask: Any, service: StoreService) -> AsyncIterator[Any]:
    """Ask a service without authentication."""
    async with ask(create_app(service)) as client:
        yield client


def replayed(answer: Any) -> bool:
    """Tell whether the answer says that it is an earlier one's."""
    return bool(answer.headers.get("idempotency-replayed") == "true")


async def test_the_same_request_has_the_same_answer(
    client: Any, service: StoreService, task_store: Any
) -> None:
    """Byte by byte, whatever became of the task meanwhile; it was enqueued once."""
    first = await client.post("/v1/tasks/ai.chat", json=HI, headers=KEY)
    task_id = first.json()["task_id"]
    await task_store.start(task_id, attempt=1)
    second = await client.post("/v1/tasks/ai.chat", json=HI, headers=KEY)
    await task_store.cancel(task_id)
    third = await client.post(
        "/v1/tasks/ai.chat",
        content=b' {"message" :"hi"}\n',
        headers={**KEY, "content-type": "application/json"},
    )

    assert [answer.status_code for answer in (first, second, third)] == [202, 202, 202]
    assert first.content == second.content == third.content
    assert first.headers["location"] == second.headers["location"]
    assert [replayed(answer) for answer in (first, second, third)] == [False, True, True]
    assert second.headers["x-correlation-id"] != first.headers["x-correlation-id"]
    assert len(service.enqueued) == 1


async def test_another_body_is_another_request(client: Any, service: StoreService) -> None:
    """422, and nothing was done."""
    await client.post("/v1/tasks/ai.chat", json=HI, headers=KEY)
    other = await client.post("/v1/tasks/ai.chat", json={"message": "ho"}, headers=KEY)

    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert len(service.enqueued) == 1


async def test_a_key_belongs_to_a_user_and_a_route(
    ask: Any, task_store: Any, tmp_path: Path
) -> None:
    """Two users, and two routes, may use the same one."""
    keys = tmp_path / "keys.json"
    ann, bob = ({"x-api-key": create_key(keys, user)} for user in ("ann", "bob"))
    environ = {"TRACEBATON_AUTH": "api-key", "TRACEBATON_API_KEYS_FILE": str(keys)}
    service = StoreService(task_store, authenticator=authenticator(Settings.load(environ)))

    async def chat(request: Request) -> Task:
        return await service.enqueue("ai.chat", await body(request, Chat))

    service.routes = [("/v1/ai/chat", chat, ["POST"])]
    async with ask(create_app(service)) as client:
        answers = [
            await client.post(path, json=HI, headers={**KEY, **user})
            for path in ("/v1/tasks/ai.chat", "/v1/ai/chat")
            for user in (ann, bob)
        ]
        again = await client.post("/v1/ai/chat", json=HI, headers={**KEY, **bob})

    assert len({answer.json()["task_id"] for answer in answers}) == 4
    assert not any(replayed(answer) for answer in answers)
    assert again.content == answers[3].content
    assert replayed(again)


async def test_while_the_first_is_handled_others_wait(client: Any, service: StoreService) -> None:
    """409 with Retry-After, whoever asks; afterwards its answer."""
    entered, go = asyncio.Event(), asyncio.Event()
    enqueue = service.enqueue

    async def slow(task_type: str, data: Any) -> Task:
        entered.set()
        await go.wait()
        return await enqueue(task_type, data)

    service.enqueue = slow  # type: ignore[method-assign]
    first = asyncio.create_task(client.post("/v1/tasks/ai.chat", json=HI, headers=KEY))
    await asyncio.wait_for(entered.wait(), 5)
    busy = await client.post("/v1/tasks/ai.chat", json=HI, headers=KEY)
    other = await client.post("/v1/tasks/ai.chat", json={"message": "ho"}, headers=KEY)
    go.set()
    answer = await first
    later = await client.post("/v1/tasks/ai.chat", json=HI, headers=KEY)

    assert (busy.status_code, busy.json()["code"], busy.json()["retryable"]) == (
        409,
        "request_in_progress",
        True,
    )
    assert int(busy.headers["retry-after"]) >= 1
    assert other.status_code == 422
    assert answer.status_code == 202
    assert later.content == answer.content


async def test_of_many_at_once_one_is_handled(client: Any, service: StoreService) -> None:
    """Everyone else waits or gets the same answer."""
    answers = await asyncio.gather(
        *(client.post("/v1/tasks/ai.chat", json=HI, headers=KEY) for _ in range(30))
    )

    accepted = [answer for answer in answers if answer.status_code == 202]
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert [replayed(answer) for answer in accepted].count(False) == 1
    assert len({answer.content for answer in accepted}) == 1
    assert len(service.enqueued) == 1


async def test_errors_are_not_kept(client: Any, service: StoreService) -> None:
    """What was refused or failed did nothing: the same key may try again."""
    enqueue = service.enqueue

    async def away(task_type: str, data: Any) -> Task:
        raise QueueUnavailable

    invalid = await client.post("/v1/tasks/ai.chat", json={}, headers=KEY)
    garbage = await client.post("/v1/tasks/ai.chat", content=b"{", headers=KEY)
    media = await client.post(
        "/v1/tasks/ai.chat", content=b"{}", headers={**KEY, "content-type": "text/plain"}
    )
    service.enqueue = away  # type: ignore[method-assign]
    failed = await client.post("/v1/tasks/ai.chat", json=HI, headers=KEY)
    service.enqueue = enqueue  # type: ignore[method-assign]
    good = await client.post("/v1/tasks/ai.chat", json=HI, headers=KEY)

    answers = (invalid, garbage, media, failed, good)
    assert [answer.status_code for answer in answers] == [422, 415, 415, 503, 202]
    assert not replayed(good)


@pytest.mark.parametrize(
    ("key", "status"),
    [
        ("x" * 255, 202),
        ('"quoted key"', 202),
        ("with spaces inside", 202),
        ("x" * 256, 400),
        ("", 400),
        ('""', 400),
        ("tab\tinside", 400),
        ("café".encode("latin-1"), 400),
    ],
)
async def test_a_key_is_a_line_of_text(client: Any, key: Any, status: int) -> None:
    """Quoted as in the draft or bare; anything else is a clear error."""
    answer = await client.post("/v1/tasks/ai.chat", json=HI, headers={"idempotency-key": key})

    assert answer.status_code == status


async def test_quotes_are_not_part_of_the_key(client: Any) -> None:
    """Both ways to send one are the same key."""
    first = await client.post("/v1/tasks/ai.chat", json=HI, headers={"idempotency-key": '"a b"'})
    second = await client.post("/v1/tasks/ai.chat", json=HI, headers={"idempotency-key": "a b"})

    assert replayed(second)
    assert first.content == second.content


async def test_two_keys_are_none(client: Any) -> None:
    """Who sends several has to choose."""
    headers = [("idempotency-key", "a"), ("idempotency-key", "b")]
    answer = await client.post("/v1/tasks/ai.chat", json=HI, headers=headers)

    assert answer.status_code == 400


async def test_an_unknown_type_takes_no_key(client: Any, service: StoreService) -> None:
    """404, with or without one."""
    answer = await client.post("/v1/tasks/fax", json=HI, headers=KEY)

    assert answer.status_code == 404


async def test_reading_needs_no_key(client: Any) -> None:
    """On GET and DELETE the header means nothing."""
    task_id = (await client.post("/v1/tasks/ai.chat", json=HI)).json()["task_id"]
    shown = await client.get(f"/v1/tasks/{task_id}", headers=KEY)
    cancelled = await client.delete(f"/v1/tasks/{task_id}", headers=KEY)
    again = await client.delete(f"/v1/tasks/{task_id}", headers=KEY)

    assert [answer.status_code for answer in (shown, cancelled, again)] == [200, 202, 409]


async def test_without_a_store_a_key_cannot_be_honoured(ask: Any) -> None:
    """It is said, instead of doing it twice."""
    async with ask(create_app(StoreService(None))) as client:
        answer = await client.post("/v1/tasks/ai.chat", json=HI, headers=KEY)

    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


async def test_any_route_may_be_asked_twice(ask: Any, task_store: Any) -> None:
    """JSON answers are kept whole, headers included; streams and errors are not."""
    calls: list[str] = []
    service = StoreService(task_store)

    def plain(request: Request) -> Response:
        calls.append("plain")
        answer = JSONResponse({"n": len(calls)}, status_code=201, headers={"x-own": "kept"})
        answer.set_cookie("session", "secret")
        return answer

    async def stream(request: Request) -> Response:
        calls.append("stream")
        return StreamingResponse(iter([b"x"]))

    async def large(request: Request) -> Response:
        calls.append("large")
        return Response(b"x" * 100_000)

    async def binary(request: Request) -> Response:
        calls.append("binary")
        return Response(b"\xff")

    async def refused(request: Request) -> Response:
        calls.append("refused")
        return JSONResponse({}, status_code=418)

    service.routes = [
        (f"/{endpoint.__name__}", endpoint, ["POST"])
        for endpoint in (plain, stream, large, binary, refused)
    ]
    async with ask(create_app(service)) as client:
        first, second = [await client.post("/plain", headers=KEY) for _ in range(2)]
        for path in ("/stream", "/large", "/binary", "/refused"):
            answers = [await client.post(path, headers=KEY) for _ in range(2)]
            assert not any(replayed(answer) for answer in answers)

    assert (second.status_code, second.json(), second.headers["x-own"]) == (201, {"n": 1}, "kept")
    assert "set-cookie" in first.headers
    assert "set-cookie" not in second.headers
    twice = [name for name in ("stream", "large", "binary", "refused") for _ in range(2)]
    assert calls == ["plain", *twice]


def expire(database: Path) -> None:
    """Let the lease of every claim be over, as if its process had died long ago."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE claims SET lease_until = 1")
        connection.commit()


async def test_a_request_that_died_behind_its_task_is_answered(ask: Any, tmp_path: Path) -> None:
    """Nobody kept its answer, so it is made again from the task, as it was then."""

    class Dying(SqliteTaskStore):
        async def settle_claim(self, claim: Any, *, response: str) -> None:
            raise StoreUnavailable

    database = tmp_path / "tasks.db"
    store = Dying(database)
    service = StoreService(store)
    async with ask(create_app(service)) as client:
        first = await client.post("/v1/tasks/ai.chat", json=HI, headers=KEY)
        await store.start(first.json()["task_id"], attempt=1)
        busy = await client.post("/v1/tasks/ai.chat", json=HI, headers=KEY)
        expire(database)
        later = await client.post("/v1/tasks/ai.chat", json=HI, headers=KEY)
    await store.close()

    assert (first.status_code, busy.status_code, later.status_code) == (202, 409, 202)
    assert later.json() == first.json()
    assert later.headers["location"] == first.headers["location"]
    assert replayed(later)
    assert len(service.enqueued) == 1


async def test_a_request_that_died_before_its_task_is_done_by_the_next(
    ask: Any, tmp_path: Path, task_store: Any
) -> None:
    """After its lease; a frozen first one that wakes up then saves nothing."""
    entered, go = asyncio.Event(), asyncio.Event()
    service = StoreService(task_store)
    enqueue = service.enqueue

    async def frozen(task_type: str, data: Any) -> Task:
        if not entered.is_set():
            entered.set()
            await go.wait()
        return await enqueue(task_type, data)

    service.enqueue = frozen  # type: ignore[method-assign]
    async with ask(create_app(service)) as client:
        first = asyncio.create_task(client.post("/v1/tasks/ai.chat", json=HI, headers=KEY))
        await asyncio.wait_for(entered.wait(), 5)
        expire(tmp_path / "tasks.db")
        second = await client.post("/v1/tasks/ai.chat", json=HI, headers=KEY)
        go.set()
        late = await first
        tasks = (await client.get("/v1/tasks")).json()["tasks"]

    assert (second.status_code, late.status_code) == (202, 409)
    assert [task["task_id"] for task in tasks] == [second.json()["task_id"]]


async def test_a_long_request_keeps_its_key(
    client: Any, service: StoreService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes: it says all the time that it is there."""
    monkeypatch.setattr(idempotency, "LEASE_SECONDS", 0.3)
    entered, go = asyncio.Event(), asyncio.Event()
    enqueue = service.enqueue

    async def slow(task_type: str, data: Any) -> Task:
        entered.set()
        await go.wait()
        return await enqueue(task_type, data)

    service.enqueue = slow  # type: ignore[method-assign]
    first = asyncio.create_task(client.post("/v1/tasks/ai.chat", json=HI, headers=KEY))
    await asyncio.wait_for(entered.wait(), 5)
    loop = asyncio.get_running_loop()
    until = loop.time() + 0.9
    answers = []
    while loop.time() < until:
        answers.append(await client.post("/v1/tasks/ai.chat", json=HI, headers=KEY))
    go.set()

    assert {answer.status_code for answer in answers} == {409}
    assert (await first).status_code == 202


async def test_a_cancelled_request_lets_go(
    client: Any, service: StoreService, task_store: Any
) -> None:
    """Whoever asks next is the first."""
    entered = asyncio.Event()
    enqueue = service.enqueue

    async def hanging(task_type: str, data: Any) -> Task:
        entered.set()
        await asyncio.sleep(600)
        raise AssertionError

    service.enqueue = hanging  # type: ignore[method-assign]
    first = asyncio.create_task(client.post("/v1/tasks/ai.chat", json=HI, headers=KEY))
    await asyncio.wait_for(entered.wait(), 5)
    first.cancel()
    await asyncio.wait([first])
    service.enqueue = enqueue  # type: ignore[method-assign]
    second = await client.post("/v1/tasks/ai.chat", json=HI, headers=KEY)

    assert (second.status_code, replayed(second)) == (202, False)


def test_bodies_are_compared_by_what_they_say() -> None:
    """White space and the order of keys are no difference; a value, or what is no JSON, is."""
    same = [b'{"a":1,"b":2}', b'{ "b": 2,\n"a": 1 }']
    other = [b'{"a":1,"b":3}', b"", b"{", b"[" * 100_000, json.dumps({"a": 1}).encode()]
    prints = [idempotency._fingerprint(raw) for raw in (*same, *other)]

    assert prints[0] == prints[1]
    assert len(set(prints)) == len(prints) - 1

"""Lists of tasks over HTTP, and cancelling one."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from http_service import StoreService

from tracebaton.http.app import create_app
from tracebaton.http.auth import authenticator
from tracebaton.http.keys import create_key
from tracebaton.settings import Settings
from tracebaton.tasks import TaskStatus

Post = Callable[..., Awaitable[str]]


@pytest.fixture
async def client(ask: Any, task_store: Any) -> AsyncIterator[Any]:
    """Ask a service without authentication."""
    async with ask(create_app(StoreService(task_store))) as client:
        yield client


async def submitted(client: Any, **options: Any) -> str:
    """Submit a task and return its id."""
    answer = await client.post("/v1/tasks/ai.chat", json={"message": "hi"}, **options)
    task_id: str = answer.json()["task_id"]
    return task_id


async def test_a_list_shows_the_resources_themselves(client: Any, task_store: Any) -> None:
    """Newest first, each as its own address shows it."""
    ids = [await submitted(client) for _ in range(3)]
    await task_store.start(ids[1], attempt=1)
    await task_store.finish(ids[1], TaskStatus.SUCCEEDED, attempt=1, result={"reply": "ho"})
    answer = await client.get("/v1/tasks")
    single = [(await client.get(f"/v1/tasks/{task_id}")).json() for task_id in reversed(ids)]

    assert answer.status_code == 200
    assert answer.json() == {"tasks": single, "next_cursor": None}
    assert answer.headers["cache-control"] == "private, no-cache"


async def test_pages_hold_under_inserts(client: Any) -> None:
    """Each task that was there is met once; filters and the cursor go together."""
    ids = [await submitted(client) for _ in range(7)]
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 2, "status": "queued", "type": "ai.chat"}
    while True:
        page = (await client.get("/v1/tasks", params=query)).json()
        seen += [task["task_id"] for task in page["tasks"]]
        await submitted(client)
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]

    assert seen == list(reversed(ids))


async def test_filters(client: Any, task_store: Any) -> None:
    """By status and by type; a type that nobody knows has no tasks."""
    first, second = await submitted(client), await submitted(client)
    await task_store.start(first, attempt=1)

    async def found(**query: str) -> list[str]:
        answer = await client.get("/v1/tasks", params=query)
        return [task["task_id"] for task in answer.json()["tasks"]]

    assert await found(status="running") == [first]
    assert await found(status="queued", type="ai.chat") == [second]
    assert await found(type="fax") == []
    assert await found(status="running", type="fax") == []
    assert await found(unknown="x") == [second, first]


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("status=done", "/status"),
        ("status=", "/status"),
        ("status=queued&status=dead", "/status"),
        ("limit=0", "/limit"),
        ("limit=1001", "/limit"),
        ("limit=-1", "/limit"),
        ("limit=1e3", "/limit"),
        ("limit=" + "9" * 5000, "/limit"),
        ("limit=%D9%A3", "/limit"),  # three, in Arabic digits
        ("cursor=x", "/cursor"),
        ("cursor=", "/cursor"),
        ("cursor=%00", "/cursor"),
    ],
)
async def test_a_query_that_does_not_fit_is_said(client: Any, query: str, pointer: str) -> None:
    """422 with the name of the parameter."""
    answer = await client.get(f"/v1/tasks?{query}")

    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


async def test_every_bad_parameter_is_named(client: Any) -> None:
    """At once, so that nobody has to ask four times."""
    answer = await client.get("/v1/tasks?status=x&limit=x&type=a&type=b")

    assert {error["pointer"] for error in answer.json()["errors"]} == {"/status", "/limit", "/type"}


async def test_cancelling_is_accepted_once(client: Any, task_store: Any) -> None:
    """202 with the task as it is then; 409 from there on; 404 for what never was."""
    queued, running = await submitted(client), await submitted(client)
    await task_store.start(running, attempt=1)
    first = [await client.delete(f"/v1/tasks/{task_id}") for task_id in (queued, running)]
    again = [await client.delete(f"/v1/tasks/{task_id}") for task_id in (queued, running)]
    unknown = await client.delete("/v1/tasks/unknown")
    shown = await client.get(f"/v1/tasks/{running}")

    assert [answer.status_code for answer in first] == [202, 202]
    assert [answer.json()["status"] for answer in first] == ["cancelled"] * 2
    assert first[1].json() == shown.json()
    assert first[1].headers["location"] == f"/v1/tasks/{running}"
    assert shown.json()["ended_at"] is not None
    assert {(a.status_code, a.json()["code"]) for a in again} == {(409, "conflict")}
    assert unknown.status_code == 404


@pytest.mark.parametrize("status", [TaskStatus.SUCCEEDED, TaskStatus.FAILED, TaskStatus.DEAD])
async def test_what_ended_cannot_be_cancelled(
    client: Any, task_store: Any, status: TaskStatus
) -> None:
    """409, and nothing changes."""
    task_id = await submitted(client)
    await task_store.start(task_id, attempt=1)
    await task_store.finish(task_id, status, attempt=1, error={"code": "x"})
    answer = await client.delete(f"/v1/tasks/{task_id}")

    assert answer.status_code == 409
    assert (await client.get(f"/v1/tasks/{task_id}")).json()["status"] == status


async def test_of_many_who_cancel_one_does(client: Any) -> None:
    """At the same time."""
    task_id = await submitted(client)
    answers = await asyncio.gather(*(client.delete(f"/v1/tasks/{task_id}") for _ in range(8)))

    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 7


async def test_a_user_lists_and_cancels_his_own(ask: Any, task_store: Any, tmp_path: Path) -> None:
    """Somebody else's tasks are not there, in no list and for no request."""
    keys = tmp_path / "keys.json"
    ann, bob = ({"x-api-key": create_key(keys, user)} for user in ("ann", "bob"))
    environ = {"TRACEBATON_AUTH": "api-key", "TRACEBATON_API_KEYS_FILE": str(keys)}
    service = StoreService(task_store, authenticator=authenticator(Settings.load(environ)))
    async with ask(create_app(service)) as client:
        anns = [await submitted(client, headers=ann) for _ in range(3)]
        bobs = await submitted(client, headers=bob)
        lists = [(await client.get("/v1/tasks", headers=user)).json() for user in (ann, bob)]
        page = (await client.get("/v1/tasks?limit=1", headers=ann)).json()
        others = await client.get(f"/v1/tasks?cursor={page['next_cursor']}", headers=bob)
        refused = await client.delete(f"/v1/tasks/{anns[0]}", headers=bob)
        still = await client.get(f"/v1/tasks/{anns[0]}", headers=ann)

    assert [[task["task_id"] for task in one["tasks"]] for one in lists] == [
        list(reversed(anns)),
        [bobs],
    ]
    assert [task["task_id"] for task in others.json()["tasks"]] == []
    assert (refused.status_code, still.json()["status"]) == (404, "queued")


async def test_without_a_store_there_is_no_list(ask: Any) -> None:
    """A service that keeps no tasks says so."""
    async with ask(create_app(StoreService(None))) as client:
        answers = [await client.get("/v1/tasks"), await client.delete("/v1/tasks/x")]

    assert [answer.status_code for answer in answers] == [404, 404]

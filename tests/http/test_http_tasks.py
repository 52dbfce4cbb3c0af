"""Tasks over HTTP: what a 202 says, who may look at one, and what has not changed."""

import re
from pathlib import Path
from typing import Any

import pytest
from http_service import Chat, StoreService, chat
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from tracebaton.context import current
from tracebaton.http.app import create_app, create_health_app
from tracebaton.http.auth import authenticator
from tracebaton.http.body import body
from tracebaton.http.keys import create_key
from tracebaton.settings import Settings
from tracebaton.tasks import Task, TaskStatus, TaskType


async def test_a_task_is_accepted_with_its_address(
    ask: Any, task_store: Any, provider: Any, spans: Any
) -> None:
    """202, Location and exactly the fields of the contract; the span names the task."""
    app = create_app(StoreService(task_store), tracer_provider=provider)

    async with ask(app) as client:
        answer = await client.post("/v1/tasks/ai.chat", json={"message": "hi"})

    (span,) = spans()
    task = answer.json()
    task_id, trace_id = task["task_id"], f"{span.context.trace_id:032x}"
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/tasks/{task_id}"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", task.pop("created_at"))
    assert task == {
        "task_id": task_id,
        "type": "ai.chat",
        "status": "queued",
        "correlation_id": trace_id,
        "trace_id": trace_id,
        "links": {
            "self": f"/v1/tasks/{task_id}",
            "events": f"/v1/tasks/{task_id}/events",
            "trace": f"http://viewer/#/trace/{trace_id}",
        },
    }
    assert span.name == "POST /v1/tasks/{type}"
    assert span.attributes["tracebaton.task.id"] == task_id


@pytest.mark.parametrize("name", ["reports/daily", "reports/events", "ü b"])
async def test_a_type_of_any_name_has_its_path(
    ask: Any, task_store: Any, provider: Any, spans: Any, name: str
) -> None:
    """Slashes too; other methods are told which one there is, and other paths keep theirs."""
    service = StoreService(task_store)
    service.registry.add(TaskType(name=name, model=Chat, handler=chat))
    async with ask(create_app(service, tracer_provider=provider)) as client:
        accepted = await client.post(f"/v1/tasks/{name}", json={"message": "hi"})
        put = await client.put(f"/v1/tasks/{name}", json={"message": "hi"})
        unknown = await client.post("/v1/tasks/unknown/daily", json={"message": "hi"})
        events = await client.post("/v1/tasks/unknown/events", json={"message": "hi"})

    assert (accepted.status_code, accepted.json()["type"]) == (202, name)
    assert spans()[0].name == "POST /v1/tasks/{type}"
    assert put.status_code == 405
    assert "POST" in put.headers["allow"]
    assert unknown.status_code == 404
    assert (events.status_code, events.headers["allow"]) == (405, "GET, HEAD")


async def test_a_task_can_be_looked_at_until_it_changes(ask: Any, task_store: Any) -> None:
    """The same state has the same strong ETag and answers 304; a new state has another."""
    async with ask(create_app(StoreService(task_store))) as client:
        accepted = await client.post("/v1/tasks/ai.chat", json={"message": "hi"})
        url = accepted.headers["location"]
        first = await client.get(url)
        etag = first.headers["etag"]
        same = await client.get(url, headers={"if-none-match": f'"other", W/{etag}'})
        any_state = await client.get(url, headers={"if-none-match": "*"})
        lines = await client.get(
            url, headers=[("if-none-match", '"other"'), ("if-none-match", etag)]
        )
        await task_store.start(accepted.json()["task_id"], attempt=1)
        changed = await client.get(url, headers={"if-none-match": etag})

    assert first.json()["status"] == "queued"
    assert re.fullmatch(r'"[0-9a-f]{32}"', etag)
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)
    assert any_state.status_code == lines.status_code == 304
    assert (changed.status_code, changed.json()["status"]) == (200, "running")
    assert changed.headers["etag"] != etag
    assert changed.headers["cache-control"] == "private, no-cache"


async def test_a_result_that_is_no_unicode_can_be_read(ask: Any, task_store: Any) -> None:
    """Half a surrogate pair in a handler's result comes back escaped, not as a 500."""
    async with ask(create_app(StoreService(task_store))) as client:
        accepted = await client.post("/v1/tasks/ai.chat", json={"message": "hi"})
        task_id = accepted.json()["task_id"]
        await task_store.start(task_id, attempt=1)
        await task_store.finish(task_id, TaskStatus.SUCCEEDED, attempt=1, result="\ud83d")
        answer = await client.get(f"/v1/tasks/{task_id}")

    assert answer.status_code == 200
    assert b'"result":"\\ud83d"' in answer.content


async def test_only_its_owner_sees_a_task(ask: Any, task_store: Any, tmp_path: Path) -> None:
    """For every other user the task is not there."""
    keys = tmp_path / "keys.json"
    ann, bob = (create_key(keys, user) for user in ("ann", "bob"))
    service = StoreService(
        task_store,
        authenticator=authenticator(
            Settings.load({"TRACEBATON_AUTH": "api-key", "TRACEBATON_API_KEYS_FILE": str(keys)})
        ),
    )

    async with ask(create_app(service)) as client:
        accepted = await client.post(
            "/v1/tasks/ai.chat", json={"message": "hi"}, headers={"authorization": f"Bearer {ann}"}
        )
        url = accepted.headers["location"]
        own = await client.get(url, headers={"x-api-key": ann})
        other = await client.get(url, headers={"x-api-key": bob})
        nobody = await client.get(url)
        missing = await client.get("/v1/tasks/none", headers={"x-api-key": ann})

    assert own.json()["user_id"] == "ann"
    assert (other.status_code, other.json()["code"]) == (404, "not_found")
    assert other.json()["detail"] == missing.json()["detail"]
    assert (nobody.status_code, nobody.headers["www-authenticate"]) == (401, "Bearer")


async def test_without_a_store_there_are_no_task_resources(ask: Any) -> None:
    """A service that keeps no tasks knows none."""
    async with ask(create_app(StoreService(None))) as client:
        answer = await client.get("/v1/tasks/some")

    assert answer.status_code == 404


async def test_an_unknown_type_is_not_found_and_a_wrong_body_is_said(
    ask: Any, task_store: Any
) -> None:
    """404 before the body is read, 422 with the field, and nothing was enqueued."""
    service = StoreService(task_store)
    async with ask(create_app(service)) as client:
        unknown = await client.post("/v1/tasks/ai.paint", content=b"not json")
        wrong = await client.post("/v1/tasks/ai.chat", json={"message": ""})
        method = await client.put("/v1/tasks/ai.chat", json={})

    assert unknown.status_code == 404
    assert (wrong.status_code, wrong.json()["code"]) == (422, "validation_failed")
    assert wrong.json()["errors"] == [
        {"pointer": "/message", "detail": "String should have at least 1 character"}
    ]
    assert (method.status_code, method.headers["allow"]) == (
        405,
        "DELETE, GET, HEAD, POST",
    )
    assert service.enqueued == []


async def test_a_route_may_answer_with_what_it_has(ask: Any, task_store: Any) -> None:
    """A task becomes a 202; a model, JSON data and a response are answered as they are."""
    service = StoreService(task_store)

    async def submit(request: Request) -> Task:
        return await service.enqueue("ai.chat", await body(request, Chat))

    async def model(request: Request) -> Chat:
        return Chat(message="said")

    def plain(request: Request) -> dict[str, Any]:
        return {"correlation_id": current().correlation_id}

    async def response(request: Request) -> PlainTextResponse:
        return PlainTextResponse("text")

    service.routes = [
        ("/v1/ai/chat", submit, ["POST"]),
        ("/model", model, ["GET"]),
        ("/plain", plain, ["GET"]),
        ("/response", response, ["GET"]),
    ]
    async with ask(create_app(service)) as client:
        task = await client.post("/v1/ai/chat", json={"message": "hi"})
        said = await client.get("/model")
        in_thread = await client.get("/plain", headers={"x-correlation-id": "c-1"})
        text = await client.get("/response")
        index = await client.get("/")

    assert task.status_code == 202
    assert said.json() == {"message": "said"}
    assert in_thread.json() == {"correlation_id": "c-1"}
    assert text.text == "text"
    assert index.json()["task_types"] == ["ai.chat"]


async def test_plain_paths_are_found_as_without_a_short_cut(
    ask: Any, task_store: Any, provider: Any, spans: Any
) -> None:
    """Who stands first wins, a 405 names all methods, and the span has the template."""

    def says(text: str) -> Any:
        return lambda request: PlainTextResponse(text)

    service = StoreService(task_store)
    service.routes = [
        ("/v1/tasks/ai.chat", says("never"), ["POST"]),
        ("/a/{x}", says("any"), ["GET"]),
        ("/a/b", says("never"), ["GET"]),
        ("/a/b", says("put"), ["PUT"]),
        ("/c", says("get"), ["GET"]),
        ("/c", says("post"), ["POST"]),
    ]
    async with ask(create_app(service, tracer_provider=provider)) as client:
        answers = [
            await client.request(method, path)
            for method, path in [
                *[("GET", "/a/b"), ("PUT", "/a/b"), ("GET", "/c"), ("POST", "/c")],
                *[("DELETE", "/c"), ("GET", "/c/"), ("POST", "/v1/tasks/ai.chat")],
            ]
        ]

    found = [(answer.status_code, answer.text[:5]) for answer in answers[:4]]
    assert found == [(200, "any"), (200, "put"), (200, "get"), (200, "post")]
    assert (answers[4].status_code, answers[4].headers["allow"]) == (405, "GET, HEAD, POST")
    assert (answers[5].status_code, answers[5].headers["location"]) == (307, "http://localhost/c")
    assert answers[6].json()["code"] == "malformed_body"
    assert [span.name for span in spans()][:5] == [
        *["GET /a/{x}", "PUT /a/b", "GET /c", "POST /c", "DELETE /c"]
    ]


async def test_probes_answer_anyone_without_detail(ask: Any, lines: Any, spans: Any) -> None:
    """No credentials, any Host, no name of a dependency; a change of readiness is one line."""
    service = StoreService(None)
    async with ask(create_app(service)) as client:
        client.base_url = "http://10.1.2.3:8000"
        alive = await client.get("/livez")
        started = await client.get("/startupz")
        ready = await client.get("/readyz")
        service.state = {"queue": False, "task_store": True}
        away = [await client.get("/readyz") for _ in range(2)]
        service.state = {"queue": True}
        back = await client.get("/readyz")

    assert [alive.status_code, started.status_code, ready.status_code] == [200, 200, 200]
    assert [answer.status_code for answer in away] == [503, 503]
    assert away[0].json()["detail"] == "This instance is not ready."
    assert "queue" not in away[0].text
    assert int(away[0].headers["retry-after"]) > 0
    assert away[0].headers["x-correlation-id"] == away[0].json()["correlation_id"]
    assert back.status_code == 200
    assert [(line["event"], line.get("failing")) for line in lines.all] == [
        ("service.not_ready", ["queue"]),
        ("service.ready", None),
    ]
    assert spans() == ()


async def test_probes_answer_under_a_prefix(ask: Any, tmp_path: Path) -> None:
    """A server that is told its prefix writes it into the path; a probe stays a probe."""
    keys = tmp_path / "keys.json"
    create_key(keys, "ann")
    environ = {"TRACEBATON_AUTH": "api-key", "TRACEBATON_API_KEYS_FILE": str(keys)}
    service = StoreService(None, authenticator=authenticator(Settings.load(environ)))
    async with ask(create_app(service), root_path="/prefix") as client:
        probe = await client.get("/prefix/livez")
        other = await client.get("/prefix/v1/tasks/some")

    assert (probe.status_code, other.status_code) == (200, 401)


@pytest.mark.parametrize(
    ("path", "word", "level"),
    [
        ("/livez", "alive", "error"),
        ("/readyz", "ready", "warning"),
        ("/startupz", "started", "warning"),
    ],
)
async def test_each_probe_of_a_worker_has_a_state_of_its_own(
    ask: Any, lines: Any, path: str, word: str, level: str
) -> None:
    """Only the one that fails says so, and a change of it is one line."""
    works = {"alive": True, "ready": True, "started": True}

    def probe(name: str) -> Any:
        async def answer() -> dict[str, bool]:
            return {f"what makes it {name}": works[name]}

        return answer

    app = create_health_app(probe("ready"), alive=probe("alive"), started=probe("started"))
    async with ask(app) as client:
        before = await client.get(path)
        works[word] = False
        failed = {other: await client.get(other) for other in ("/livez", "/readyz", "/startupz")}
        works[word] = True
        after = await client.get(path)

    assert (before.status_code, after.status_code) == (200, 200)
    assert [other for other, answer in failed.items() if answer.status_code == 503] == [path]
    assert failed[path].json()["detail"] == f"This instance is not {word}."
    assert [(line["event"], line["level"], line.get("failing")) for line in lines.all] == [
        (f"service.not_{word}", level, [f"what makes it {word}"]),
        (f"service.{word}", "info", None),
    ]


async def test_a_worker_has_a_health_port(ask: Any) -> None:
    """The probes alone; a readiness check that fails itself is not ready."""

    async def broken() -> dict[str, bool]:
        raise OSError("no route to host")

    async with ask(create_health_app(broken)) as client:
        alive = await client.get("/livez")
        ready = await client.get("/readyz")
        other = await client.get("/v1/tasks/some")

    assert alive.status_code == 200
    assert (ready.status_code, ready.headers["content-type"]) == (503, "application/problem+json")
    assert "OSError" not in ready.text
    assert (other.status_code, other.json()["code"]) == (404, "not_found")

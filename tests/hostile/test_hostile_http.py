"""Hostile requests, by the thousand, to the real application in this process."""

import asyncio
import gc
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from opentelemetry.trace import SpanKind

from tracebaton.http.keys import create_key
from tracebaton.testing import Stage

from .answers import Answer, ask, check, from_loopback, is_note, is_quiet
from .conftest import Cases, open_files, threads
from .desk import create_desk
from .hostile_requests import Hostile, requests, weighted
from .wire import Wire

pytestmark = pytest.mark.filterwarnings(
    "ignore::hypothesis.errors.HypothesisWarning"  # a failing example may be long
)

#: What the victim's task knows and nobody else may read.
SECRET = "what-alice-said-7d1f"
#: Log events that would say that telemetry itself went wrong.
_WRONG = re.compile("Failed to detach|Traceback|different Context|telemetry.failed")
_IDS = st.sampled_from(((b"x-correlation-id", b"mine-1"), (b"x-request-id", b"mine-2")))


class Counter:
    """A stage, asked without a server, that accounts for each request and each message."""

    def __init__(self, runner: asyncio.Runner, stage: Stage, app: Any) -> None:
        self._runner = runner
        self._app = app
        self._wire = Wire(stage.sqs.url, stage.sqs.queue_url("tasks"))
        self.stage = stage
        self.accepted: dict[str, dict[str, Any]] = {}
        self.statuses: dict[int | None, int] = {}
        self.users: set[str | None] = set()

    def ask(self, request: Hostile) -> Answer:
        """Send *request* and check what is promised to everybody."""
        for captured in (self.stage.spans, self.stage.logs, self.stage.events):
            captured.clear()
        before = self.sent
        answer = self._runner.run(ask(self._app, request))
        self.statuses[answer.status] = self.statuses.get(answer.status, 0) + 1
        check(request, answer)
        accepted = answer.status == 202
        assert self.sent - before in ({1} if accepted else {0, int(request.cut)})
        if accepted:
            assert is_note(request), "nothing valid was sent"
            self.accepted[answer.json()["task_id"]] = json.loads(request.body.decode("utf-8-sig"))
        self._check_telemetry(request, answer)
        return answer

    def _check_telemetry(self, request: Hostile, answer: Answer) -> None:
        """One access line and one SERVER span with the answer's ids, none of a probe's."""
        lines = [line for line in self.stage.logs if line["logger"] != "httpx"]  # our own
        assert [line for line in lines if _WRONG.search(json.dumps(line, default=str))] == []
        told = [line for line in lines if line["event"] == "http.request"]
        servers = [span for span in self.stage.spans if span.kind is SpanKind.SERVER]
        assert len(told) == len(servers) == int(not is_quiet(request))
        if answer.correlation_id is not None and told:
            own = answer.correlation_id.decode()
            assert {line["correlation_id"] for line in lines} == {own}
            spans = [dict(span.attributes or {}) for span in servers]
            assert all(span["tracebaton.correlation_id"] == own for span in spans)
            self.users |= {line["user_id"] for line in lines}
        assert self.stage.events == []

    @property
    def sent(self) -> int:
        """How many messages the queue ever took."""
        return self.stage.sqs.stats()["tasks"]["sent"]

    def settle(self, *, user_id: str | None) -> None:
        """Look at the messages since the last time; all that was told is about *user_id*."""
        messages = self._runner.run(self._wire.take("tasks"))
        found = {event["id"]: event for event in (json.loads(m["Body"]) for m in messages)}
        assert found.keys() >= self.accepted.keys()
        for task_id, document in self.accepted.items():
            assert found[task_id]["data"]["text"] == document["text"]
        assert {event.get("userid") for event in found.values()} <= {user_id}
        assert self.users <= {user_id, None}
        self.accepted.clear()
        self.users.clear()

    def work(self) -> None:
        """Let the worker do what waits."""
        self._runner.run(self.stage.run_until_idle())

    def close(self) -> None:
        """Close the connection to the queue."""
        self._runner.run(self._wire.close())


@contextmanager
def counting(env: dict[str, str]) -> Iterator[Counter]:
    """Run a desk on a stage; afterwards nothing of it may be left in this process."""
    gc.collect()
    files, running = open_files(), threads()
    with asyncio.Runner() as runner:
        app = create_desk()
        stage = Stage(app, env=env)
        runner.run(stage.__aenter__())
        before = runner.run(_others())  # the application's own: they end with it
        counter = Counter(runner, stage, app.asgi)
        try:
            yield counter
            left = runner.run(_lasting(before))
            assert left == set(), "tasks that outlive their request"
        finally:
            counter.close()
            runner.run(stage.__aexit__(None, None, None))
    gc.collect()
    assert threads() - running == set()
    assert open_files() <= files


async def _others() -> set[asyncio.Task[Any]]:
    own = {asyncio.current_task()}
    return {task for task in asyncio.all_tasks() - own if "Connection" not in repr(task)}


async def _lasting(before: set[Any]) -> set[Any]:
    """Return the tasks that are new since *before* and do not end by themselves."""
    new = await _others() - before
    if new:  # the producer confirms what it sent all together, 50 ms later
        await asyncio.wait(new, timeout=5)
    return {task for task in new if not task.done()}


_TARGETS = st.sampled_from(
    (
        *[b"/v1/tasks/note", b"/v1/ai/chat"] * 6,
        b"/v1/tasks/",
        b"/v1/tasks",
        b"/v1/tasks/note/",
        b"/v1/tasks/note%00",
        b"/v1/tasks/nosuch",
        b"/echo/%ff%fe",
        b"/echo/%ed%a0%80",
        b"/echo/../../etc/passwd",
        b"/echo/%0d%0aSet-Cookie:%20a=b",
        b"/sync",
        b"/stream",
        b"/slow",
    )
)


def test_without_authentication_only_valid_local_requests_do_anything(cases: Cases) -> None:
    """No 5xx, no hang, no foreign host, no id of a malformed header, nothing half enqueued."""
    with counting({}) as counter:

        def one(request: Hostile) -> None:
            answer = counter.ask(request)
            refused = answer.status in (403, 431)
            if not from_loopback(request) and not is_quiet(request) and answer.status is not None:
                assert refused, "a foreign site was answered"

        cases.explore(
            "http, no authentication",
            requests(_TARGETS, _IDS),
            one,
            share=0.4,
            between=lambda: counter.settle(user_id=None),
        )
        assert not cases.long or counter.statuses.keys() >= {202, 200, 400, 403, 404, 405, 422, 431}
        assert counter.ask(_PROPER).status == 202


def test_a_user_gets_nothing_of_another_users(cases: Cases, tmp_path: Path) -> None:
    """Whatever key, id or path is tried: 401 without one's own key, 404 for what is hers."""
    keys = tmp_path / "keys.json"
    alice, mallory = create_key(keys, "alice"), create_key(keys, "mallory")
    env = {"TRACEBATON_AUTH": "api-key", "TRACEBATON_API_KEYS_FILE": str(keys)}
    with counting(env) as counter:
        hers = _enqueued_by(counter, alice)
        own = mallory.encode()

        def one(request: Hostile) -> None:
            answer = counter.ask(request)
            told = b"\n".join((answer.body, *(value for _, value in answer.headers)))
            assert SECRET.encode() not in told
            assert b"alice" not in told
            known = any(own in value for _, value in request.headers)
            if not known and not is_quiet(request) and answer.status is not None:
                assert answer.status in (401, 431)

        cases.explore(
            "http, API keys",
            requests(_targets_at(hers), _credentials(alice, mallory)),
            one,
            share=0.38,
            between=lambda: counter.settle(user_id="mallory"),
        )
        assert not cases.long or counter.statuses.keys() >= {202, 401, 404}


_PROPER = Hostile(
    method="POST",
    target=b"/v1/tasks/note",
    headers=((b"host", b"localhost"), (b"content-type", b"application/json")),
    chunks=(b'{"text": "still here"}',),
    cut=False,
    version="1.1",
)


def _enqueued_by(counter: Counter, key: str) -> str:
    """Let the owner of *key* have a task that ended with a secret, and return its id."""
    headers = (*_PROPER.headers, (b"authorization", f"Bearer {key}".encode()))
    note = json.dumps({"text": SECRET}).encode()
    answer = counter.ask(replace(_PROPER, headers=headers, chunks=(note,)))
    counter.accepted.clear()
    counter.work()
    counter.settle(user_id="alice")
    return str(answer.json()["task_id"])


def _targets_at(task_id: str) -> st.SearchStrategy[bytes]:
    made = [f"/v1/tasks/{task_id}", f"/v1/tasks/{task_id}/events", f"/v1/tasks/{task_id}/"]
    made += [f"/v1/tasks/{task_id}%00", f"/v1/tasks/%2e/{task_id}", f"/v1/tasks/{task_id.upper()}"]
    made += [f"/echo/{task_id}", "/v1/tasks?limit=100", "/v1/tasks?user_id=alice", "/v1/tasks/"]
    return st.one_of(st.sampled_from([path.encode() for path in made]), _TARGETS)


def _credentials(alice: str, mallory: str) -> st.SearchStrategy[tuple[bytes, bytes]]:
    """Headers that claim to be somebody: mallory, or nearly alice."""
    _, key_id, secret = alice.split("_", 2)
    own = mallory.split("_", 2)[2]
    near = [f"tb_{key_id}_{own}", f"tb_{key_id}_", f"tb_{key_id}_{secret[:-1]}", alice.upper()]
    near += [f"tb__{secret}", f"xx_{key_id}_{secret}", f"{alice}x", f"x{alice}", alice[:-1]]
    near += ["", "tb", "_", "__", f"tb_{key_id}_{secret}".replace("_", "-"), f"{alice}\x00"]
    shapes = [
        b"Bearer %b",
        b"bearer %b",
        b"Basic %b",
        b"Bearer",
        b"%b",
        b"Bearer  %b",
        b"Bearer %b,",
    ]
    wrong = st.sampled_from([key.encode() for key in near]) | st.binary(max_size=20)
    key = weighted((2, st.just(mallory.encode())), (1, wrong))
    shaped = st.tuples(st.sampled_from(shapes), key).map(
        lambda pair: pair[0].replace(b"%b", pair[1])
    )
    return st.one_of(
        shaped.map(lambda value: (b"authorization", value)),
        st.just((b"authorization", f"Bearer {mallory}".encode())),
        st.just((b"x-api-key", mallory.encode())),
        key.map(lambda value: (b"x-api-key", value)),
    )

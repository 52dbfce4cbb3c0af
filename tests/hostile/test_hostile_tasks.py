"""Two users who submit, list, cancel and listen in any order, each at what is the other's too."""

import asyncio
import gc
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from tracebaton.http.keys import create_key
from tracebaton.testing import Stage

from .answers import Answer, ask, check
from .conftest import Cases, open_files, threads
from .desk import create_desk
from .hostile_requests import Hostile, weighted
from .wire import Wire

pytestmark = pytest.mark.filterwarnings(
    "ignore::hypothesis.errors.HypothesisWarning"  # a failing example may be long
)

USERS = ("alice", "mallory")
#: Tasks that a step may be about: the latest ones, whosever they are.
_RECENT = 30
#: Values of Last-Event-ID that are no number of an event, so that everything is told.
_NO_NUMBER = (b"", b"-1", b"x", b"9" * 400, b"1.5", "٣".encode())


@dataclass(frozen=True)
class Step:
    """
    One thing that a user does.

    Attributes:
        who: The user's number; another one's tasks are as near as one's own.
        which: Which of the recent tasks it is about, from the latest.
        key: Of idempotency, None for none; the same number is the same key inside one example.
        text: Of the note; a Latin letter alone, so that the same body comes again.
        more: What stands in the query, or the number of the last event.
        times: How often it is done at the same moment.
        cut: The client leaves before its request is whole.
    """

    do: str
    who: int
    which: int
    key: int | None
    text: str
    more: bytes
    times: int
    cut: bool


_queries = st.sampled_from(
    (
        *[b"", b"limit=3", b"limit=1000", b"cursor=MINE", b"cursor=THEIRS", b"cursor=MINE&limit=2"],
        *[b"status=queued", b"status=cancelled&limit=5", b"type=note", b"type=nosuch"],
        *[b"limit=0", b"limit=-1", b"limit=x", b"limit=" + b"9" * 50, b"limit=1001", b"limit=%31"],
        *[b"status=lost", b"status=queued&status=dead", b"cursor=x", b"cursor=", b"cursor=%ff"],
        *[b"user_id=alice", b"cursor=" + b"A" * 5_000, b"cursor=WyJhIiwgImIiXQ", b"type=%00"],
        *[b"cursor=WzFlOTk5LCJhIl0", b"cursor=W251bGwsbnVsbF0", b"type=%ed%a0%80", b"&&=&"],
    )
)
_numbers = st.sampled_from((*_NO_NUMBER, *(b"%d" % number for number in range(5))))
_steps = st.builds(
    Step,
    do=weighted(
        *[(4, st.just("submit")), (3, st.just("list")), (3, st.just("show"))],
        *[(2, st.just("cancel")), (2, st.just("events")), (1, st.just("other method"))],
    ),
    who=st.integers(0, 1),
    which=st.integers(0, 5),
    key=st.none() | st.integers(0, 3),
    text=st.sampled_from(("a", "a", "b", "")),
    more=st.one_of(_queries, _numbers),
    times=weighted((5, st.just(1)), (1, st.integers(2, 5))),
    cut=weighted((9, st.just(False)), (1, st.just(True))),
)


@dataclass
class Known:
    """What has to be true of one task."""

    owner: str
    status: str = "queued"


@dataclass
class Books:
    """
    What two users did, and what follows of it for the next answer.

    Attributes:
        recent: The latest tasks, by id.
        keys: The body and the task of each key that was used, by user and key.
        unsettled: Tasks whose message has not been looked at.
        cursors: Where the last page of each user ended.
    """

    runner: asyncio.Runner
    app: Any
    stage: Stage
    wire: Wire
    credentials: dict[str, bytes]
    recent: dict[str, Known] = field(default_factory=dict)
    keys: dict[tuple[str, bytes], tuple[str, str]] = field(default_factory=dict)
    unsettled: set[str] = field(default_factory=set)
    cursors: dict[str, str] = field(default_factory=dict)
    examples: Iterator[int] = field(default_factory=itertools.count)
    statuses: set[int | None] = field(default_factory=set)

    def play(self, steps: list[Step]) -> int:
        """Do one thing after the other and return how many requests that were."""
        example = next(self.examples)
        done = 0
        for step in steps:
            for captured in (self.stage.spans, self.stage.logs, self.stage.events):
                captured.clear()
            asked = self._request(step, b"%d-%d" % (example, step.key or 0))
            answers = self.runner.run(_all(self.app, asked, step))
            done += len(answers)
            self.statuses |= {answer.status for answer in answers}
            user, other = USERS[step.who], USERS[1 - step.who]
            for answer in answers:
                self._check(step, asked, answer, other.encode())
            if step.do == "submit":
                self._submitted(step, user, asked, answers)
            else:
                for answer in answers:
                    getattr(self, "_" + step.do.replace(" ", "_"))(step, user, asked, answer)
            assert self.stage.events == []
        self.keys.clear()
        return done

    def _request(self, step: Step, key: bytes) -> Hostile:
        headers = [(b"host", b"localhost"), (b"x-api-key", self.credentials[USERS[step.who]])]
        method, target, body = "GET", b"/v1/tasks", b""
        if step.do == "submit":
            method, target, body = "POST", b"/v1/tasks/note", self._note(step)
            headers.append((b"content-type", b"application/json"))
            if step.key is not None:
                headers.append((b"idempotency-key", key))
        elif step.do == "list":
            target += b"?" + self._filled(step)
        else:
            target += b"/" + self._about(step).encode()
            if step.do == "events":
                target += b"/events"
                headers.append((b"last-event-id", step.more))
            method = {"cancel": "DELETE", "other method": "PATCH"}.get(step.do, "GET")
        known = self.recent.get(self._about(step))
        # The stream of a task that waits is ended by its client alone.
        waits = step.do == "events" and known is not None and known.status == "queued"
        return Hostile(
            method, target, tuple(headers), (b"", body), cut=step.cut or waits, version="1.1"
        )

    def _note(self, step: Step) -> bytes:
        text = step.text and f"{step.text} said by {USERS[step.who]}"
        return json.dumps({"text": text}).encode()

    def _filled(self, step: Step) -> bytes:
        user, other = USERS[step.who], USERS[1 - step.who]
        mine, theirs = (self.cursors.get(one, "x").encode() for one in (user, other))
        return step.more.replace(b"MINE", mine).replace(b"THEIRS", theirs)

    def _about(self, step: Step) -> str:
        ids = list(self.recent)
        return ids[-1 - step.which] if step.which < len(ids) else "none"

    def _owned(self, request: Hostile, user: str) -> Known | None:
        found = self.recent.get(request.target.split(b"/")[3].decode())
        return found if found is not None and found.owner == user else None

    def _check(self, step: Step, request: Hostile, answer: Answer, other: bytes) -> None:
        """Hold *answer* against what is promised to everybody, whoever asks for what."""
        told = b"\n".join((answer.body, *(value for _, value in answer.headers)))
        assert other not in told.replace(request.body, b""), "somebody else's"
        if step.do == "events" and answer.status == 200 and not answer.complete:
            assert request.cut, "a stream that nobody ended"
            return
        check(request, answer)

    def _submitted(self, step: Step, user: str, request: Hostile, answers: list[Answer]) -> None:
        given = request.values(b"idempotency-key")
        key = (user, given[0]) if given else None
        known = self.keys.get(key) if key else None
        accepted = [answer for answer in answers if answer.status == 202]
        made = {answer.json()["task_id"] for answer in accepted} - ({known[1]} if known else set())
        allowed: set[int | None] = {202} if step.text or known else {422}
        if known is not None and known[0] != step.text:
            allowed = {422}
        allowed |= {409} if key and len(answers) > 1 else set()
        allowed |= {None} if request.cut else set()
        assert {answer.status for answer in answers} <= allowed
        if key is not None and accepted:
            assert len({answer.json()["task_id"] for answer in accepted}) == 1
            first = sum(answer.header(b"idempotency-replayed") is None for answer in accepted)
            assert first == int(known is None)
            self.keys[key] = (step.text, accepted[0].json()["task_id"])
        if key is None:
            assert len(made) == len(accepted)
        for task_id in made:
            assert self.recent.get(task_id) is None
            self.recent[task_id] = Known(user)
            self.unsettled.add(task_id)
        while len(self.recent) > _RECENT:
            del self.recent[next(iter(self.recent))]

    def _list(self, step: Step, user: str, request: Hostile, answer: Answer) -> None:
        if answer.status != 200:
            assert answer.status in ({422, None} if request.cut else {422})
            return
        page = answer.json()
        assert {task["user_id"] for task in page["tasks"]} <= {user}
        times = [(task["created_at"], task["task_id"]) for task in page["tasks"]]
        assert times == sorted(times, reverse=True)
        for task in page["tasks"]:
            known = self.recent.get(task["task_id"])
            assert known is None or (known.owner, known.status) == (user, task["status"])
        if page["next_cursor"] is not None:
            self.cursors[user] = page["next_cursor"]

    def _show(self, step: Step, user: str, request: Hostile, answer: Answer) -> None:
        owned = self._owned(request, user)
        if answer.status is None:
            assert request.cut
        elif owned is None:
            assert answer.status == 404
        else:
            task = answer.json()
            assert (answer.status, task["user_id"], task["status"]) == (200, user, owned.status)

    def _cancel(self, step: Step, user: str, request: Hostile, answer: Answer) -> None:
        owned = self._owned(request, user)
        if owned is None:
            assert answer.status == 404
        elif answer.status == 202:
            assert (owned.status, answer.json()["status"]) in {
                ("queued", "cancelled"),
                *([("cancelled", "cancelled")] if step.times > 1 else []),
            }
            owned.status = "cancelled"
        else:
            assert (answer.status, owned.status) == (409, "cancelled")

    def _events(self, step: Step, user: str, request: Hostile, answer: Answer) -> None:
        owned = self._owned(request, user)
        if owned is None:
            assert answer.status in ({404, None} if request.cut else {404})
            return
        if not answer.complete or answer.status is None:
            assert request.cut
            return
        after = 0 if step.more in _NO_NUMBER or not step.more.isdigit() else int(step.more)
        after = 0 if after > 2 else after
        numbers = [int(part.split(b"\n")[0]) for part in answer.body.split(b"\nid: ")[1:]]
        expected = list(range(after + 1, 3))
        assert numbers == expected or (request.cut and numbers == expected[: len(numbers)])
        assert answer.status == (204 if after == 2 else 200)

    def _other_method(self, step: Step, user: str, request: Hostile, answer: Answer) -> None:
        assert answer.status in ({405, None} if request.cut else {405})

    def settle(self) -> None:
        """Look at the messages since the last time: one for each task that was accepted."""
        messages = self.runner.run(self.wire.take("tasks"))
        found = [json.loads(message["Body"]) for message in messages]
        assert sorted(event["id"] for event in found) == sorted(self.unsettled)
        assert all(event["data"]["text"].endswith(event["userid"]) for event in found)
        self.unsettled.clear()


async def _all(app: Any, request: Hostile, step: Step) -> list[Answer]:
    """Ask as often as *step* says at the same moment."""
    return list(await asyncio.gather(*(ask(app, request) for _ in range(step.times))))


@contextmanager
def books(folder: Path) -> Iterator[Books]:
    """Run a desk with two users; afterwards nothing of it may be left in this process."""
    keys = folder / "keys.json"
    credentials = {user: create_key(keys, user).encode() for user in USERS}
    env = {
        "TRACEBATON_AUTH": "api-key",
        "TRACEBATON_API_KEYS_FILE": str(keys),
        "TRACEBATON_RATE_PER_MINUTE": "1000000",
    }
    gc.collect()
    files, running = open_files(), threads()
    with asyncio.Runner() as runner:
        app = create_desk()
        stage = Stage(app, env=env)
        runner.run(stage.__aenter__())
        wire = Wire(stage.sqs.url, stage.sqs.queue_url("tasks"))
        try:
            made = Books(runner, app.asgi, stage, wire, credentials)
            yield made
            made.settle()
        finally:
            runner.run(wire.close())
            runner.run(stage.__aexit__(None, None, None))
    gc.collect()
    assert threads() - running == set()
    assert open_files() <= files


def test_two_users_never_meet(cases: Cases, tmp_path: Path) -> None:
    """No 5xx, no hang, nobody's task but one's own, one task a key, one message a task."""
    with books(tmp_path) as made:
        cases.explore(
            "http, tasks of two users",
            st.lists(_steps, min_size=1, max_size=12),
            made.play,
            share=0.2,
            least=200,
            between=made.settle,
        )
        told = {200, 202, 204, 404, 405, 409, 422}
        assert not cases.long or made.statuses >= told

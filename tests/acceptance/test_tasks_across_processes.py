"""Two APIs and a worker over one SQLite file: whoever is asked, the task is the same one."""

import json
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from command import Command, ended, running
from stage import Broker

from tracebaton.local.fault import Fault

pytestmark = pytest.mark.acceptance

HERE = Path(__file__).parent
#: Every event of a walk of three steps.
WALK = [
    (1, "status", "queued", 0),
    (2, "status", "running", 0),
    (3, "progress", "running", 1),
    (4, "progress", "running", 2),
    (5, "progress", "running", 3),
    (6, "status", "succeeded", 100),
    (7, "result", "succeeded", 100),
]

Seen = tuple[int, str, str, int]


class Tab:
    """A browser's tab on the events of a task, in a thread of its own."""

    def __init__(self, http: httpx.Client, task_id: str, *, last: int | None = None) -> None:
        self.seen: list[Seen] = []
        self.status: int | None = None
        self._changed = threading.Condition()
        self._http, self._path, self._last = http, f"/v1/tasks/{task_id}/events", last
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        headers = {} if self._last is None else {"last-event-id": str(self._last)}
        with self._http.stream("GET", self._path, headers=headers) as answer:
            self.status = answer.status_code
            fields: dict[str, str] = {}
            for line in answer.iter_lines():
                name, _, value = line.partition(": ")
                fields[name] = value
                if not line:
                    self._take(fields)
                    fields = {}

    def _take(self, fields: dict[str, str]) -> None:
        if "id" in fields:
            task = json.loads(fields["data"])
            with self._changed:
                self.seen.append(
                    (int(fields["id"]), fields["event"], task["status"], task["progress"])
                )
                self._changed.notify_all()

    def wait_for(self, number: int) -> None:
        """Wait until event *number* is here."""
        with self._changed:
            assert self._changed.wait_for(
                lambda: any(one[0] == number for one in self.seen), timeout=30
            ), self.seen

    def over(self) -> list[Seen]:
        """Wait for the end of the stream and return what came."""
        self._thread.join(30)
        assert not self._thread.is_alive(), self.seen
        return self.seen


@contextmanager
def processes(broker: Broker) -> Iterator[tuple[httpx.Client, httpx.Client, Command]]:
    """Run two APIs and a worker; all of them stop as they should."""
    env = broker.env
    with (
        running("api", "walk:app", "--port", "0", env=env, cwd=HERE) as one,
        running("api", "walk:app", "--port", "0", env=env, cwd=HERE) as other,
        running("worker", "walk:app", env=env, cwd=HERE) as worker,
        client(one) as a,
        client(other) as b,
    ):
        worker.ready()
        yield a, b, worker
        assert (one.stop(), other.stop(), worker.stop()) == (0, 0, 0)
    assert one.errors == other.errors == worker.errors == []


def client(api: Command) -> httpx.Client:
    """Return a client of *api* that may hold many streams."""
    return httpx.Client(base_url=api.ready()["api"], timeout=30)


def submit(http: httpx.Client, folder: Path, *, steps: int) -> str:
    """Send the walker off and return the task's id."""
    answer = http.post("/v1/tasks/walk", json={"folder": str(folder), "steps": steps})
    return str(answer.raise_for_status().json()["task_id"])


def let(folder: Path, *steps: int) -> None:
    """Let the walker take *steps*."""
    for step in steps:
        (folder / str(step)).touch()


def test_every_tab_of_either_api_hears_the_same(broker: Broker, tmp_path: Path) -> None:
    """Sent to A and worked elsewhere: live and replayed, in B and A, nothing lost or doubled."""
    with processes(broker) as (a, b, _):
        task_id = submit(a, tmp_path, steps=3)
        live = [Tab(b, task_id), Tab(b, task_id), Tab(a, task_id)]
        for tab in live:
            tab.wait_for(2)
        let(tmp_path, 1)
        for tab in live:
            tab.wait_for(3)
        late = [Tab(b, task_id), Tab(a, task_id), Tab(b, task_id, last=2)]
        for tab in late:
            tab.wait_for(3)
        let(tmp_path, 2, 3)
        heard = [tab.over() for tab in live + late]
        replayed = Tab(b, task_id, last=4).over()
        complete = Tab(b, task_id, last=7)
        nothing = complete.over()

    assert heard == [WALK] * 5 + [WALK[2:]]
    assert replayed == WALK[4:]
    assert (complete.status, nothing) == (204, [])


def test_a_tab_that_was_closed_goes_on_at_the_other_api(broker: Broker, tmp_path: Path) -> None:
    """The connection breaks between two events; the browser asks B for what A did not tell."""
    with processes(broker) as (a, b, _):
        task_id = submit(a, tmp_path, steps=3)
        let(tmp_path, 1)
        with a.stream("GET", f"/v1/tasks/{task_id}/events") as answer:
            first = [line for line in until(answer, "id: 3") if line.startswith("id: ")]
        let(tmp_path, 2, 3)
        rest = Tab(b, task_id, last=3).over()

    assert first == ["id: 1", "id: 2", "id: 3"]
    assert rest == WALK[3:]


def until(answer: httpx.Response, last: str) -> Iterator[str]:
    """Yield the lines of a stream up to *last*."""
    for line in answer.iter_lines():
        yield line
        if line == last:
            return


def test_the_other_api_cancels_what_the_worker_runs(broker: Broker, tmp_path: Path) -> None:
    """The handler is stopped where it stands, listeners of A are told, and it ends once."""
    with processes(broker) as (a, b, worker):
        task_id = submit(a, tmp_path, steps=1)
        tab = Tab(a, task_id)
        tab.wait_for(2)
        cancelled = b.delete(f"/v1/tasks/{task_id}")
        heard = tab.over()
        again = a.delete(f"/v1/tasks/{task_id}")
        told = worker.wait_for(
            lambda line: line["event"] == "task.cancelled" and line["task_id"] == task_id
        )
        task = b.get(f"/v1/tasks/{task_id}").json()

    assert (cancelled.status_code, cancelled.json()["status"]) == (202, "cancelled")
    assert [one[2] for one in heard] == ["queued", "running", "cancelled"]
    assert (again.status_code, again.json()["code"]) == (409, "conflict")
    assert told["correlation_id"] == task["correlation_id"]
    assert (task["status"], task["result"]) == ("cancelled", None)
    assert (tmp_path / "began").read_text() == "walk\n"


def test_one_key_raced_to_both_is_one_task(broker: Broker, tmp_path: Path) -> None:
    """Twelve requests at once for each of six keys: one task a key, and all are told which."""
    keys, racers = 6, 12
    ready = threading.Barrier(racers)
    body = {"folder": str(tmp_path), "steps": 0}

    def race(http: httpx.Client, key: str) -> httpx.Response:
        ready.wait()
        return http.post("/v1/tasks/walk", json=body, headers={"idempotency-key": key})

    with processes(broker) as (a, b, _), ThreadPoolExecutor(racers) as pool:
        told: dict[str, list[httpx.Response]] = {}
        for number in range(keys):
            key = f"key-{number}"
            asked = [pool.submit(race, (a, b)[n % 2], key) for n in range(racers)]
            told[key] = [one.result() for one in asked]
            told[key] += [
                http.post("/v1/tasks/walk", json=body, headers={"idempotency-key": key})
                for http in (a, b)
            ]
        tasks = b.get("/v1/tasks").json()["tasks"]

    for answers in told.values():
        accepted = [answer for answer in answers if answer.status_code == 202]
        busy = [answer for answer in answers if answer.status_code == 409]
        assert len(accepted) + len(busy) == racers + 2
        assert all(answer.headers["retry-after"] == "1" for answer in busy)
        assert {answer.json()["code"] for answer in busy} <= {"request_in_progress"}
        assert len({answer.json()["task_id"] for answer in accepted}) == 1
        assert sum("idempotency-replayed" not in answer.headers for answer in accepted) == 1
        assert all("idempotency-replayed" in answer.headers for answer in answers[-2:])
    assert len(tasks) == broker.sqs.stats()["tasks"]["sent"] == keys


@pytest.mark.parametrize("arrived", [False, True], ids=["not sent", "sent, answer lost"])
def test_what_a_killed_api_left_is_sent_by_the_other(
    broker: Broker, tmp_path: Path, arrived: bool
) -> None:
    """kill -9 in the middle of the send: the other's outbox sends it once, in the same trace."""
    for action in ("SendMessage", "SendMessageBatch"):
        broker.sqs.faults.add(
            Fault(effect="black_hole", action=action, queue="tasks", after=arrived)
        )
    killed = {"traceparent": f"00-{'7' * 32}-{'8' * 16}-01", "x-correlation-id": "killed"}
    body = {"folder": str(tmp_path), "steps": 0}
    with running("api", "walk:app", "--port", "0", env=broker.env, cwd=HERE) as api:
        url = api.ready()["api"]
        asked = threading.Thread(target=_ignored, args=(url, body, killed))
        asked.start()
        api_waits(broker)
        api.process.kill()
        api.process.wait(10)
        asked.join(30)
    broker.sqs.faults.clear()
    age_the_outbox(broker)
    with (
        running("api", "walk:app", "--port", "0", env=broker.env, cwd=HERE) as api,
        client(api) as http,
    ):
        resent = api.wait_for(lambda line: line["event"] == "task.resent")
        [task] = http.get("/v1/tasks").json()["tasks"]
        # Only now: a worker sweeps the outbox too.
        with running("worker", "walk:app", env=broker.env, cwd=HERE) as worker:
            done = ended(http, task["task_id"])
            assert (api.stop(), worker.stop()) == (0, 0)

    assert (done["status"], done["attempt"]) == ("succeeded", 1)
    assert (done["correlation_id"], done["trace_id"]) == ("killed", "7" * 32)
    assert resent["trace_id"] == "7" * 32
    assert Counter(line["event"] for line in api.events + worker.events)["task.resent"] == 1
    assert (tmp_path / "began").read_text() == "walk\n"
    assert broker.sqs.stats()["tasks"]["sent"] == 1 + arrived
    assert left_in_the_outbox(broker) == 0


def _ignored(url: str, body: Any, headers: dict[str, str]) -> None:
    with pytest.raises(httpx.HTTPError):
        httpx.post(f"{url}/v1/tasks/walk", json=body, headers=headers, timeout=30)


def api_waits(broker: Broker) -> None:
    """Wait until a send was swallowed."""
    struck = threading.Event()
    while not any(fault["injected"] for fault in broker.sqs.faults.list()):
        struck.wait(0.01)


def age_the_outbox(broker: Broker) -> None:
    """Let a minute pass for what waits in the outbox: nobody may touch it for half of one."""
    with closing(sqlite3.connect(broker.folder / "tasks.db", timeout=10)) as file, file:
        file.execute("UPDATE unsent SET touched_at = touched_at - 60")


def left_in_the_outbox(broker: Broker) -> int:
    """Return how many messages wait in the outbox."""
    with closing(sqlite3.connect(broker.folder / "tasks.db", timeout=10)) as file:
        return int(file.execute("SELECT count(*) FROM unsent").fetchone()[0])

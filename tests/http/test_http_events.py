"""A task's events over a real server: nothing is missed, nothing comes twice, nobody waits long."""

import asyncio
import json
import random
import socket
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from http_server import Address, request, serving
from http_service import StoreService

from tracebaton.errors import StoreUnavailable
from tracebaton.http import events, watch
from tracebaton.http.app import create_app, end_streams
from tracebaton.http.auth import authenticator
from tracebaton.http.keys import create_key
from tracebaton.settings import Settings
from tracebaton.tasks import Change, TaskStatus
from tracebaton.tasks.sqlite import SqliteTaskStore


@dataclass
class Event:
    """One event as a browser sees it; a comment has neither id nor data."""

    id: int | None
    kind: str
    data: Any


class Counting(SqliteTaskStore):
    """Counts what it is asked, and can go away."""

    poll_seconds = 0.02
    away = False
    glimpses = 0
    read = 0

    async def glimpse(self, task_ids: Any) -> Any:
        self.glimpses += 1
        if self.away:
            raise StoreUnavailable
        return await super().glimpse(task_ids)

    async def history(self, task_id: str, *, after: int = 0, limit: int = 100) -> Sequence[Change]:
        if self.away:
            raise StoreUnavailable
        found = await super().history(task_id, after=after, limit=limit)
        self.read = max([self.read, *(change.number for change in found)])
        return found


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Counting]:
    """The store of the server."""
    opened = Counting(tmp_path / "tasks.db")
    yield opened
    await opened.close()


@pytest.fixture
def service(store: Counting, reporter: Any) -> StoreService:
    return StoreService(store, reporter=reporter)


@pytest.fixture
def app(service: StoreService, provider: Any) -> Any:
    return create_app(service, tracer_provider=provider)


@pytest.fixture
def address(app: Any) -> Iterator[Address]:
    with serving(app) as address:
        yield address


@pytest.fixture
async def client(address: Address) -> AsyncIterator[httpx.AsyncClient]:
    """Many connections to the server."""
    url = f"http://127.0.0.1:{address.port}"
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=20) as client:
        yield client


@pytest.fixture
async def worker(tmp_path: Path, store: Counting) -> AsyncIterator[SqliteTaskStore]:
    """The store as another process has it: the server learns of nothing that is done here."""
    opened = SqliteTaskStore(tmp_path / "tasks.db")
    yield opened
    await opened.close()


async def submitted(client: httpx.AsyncClient) -> str:
    """Submit a task and return its id."""
    answer = await client.post("/v1/tasks/ai.chat", json={"message": "hi"})
    task_id: str = answer.json()["task_id"]
    return task_id


def parsed(block: str) -> Event | None:
    """Return the event of *block*, None where it is none."""
    fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
    if block.startswith(":"):
        return Event(None, "comment", block[2:])
    if "data" not in fields:
        return None
    number = int(fields["id"]) if "id" in fields else None
    return Event(number, fields["event"], json.loads(fields["data"]))


async def listen(
    client: httpx.AsyncClient,
    task_id: str,
    *,
    last: int | None = None,
    most: int | None = None,
    into: list[Event] | None = None,
) -> list[Event]:
    """Return the events until the stream ends, or until there are *most* of them."""
    headers = {} if last is None else {"last-event-id": str(last)}
    found: list[Event] = [] if into is None else into
    async with client.stream("GET", f"/v1/tasks/{task_id}/events", headers=headers) as answer:
        assert answer.status_code == 200, await answer.aread()
        waiting = ""
        async for text in answer.aiter_text():
            *blocks, waiting = (waiting + text).split("\n\n")
            found += [event for block in blocks if (event := parsed(block))]
            if most is not None and len(found) >= most:
                break
    return found


async def live(worker: SqliteTaskStore, task_id: str, *, steps: int = 3) -> None:
    """Let a worker run the task to its end."""
    await worker.start(task_id, attempt=1, owner="m", lease_until=2e10)
    for step in range(1, steps + 1):
        await worker.progress(task_id, attempt=1, percent=step, message=f"step {step}")
    await worker.finish(task_id, TaskStatus.SUCCEEDED, attempt=1, result={"reply": "ho\n\nhu"})


def kinds(found: list[Event]) -> list[tuple[int | None, str, str]]:
    """Return events in short."""
    return [(event.id, event.kind, event.data["status"]) for event in found]


LIFE = [
    (1, "status", "queued"),
    (2, "status", "running"),
    (3, "progress", "running"),
    (4, "progress", "running"),
    (5, "progress", "running"),
    (6, "status", "succeeded"),
    (7, "result", "succeeded"),
]


async def test_an_ended_task_is_told_whole(
    client: httpx.AsyncClient, worker: SqliteTaskStore
) -> None:
    """From its creation to its result, each event with the task as it was; then the stream ends."""
    task_id = await submitted(client)
    await live(worker, task_id)
    found = await listen(client, task_id)
    resource = (await client.get(f"/v1/tasks/{task_id}")).json()

    assert kinds(found) == LIFE
    assert [event.data["progress_message"] for event in found[2:5]] == [
        "step 1",
        "step 2",
        "step 3",
    ]
    assert [event.data["result"] for event in found] == [None] * 5 + [resource["result"]] * 2
    assert found[-1].data == resource
    times = [event.data["updated_at"] for event in found]
    assert ({event.data["task_id"] for event in found}, times) == ({task_id}, sorted(times))


@pytest.mark.parametrize("more", [-1, 0, 1])
async def test_a_stream_ends_wherever_a_read_of_the_history_does(
    client: httpx.AsyncClient, worker: SqliteTaskStore, more: int
) -> None:
    """Also where the task's last change is the last one of a full read."""
    task_id = await submitted(client)
    others = 4  # queued and running, the end and its result
    await live(worker, task_id, steps=watch._BATCH + more - others)
    found = await asyncio.wait_for(listen(client, task_id), 10)

    assert [event.id for event in found] == [*range(1, watch._BATCH + more + 1)]
    assert found[-1].kind == "result"


async def test_a_listener_sees_what_another_process_does(
    client: httpx.AsyncClient, worker: SqliteTaskStore
) -> None:
    """While it happens, and the stream ends by itself."""
    task_id = await submitted(client)
    listening = asyncio.create_task(listen(client, task_id))
    first = await listen(client, task_id, most=1)
    await live(worker, task_id)

    assert kinds(first) == LIFE[:1]
    assert kinds(await asyncio.wait_for(listening, 10)) == LIFE


@pytest.mark.parametrize(
    ("status", "kind"),
    [(TaskStatus.FAILED, "error"), (TaskStatus.DEAD, "error"), (TaskStatus.CANCELLED, "status")],
)
async def test_every_end_ends_the_stream(
    client: httpx.AsyncClient, worker: SqliteTaskStore, status: TaskStatus, kind: str
) -> None:
    """With the problem in the task where it failed."""
    task_id = await submitted(client)
    listening = asyncio.create_task(listen(client, task_id))
    await worker.start(task_id, attempt=1)
    if status is TaskStatus.CANCELLED:
        await client.delete(f"/v1/tasks/{task_id}")
    else:
        await worker.finish(task_id, status, attempt=1, error={"code": "internal"})
    found = await asyncio.wait_for(listening, 10)

    assert (found[-1].kind, found[-1].data["status"]) == (kind, status)
    assert (found[-1].data["error"] is None) is (status is TaskStatus.CANCELLED)


async def test_a_task_that_runs_again_goes_on(
    client: httpx.AsyncClient, worker: SqliteTaskStore
) -> None:
    """It died, was redriven and succeeded: whoever comes later is told all of it."""
    task_id = await submitted(client)
    await worker.start(task_id, attempt=1, owner="a")
    await worker.finish(task_id, TaskStatus.DEAD, attempt=1, error={"code": "internal"})
    await worker.start(task_id, attempt=1, owner="b", sent_at=time.time() + 1)
    await worker.finish(task_id, TaskStatus.SUCCEEDED, attempt=1, result=1)

    assert [(kind, status) for _, kind, status in kinds(await listen(client, task_id))] == [
        ("status", "queued"),
        ("status", "running"),
        ("status", "dead"),
        ("error", "dead"),
        ("status", "running"),
        ("status", "succeeded"),
        ("result", "succeeded"),
    ]


async def test_a_listener_goes_on_where_it_was(
    client: httpx.AsyncClient, worker: SqliteTaskStore
) -> None:
    """From each number; 204 tells a browser that has everything to stop asking."""
    task_id = await submitted(client)
    await live(worker, task_id)
    rests = [kinds(await listen(client, task_id, last=number)) for number in range(7)]
    url = f"/v1/tasks/{task_id}/events"
    over = await client.get(url, headers={"last-event-id": "7"})

    assert rests == [LIFE[number:] for number in range(7)]
    assert (over.status_code, over.content) == (204, b"")


@pytest.mark.parametrize("last", ["8", "-1", "x", "", "1.5", "9" * 400, "٣"])
async def test_an_id_of_nobody_starts_over(
    client: httpx.AsyncClient, worker: SqliteTaskStore, last: str
) -> None:
    """Better everything twice than something never."""
    task_id = await submitted(client)
    await live(worker, task_id)
    answer = await client.get(
        f"/v1/tasks/{task_id}/events", headers={"last-event-id": last.encode()}
    )

    assert answer.text.count("\ndata: ") == 7


async def test_no_gap_and_no_duplicate_however_often_it_breaks(
    client: httpx.AsyncClient, worker: SqliteTaskStore
) -> None:
    """Listeners that come, go and come again at any moment each see every event once."""
    task_id = await submitted(client)
    chance = random.Random(1)

    async def stubborn() -> list[int]:
        seen: list[int] = []
        while True:
            most = chance.randrange(1, 20)
            part = await listen(client, task_id, last=seen[-1] if seen else None, most=most)
            seen += [event.id for event in part if event.id is not None]
            if part[-1].kind == "result":
                return seen

    listeners = [asyncio.create_task(stubborn()) for _ in range(12)]
    await live(worker, task_id, steps=90)
    for listener in listeners:
        assert await asyncio.wait_for(listener, 20) == list(range(1, 95))


async def test_any_number_of_listeners_costs_one_look(
    client: httpx.AsyncClient, worker: SqliteTaskStore, store: Counting
) -> None:
    """A hundred streams of three tasks hear the same, and the store is asked for all at once."""
    tasks = [await submitted(client) for _ in range(3)]
    begun = time.monotonic()
    listeners = [asyncio.create_task(listen(client, tasks[n % 3])) for n in range(100)]
    while store.glimpses < 5:
        await asyncio.sleep(0.01)
    for task_id in tasks:
        await live(worker, task_id)
    found = await asyncio.gather(*listeners)
    seconds = time.monotonic() - begun

    assert all(kinds(one) == LIFE for one in found)
    # A tenth of what each listener's own look would be: libuv's pauses count from when a turn
    # began, so that those of a busy loop are short.
    assert store.glimpses <= 10 * (seconds / store.poll_seconds + 1)


async def test_who_comes_as_the_last_one_leaves_is_told(
    client: httpx.AsyncClient, worker: SqliteTaskStore, store: Counting
) -> None:
    """The look at the store that is just being ended is not the one he waits for."""
    task_id = await submitted(client)
    watching = watch.TaskWatch(lambda: worker)
    first = watching.changes(task_id, after=0, heartbeat=20)
    assert [change.number for change in await anext(first) or ()] == [1]
    await first.aclose()
    second = watching.changes(task_id, after=1, heartbeat=20)
    assert await anext(second) == []
    await worker.start(task_id, attempt=1)
    heard = await asyncio.wait_for(anext(second), 10)
    await second.aclose()

    assert [change.number for change in heard or ()] == [2]


async def test_silence_is_a_heartbeat(
    client: httpx.AsyncClient, worker: SqliteTaskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comment, which no listener sees as an event; events go on behind it."""
    monkeypatch.setattr(events, "HEARTBEAT", 0.05)
    task_id = await submitted(client)
    listening = asyncio.create_task(listen(client, task_id))
    quiet = await listen(client, task_id, most=3)
    await live(worker, task_id)
    whole = await asyncio.wait_for(listening, 10)

    assert [event.kind for event in quiet] == ["status", "comment", "comment"]
    assert kinds([event for event in whole if event.id is not None]) == LIFE


async def test_the_headers_keep_proxies_out(
    client: httpx.AsyncClient, worker: SqliteTaskStore
) -> None:
    """No cache and no buffer; HEAD answers at once."""
    task_id = await submitted(client)
    head = await client.head(f"/v1/tasks/{task_id}/events")
    await live(worker, task_id)
    answer = await client.get(f"/v1/tasks/{task_id}/events")

    for one in (head, answer):
        assert one.headers["content-type"].startswith("text/event-stream")
        assert one.headers["cache-control"] == "private, no-store"
        assert one.headers["x-accel-buffering"] == "no"
    assert answer.text.startswith("retry: 2000\n\nid: 1\nevent: status\ndata: {")


async def test_a_slow_reader_holds_next_to_nothing(
    client: httpx.AsyncClient, address: Address, worker: SqliteTaskStore, store: Counting
) -> None:
    """What it has not read stays in the store, and it misses nothing when it reads on."""
    task_id = await submitted(client)
    await worker.start(task_id, attempt=1)
    for step in range(900):
        await worker.progress(task_id, attempt=1, percent=50, message=f"{step:03} " + "x" * 3_000)
    await worker.finish(task_id, TaskStatus.SUCCEEDED, attempt=1)
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    slow.connect(("127.0.0.1", address.port))
    slow.sendall(request("GET", f"/v1/tasks/{task_id}/events", "connection: close\r\n"))
    whole = await listen(client, task_id)  # a quick one passes it by
    fast, store.read = store.read, 0
    await listen(client, task_id, most=1)
    held = await asyncio.to_thread(slow.recv, 100)
    slow.setblocking(True)

    def rest() -> bytes:
        parts = []
        while part := slow.recv(65_536):
            parts.append(part)
        return b"".join(parts)

    text = (held + await asyncio.to_thread(rest)).decode()
    slow.close()

    assert (len(whole), fast) == (904, 904)
    assert text.count("\r\nid: ") + text.count("\n\nid: ") == 904


async def test_a_listener_that_leaves_is_forgotten(
    client: httpx.AsyncClient, app: Any, spans: Any, reporter: Any
) -> None:
    """With the last one the looking ends; nothing failed."""
    task_id = await submitted(client)
    await listen(client, task_id, most=1)
    watching = app.state.tracebaton_watch
    async with asyncio.timeout(10):
        while watching._topics or watching._poller is not None:
            await asyncio.sleep(0.01)
        while not (found := [s for s in spans() if s.name.endswith("/events")]):
            await asyncio.sleep(0.01)

    assert found[0].attributes["tracebaton.client.disconnected"] is True
    assert found[0].status.is_unset
    assert reporter.reports == []


async def test_a_store_that_comes_back_is_not_noticed(
    client: httpx.AsyncClient, worker: SqliteTaskStore, store: Counting
) -> None:
    """A moment without it is bridged."""
    task_id = await submitted(client)
    listening = asyncio.create_task(listen(client, task_id))
    while not store.glimpses:
        await asyncio.sleep(0.01)
    store.away = True
    seen = store.glimpses
    while store.glimpses < seen + 3:
        await asyncio.sleep(0.01)
    store.away = False
    await live(worker, task_id)

    assert kinds(await asyncio.wait_for(listening, 10)) == LIFE


async def test_a_store_that_stays_away_ends_the_streams(
    client: httpx.AsyncClient,
    store: Counting,
    reporter: Any,
    monkeypatch: pytest.MonkeyPatch,
    lines: Any,
) -> None:
    """With a problem as their last event, told once each like any other failure."""
    monkeypatch.setattr(watch, "PATIENCE", 0.1)
    task_id = await submitted(client)
    heard: list[list[Event]] = [[], [], []]
    listening = [asyncio.create_task(listen(client, task_id, into=one)) for one in heard]
    async with asyncio.timeout(10):
        while not all(heard):
            await asyncio.sleep(0.01)
    store.away = True
    found = [await asyncio.wait_for(one, 10) for one in listening]

    for one in found:
        assert [event.kind for event in one] == ["status", "error"]
        problem = one[-1].data
        assert (problem["code"], problem["status"]) == ("store_unavailable", 503)
        assert problem["instance"] == f"/v1/tasks/{task_id}/events"
    assert [type(report.exc) for report in reporter.reports] == [StoreUnavailable] * 3
    assert len(lines.of("http.error")) == 3


async def test_a_server_that_stops_ends_its_streams(
    service: StoreService, provider: Any, tmp_path: Path
) -> None:
    """Where they are: who asks again goes on from there."""
    app = create_app(service, tracer_provider=provider)
    with serving(app) as address:
        url = f"http://127.0.0.1:{address.port}"
        async with httpx.AsyncClient(base_url=url, timeout=20) as client:
            task_id = await submitted(client)
            listening = asyncio.create_task(listen(client, task_id))
            await listen(client, task_id, most=1)
            end_streams(app)
            found = await asyncio.wait_for(listening, 10)
            late = await asyncio.wait_for(listen(client, task_id), 10)
        begun = time.monotonic()
    seconds = time.monotonic() - begun

    assert kinds(found) == kinds(late) == LIFE[:1]
    assert seconds < 3


async def test_only_the_owner_may_listen(
    store: Counting, tmp_path: Path, worker: SqliteTaskStore
) -> None:
    """For everyone else, and for what never was, there is nothing."""
    keys = tmp_path / "keys.json"
    ann, bob = ({"x-api-key": create_key(keys, user)} for user in ("ann", "bob"))
    environ = {"TRACEBATON_AUTH": "api-key", "TRACEBATON_API_KEYS_FILE": str(keys)}
    app = create_app(StoreService(store, authenticator=authenticator(Settings.load(environ))))
    with serving(app) as address:
        url = f"http://127.0.0.1:{address.port}"
        async with httpx.AsyncClient(base_url=url, headers=ann) as client:
            task_id = await submitted(client)
            await live(worker, task_id)
            path = f"/v1/tasks/{task_id}/events"
            own = await client.get(path)
            others = await client.get(path, headers=bob)
            unknown = await client.get("/v1/tasks/unknown/events")
            nobody = await client.get(path, headers={"x-api-key": "x"})

    assert [answer.status_code for answer in (own, others, unknown, nobody)] == [200, 404, 404, 401]
    assert others.json()["detail"] == unknown.json()["detail"]


async def test_without_a_store_there_are_no_events(ask: Any) -> None:
    """A service that keeps no tasks has nothing to tell."""
    async with ask(create_app(StoreService(None))) as client:
        answer = await client.get("/v1/tasks/some/events")

    assert answer.status_code == 404

"""The SQLite store: its file, and the processes that share it."""

import asyncio
import json
import signal
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tracebaton.errors import StoreUnavailable
from tracebaton.tasks import Task, TaskQuery, TaskStatus
from tracebaton.tasks.sqlite import SqliteTaskStore, database
from tracebaton.tasks.sqlite.migrations import MIGRATIONS

Queued = Callable[..., Task]
NOW = 1_000.0


async def test_a_store_that_is_away_says_so_and_recovers(tmp_path: Path, queued: Queued) -> None:
    """A path that cannot be opened raises ours; once it can, the same store works."""
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    store = SqliteTaskStore(blocked / "tasks.db")
    with pytest.raises(StoreUnavailable):
        await store.check()

    blocked.unlink()
    await store.create(queued())
    task = await store.get("t-1")
    await store.close()

    assert task is not None
    assert task.id == "t-1"


async def test_a_damaged_file_is_a_clear_error(tmp_path: Path) -> None:
    """Bytes that are no database raise ours, not sqlite3's."""
    path = tmp_path / "tasks.db"
    path.write_bytes(b"not a database at all" * 100)
    store = SqliteTaskStore(path)

    with pytest.raises(StoreUnavailable):
        await store.get("t-1")
    await store.close()


async def test_a_failure_inside_undoes_the_whole(tmp_path: Path, queued: Queued) -> None:
    """Nothing of a transaction stays when one statement of it fails."""
    path = tmp_path / "tasks.db"
    store = SqliteTaskStore(path)
    await store.create(queued())
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO changes VALUES ('t-1', 2, 'status', '{}')")
        connection.commit()
    with pytest.raises(StoreUnavailable):
        await store.cancel("t-1")  # its entry in the history is taken
    task = await store.get("t-1")
    await store.close()

    assert task is not None
    assert (task.status, task.changes) == ("queued", 1)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock that every write needs, as another process would."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


async def waiting(
    store: SqliteTaskStore, *changes: Awaitable[Any], told: list[str] | None = None
) -> list["asyncio.Future[Any]"]:
    """Start the first of *changes*, and the others when that one waits for the lock."""
    statements: list[str] = [] if told is None else told
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def begins(statement: str) -> None:
        statements.append(statement)
        if statement == "BEGIN IMMEDIATE":
            loop.call_soon_threadsafe(begun.set)

    await store.check()
    assert store._database._connection is not None
    store._database._connection.set_trace_callback(begins)
    first, *others = changes
    started = [asyncio.ensure_future(first)]
    await asyncio.wait_for(begun.wait(), 10)
    started += map(asyncio.ensure_future, others)
    await asyncio.sleep(0)
    return started


async def test_writes_that_wait_share_a_commit(tmp_path: Path, queued: Queued) -> None:
    """While one waits for the lock others come: all of those are done by one transaction."""
    path = tmp_path / "tasks.db"
    store = SqliteTaskStore(path)
    await store.check()
    statements: list[str] = []
    with locked(path):
        creating = [store.create(queued(f"t-{n}")) for n in range(20)]
        changes = await waiting(store, *creating, told=statements)
    await asyncio.gather(*changes)
    found = [await store.get(f"t-{n}") for n in range(20)]
    await store.close()

    assert [task.id for task in found if task is not None] == [f"t-{n}" for n in range(20)]
    assert statements.count("COMMIT") == 2


async def test_what_is_created_at_once_keeps_its_messages(tmp_path: Path, queued: Queued) -> None:
    """Each its own, and none where it has none; what is changed beside it is changed too."""
    store = SqliteTaskStore(tmp_path / "tasks.db")
    await store.create(queued("old"), message="gone")
    texts = {f"t-{n:02}": f"message {n}" if n % 3 else None for n in range(40)}
    await asyncio.gather(
        *(store.create(queued(name), message=text) for name, text in texts.items()),
        store.sent(["old"]),
        store.create(queued("t-01"), exist_ok=True),
    )
    unsent = await store.unsent(older_than=0)
    history = [await store.history(name) for name in texts]
    await store.close()

    assert {one.task.id: one.message for one in unsent} == {
        name: text for name, text in texts.items() if text is not None
    }
    assert [[change.kind for change in changes] for changes in history] == [["status"]] * 40


async def test_one_that_fails_takes_no_other_along(tmp_path: Path, queued: Queued) -> None:
    """A task that is there already, among many that wait: each has its own outcome."""
    path = tmp_path / "tasks.db"
    store = SqliteTaskStore(path)
    await store.create(queued("t-3"))
    with locked(path):
        changes = await waiting(store, *(store.create(queued(f"t-{n}")) for n in range(8)))
    outcomes = await asyncio.gather(*changes, return_exceptions=True)
    found = [await store.get(f"t-{n}") for n in range(8)]
    await store.close()

    assert [type(one) for one in outcomes] == [
        StoreUnavailable if n == 3 else type(None) for n in range(8)
    ]
    assert all(task is not None and task.changes == 1 for task in found)


async def test_who_is_cancelled_before_his_turn_changes_nothing(
    tmp_path: Path, queued: Queued
) -> None:
    """The others' writes are done."""
    path = tmp_path / "tasks.db"
    store = SqliteTaskStore(path)
    await store.check()
    with locked(path):
        first, second, third = await waiting(store, *(store.create(queued(n)) for n in "abc"))
        second.cancel()
    await asyncio.gather(first, third)
    found = [await store.get(n) for n in "abc"]
    await store.close()

    assert second.cancelled()
    assert [task is not None for task in found] == [True, False, True]


async def test_a_lock_that_is_never_given_up_fails_all_who_wait(
    tmp_path: Path, queued: Queued, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Together, and not each after a wait of its own."""
    monkeypatch.setattr(database, "_BUSY_MS", 200)
    path = tmp_path / "tasks.db"
    store = SqliteTaskStore(path)
    await store.check()
    with locked(path):
        begun = time.monotonic()
        changes = await waiting(store, *(store.create(queued(f"t-{n}")) for n in range(40)))
        outcomes = await asyncio.gather(*changes, return_exceptions=True)
        seconds = time.monotonic() - begun
    await store.create(queued())
    await store.close()

    assert {type(one) for one in outcomes} == {StoreUnavailable}
    assert seconds < 3


async def test_readers_go_on_while_another_process_writes(
    tmp_path: Path, queued: Queued, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that waits for the lock in vain takes none along, nor does who opens the file."""
    monkeypatch.setattr(database, "_BUSY_MS", 50)
    path = tmp_path / "tasks.db"
    store, late = SqliteTaskStore(path), SqliteTaskStore(path)
    await store.create(queued())
    with locked(path):
        with pytest.raises(StoreUnavailable):
            await store.cancel("t-1")
        found = [await store.get("t-1"), await late.get("t-1")]
    await store.close()
    await late.close()

    assert [task and task.status for task in found] == ["queued", "queued"]


#: The tables as the first version made them.
FIRST = """
CREATE TABLE tasks (
    id TEXT PRIMARY KEY, type TEXT NOT NULL, status TEXT NOT NULL, user_id TEXT,
    correlation_id TEXT, trace_id TEXT, parent_task_id TEXT, attempt INTEGER NOT NULL DEFAULT 0,
    progress INTEGER NOT NULL DEFAULT 0, result TEXT, error TEXT,
    failures TEXT NOT NULL DEFAULT '[]', created_at REAL NOT NULL, updated_at REAL NOT NULL,
    started_at REAL, ended_at REAL
) WITHOUT ROWID;
INSERT INTO tasks VALUES ('waits', 'note', 'queued', 'ann', 'c', 't', NULL, 0, 0, NULL, NULL, '[]',
    1.0, 1.0, NULL, NULL);
INSERT INTO tasks VALUES ('ended', 'note', 'succeeded', 'ann', 'c', 't', NULL, 2, 100, '{"a": 1}',
    NULL, '[{"attempt": 1}]', 2.0, 9.0, 3.0, 9.0);
INSERT INTO tasks VALUES ('failed', 'note', 'failed', 'ann', 'c', 't', NULL, 1, 30, NULL,
    '{"code": "internal"}', '[]', 3.0, 8.0, 3.0, 8.0);
PRAGMA user_version = 1;
"""


def version_of(path: Path) -> int:
    """Return the version that the file says it has."""
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


async def test_a_store_of_the_first_version_is_migrated(tmp_path: Path) -> None:
    """Its tasks are whole, can be listed and run, and have a history of one entry."""
    path = tmp_path / "tasks.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(FIRST)
    store = SqliteTaskStore(path, now=lambda: NOW)
    page = await store.list(TaskQuery(user_id="ann"))
    histories = [await store.history(task_id) for task_id in ("waits", "ended", "failed")]
    started = await store.start("waits", attempt=1, owner="m1", lease_until=NOW + 60)
    await store.close()

    assert version_of(path) == len(MIGRATIONS)
    assert [task.id for task in page.tasks] == ["failed", "ended", "waits"]
    assert [(one.number, one.kind) for history in histories for one in history] == [
        (1, "status")
    ] * 3
    tasks = {task.id: task.resource() for task in page.tasks}
    assert {history[0].task.id: history[0].task.resource() for history in histories} == tasks
    assert (tasks["ended"]["result"], tasks["failed"]["error"]) == ({"a": 1}, {"code": "internal"})
    assert started is not None
    assert (started.status, started.owner, started.changes) == ("running", "m1", 2)


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
async def test_every_version_in_between_is_migrated(
    tmp_path: Path, queued: Queued, version: int
) -> None:
    """Whatever version a file was left at, a task can live in it."""
    path = tmp_path / "tasks.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for step in MIGRATIONS[:version]:
            for statement in (step,) if isinstance(step, str) else step:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {version}")
    store = SqliteTaskStore(path)
    await store.create(queued(), message="m")
    await store.start("t-1", attempt=1)
    ended = await store.finish("t-1", TaskStatus.SUCCEEDED, attempt=1)
    await store.close()

    assert ended
    assert version_of(path) == len(MIGRATIONS)


async def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    """Migrations go forward only; the reason stands in the cause, for the log."""
    path = tmp_path / "tasks.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    store = SqliteTaskStore(path)
    with pytest.raises(StoreUnavailable) as caught:
        await store.check()
    await store.close()

    assert "a newer one wrote it" in str(caught.value.__cause__)
    assert version_of(path) == len(MIGRATIONS) + 1


_PROCESS = """
import asyncio, json, sys
from pathlib import Path
from tracebaton.tasks import Task, TaskQuery, TaskStatus
from tracebaton.tasks.sqlite import SqliteTaskStore

async def run(store):
{body}

store = SqliteTaskStore(Path(sys.argv[1]))
name = sys.argv[2]
asyncio.run(run(store))
"""


async def spawn(path: Path, body: str, *, count: int = 1) -> list[asyncio.subprocess.Process]:
    """Run *body* in processes that have a store over *path*."""
    script = _PROCESS.format(body="\n".join(f"    {line}" for line in body.splitlines()))
    return [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", script, str(path), f"p-{number}"),
            stdout=asyncio.subprocess.PIPE,
        )
        for number in range(count)
    ]


async def test_several_processes_start_at_once(tmp_path: Path) -> None:
    """On an old file: one migrates it, the others wait, all of them work."""
    path = tmp_path / "tasks.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(FIRST)
    body = """
await store.create(Task(id=name, type="note", created_at=5.0, updated_at=5.0))
print(json.dumps([task.id for task in (await store.list(TaskQuery())).tasks]))
await store.close()
"""
    processes = await spawn(path, body, count=4)
    outputs = await asyncio.gather(*(process.communicate() for process in processes))

    assert [process.returncode for process in processes] == [0] * 4
    assert version_of(path) == len(MIGRATIONS)
    longest = max((json.loads(output) for output, _ in outputs), key=len)
    assert sorted(longest) == ["ended", "failed", "p-0", "p-1", "p-2", "p-3", "waits"]


async def test_several_processes_end_each_task_once(tmp_path: Path, queued: Queued) -> None:
    """Four processes race for fifty tasks: each is won exactly once."""
    path = tmp_path / "tasks.db"
    store = SqliteTaskStore(path)
    for number in range(50):
        await store.create(queued(f"t-{number}"))
        await store.start(f"t-{number}", attempt=1)
    body = """
for number in range(50):
    if await store.finish(f"t-{number}", TaskStatus.SUCCEEDED, attempt=1, result=1):
        print(number)
await store.close()
"""
    racers = await spawn(path, body, count=4)
    outputs = await asyncio.gather(*(racer.communicate() for racer in racers))
    history = await store.history("t-7")
    await store.close()

    winners = [int(number) for output, _ in outputs for number in output.split()]
    assert sorted(winners) == list(range(50))
    assert [change.number for change in history] == [1, 2, 3, 4]


async def test_a_killed_process_leaves_whole_tasks(tmp_path: Path) -> None:
    """Kill -9 in the middle of writing: what it said it saved is there, with its history."""
    path = tmp_path / "tasks.db"
    body = """
for number in range(10**6):
    task_id = f"{name}-{number}"
    await store.create(Task(id=task_id, type="note", created_at=5.0, updated_at=5.0), message="m")
    await store.start(task_id, attempt=1)
    await store.finish(task_id, TaskStatus.SUCCEEDED, attempt=1, result=number)
    print(task_id, flush=True)
"""
    [process] = await spawn(path, body)
    assert process.stdout is not None
    told = [(await process.stdout.readline()).decode().strip() for _ in range(50)]
    process.send_signal(signal.SIGKILL)
    rest, _ = await process.communicate()
    told += rest.decode().split()
    store = SqliteTaskStore(path)
    tasks = [await store.get(task_id) for task_id in told]
    page = await store.list(TaskQuery(limit=10_000))
    counts = [(task.changes, len(await store.history(task.id))) for task in page.tasks]
    await store.close()

    assert all(task is not None and task.status is TaskStatus.SUCCEEDED for task in tasks)
    assert 0 <= len(page.tasks) - len(told) <= 1
    assert all(changes == entries for changes, entries in counts)

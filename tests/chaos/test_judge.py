"""The judge of a chaos run: each thing that must not be is found."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field
from sqs_client import sqs_client

from tracebaton.context import RequestStore, entered
from tracebaton.errors import ConfigurationError, RetryLater
from tracebaton.local import LocalSqs
from tracebaton.queue.event import TaskEvent, encode
from tracebaton.queue.sqs import Queue
from tracebaton.queue.walk import Walk
from tracebaton.tasks import Registry, Task, TaskStatus, TaskType
from tracebaton.tasks.sqlite import SqliteTaskStore
from tracebaton.testing.journal import Journal
from tracebaton.testing.judge import Judge
from tracebaton.testing.samples import sample


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteTaskStore]:
    """A store with one queued task."""
    store = SqliteTaskStore(tmp_path / "tasks.db")
    await store.create(Task(id="t", type="note", created_at=0.0, updated_at=0.0))
    yield store
    await store.close()


def judge(store: SqliteTaskStore, tmp_path: Path) -> Judge:
    """Return a judge of what is in *store*."""
    return Judge(store, Journal(tmp_path / "journal.jsonl"))


async def test_a_task_that_ended_is_good(store: SqliteTaskStore, tmp_path: Path) -> None:
    """Nothing to find."""
    await store.start("t", attempt=1)
    await store.finish("t", TaskStatus.SUCCEEDED, attempt=1)
    one = judge(store, tmp_path)
    await one.tasks(["t"])
    verdict = one.verdict({"kills": 3})

    assert (verdict.good, verdict.figures["tasks"], verdict.figures["kills"]) == (
        True,
        {"succeeded": 1},
        3,
    )


async def test_what_is_lost_stuck_or_ended_twice_is_found(
    store: SqliteTaskStore, tmp_path: Path
) -> None:
    """Each in a sentence."""
    await store.create(Task(id="twice", type="note", created_at=0.0, updated_at=0.0))
    for sent_at in (None, 4e9):
        await store.start("twice", attempt=1, owner="m", sent_at=sent_at)
        await store.finish("twice", TaskStatus.DEAD, attempt=1)
    one = judge(store, tmp_path)
    await one.tasks(["t", "twice", "nobody"])
    left = {"visible": 0, "in_flight": 2, "delayed": 0}
    one.queues({"q": left, "x": {"visible": 1}}, queue="q", quarantine="x")
    one.processes([0, 1], {7: [*[10] * 20, 99], 8: [1, 99]})

    assert list(one.verdict({}).findings) == [
        "stuck: task t (note) is still queued",
        "ended twice: task twice ended as dead and dead",
        "lost: task nobody is not in the store",
        "stuck: 2 messages are still in the queue",
        "quarantined: 1 messages in quarantine",
        "no clean stop: workers exited with [0, 1]",
        "files: process 7 held 10 files, then 99",
    ]


async def test_a_group_out_of_order_is_found(store: SqliteTaskStore, tmp_path: Path) -> None:
    """An earlier task runs after a later one of its group; other groups do not count."""
    tasks = ["a1", "b1", "a1", "a2", "b2", "a1", "other", "b2"]
    lines = [{"task": task, "run": n, "pid": 1, "attempt": 1} for n, task in enumerate(tasks)]
    (tmp_path / "journal.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    one = judge(store, tmp_path)
    one.order({"a": ["a1", "a2"], "b": ["b1", "b2"]})

    assert list(one.verdict({}).findings) == ["out of order: task a1 ran after a later one of a"]


@pytest.mark.parametrize(
    ("status", "said", "events", "killed_after", "finding"),
    [
        (TaskStatus.DEAD, "KeyError", 1, None, None),
        (TaskStatus.DEAD, "KeyError", 2, None, "dead and 2 error events, not 1"),
        (TaskStatus.DEAD, "KeyError", 0, None, "dead and 0 error events, not 1"),
        (TaskStatus.DEAD, "KeyError", 0, 0.5, None),
        (TaskStatus.DEAD, "KeyError", 0, 60.0, "dead and 0 error events, not 1"),
        (TaskStatus.FAILED, "Reject", 0, None, None),
        (TaskStatus.FAILED, "Reject", 1, None, "failed and 1 error events, not 0"),
        (TaskStatus.FAILED, "InvalidTaskData", 1, None, None),
        (TaskStatus.SUCCEEDED, "", 1, None, "succeeded and 1 error events, not 0"),
    ],
)
async def test_a_final_failure_is_one_error_event(
    store: SqliteTaskStore,
    tmp_path: Path,
    status: TaskStatus,
    said: str,
    events: int,
    killed_after: float | None,
    finding: str | None,
) -> None:
    """Twice is never good; never only where the process was killed right after."""
    await store.start("t", attempt=1)
    await store.finish("t", status, attempt=1)
    task = await store.get("t")
    assert task is not None
    assert task.ended_at is not None
    begun = {"task": "t", "run": 1, "pid": 1, "attempt": 1}
    outcome = "steered" if said == "Reject" else "raised"
    ended = begun | {"outcome": outcome, "said": said}
    (tmp_path / "journal.jsonl").write_text(f"{json.dumps(begun)}\n{json.dumps(ended)}\n")
    one = judge(store, tmp_path)
    await one.tasks(["t"])
    killed_at = [] if killed_after is None else [task.ended_at + killed_after]
    one.reports({"t": {str(n) for n in range(events)}}, killed_at=killed_at)

    found = [] if finding is None else [f"reports: task t is {finding}"]
    assert list(one.verdict({}).findings) == found


async def test_a_message_that_a_cut_walk_hides_is_not_lost(
    store: SqliteTaskStore, tmp_path: Path
) -> None:
    """It is waited for; a dead task without any message is a finding."""
    await store.create(Task(id="gone", type="note", created_at=0.0, updated_at=0.0))
    for task_id in ("t", "gone"):
        await store.start(task_id, attempt=1)
        await store.finish(task_id, TaskStatus.DEAD, attempt=1)
    one = judge(store, tmp_path)
    await one.tasks(["t", "gone"])
    async with LocalSqs() as local:
        sqs = sqs_client(local.url)
        queue = Queue(sqs, url=local.create_queue("dlq"))
        event = TaskEvent(id="t", source="/api", type="note", time="", data={})
        await sqs.send(await queue.url(), encode(event), attributes={})
        cut = Walk(sqs, queue, visibility_seconds=1)
        assert len(await cut._receive(await queue.url())) == 1
        await one.dead(sqs, queue)
        await sqs.close()

    verdict = one.verdict({})
    assert list(verdict.findings) == ["lost: task gone is dead, its message is not in the DLQ"]
    assert verdict.figures["dlq"] == 1


async def test_the_applications_own_check_is_heard(store: SqliteTaskStore, tmp_path: Path) -> None:
    """Only it knows what handlers did elsewhere."""

    def check(tasks: Any) -> None:
        raise AssertionError(f"{len(tasks)} mails were sent twice")

    one = judge(store, tmp_path)
    await one.tasks(["t"])
    one.listen(check)

    assert "check: 1 mails were sent twice" in one.verdict({}).findings


@pytest.mark.parametrize(
    ("runs", "finding"),
    [
        ([1, 1], None),
        ([1, 2], "attempts returned 1 and 2"),
        ([1, KeyError()], "attempt 2 raised KeyError after another one had returned"),
        ([KeyError(), 1], None),
        ([1, RetryLater(0)], None),
    ],
    ids=str,
)
async def test_a_handler_that_contradicts_itself_is_found(
    store: SqliteTaskStore, tmp_path: Path, runs: list[Any], finding: str | None
) -> None:
    """A second run has to return what the first one did."""
    left = iter(runs)

    async def handler(data: Data) -> Any:
        outcome = next(left)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    journal = Journal(tmp_path / "journal.jsonl")
    registry = Registry()
    registry.add(TaskType(name="note", model=Data, handler=handler))
    run: Any = journal.recorded(registry, lose=0.0, seed=0)["note"].handler
    for attempt, outcome in enumerate(runs, start=1):
        with entered(RequestStore(task_id="t", attempt=attempt)):
            if isinstance(outcome, Exception):
                with pytest.raises(type(outcome)):
                    await run(Data())
            else:
                assert await run(Data()) == outcome
    await store.start("t", attempt=1)
    await store.finish("t", TaskStatus.SUCCEEDED, attempt=1)
    one = Judge(store, journal)
    await one.tasks(["t"])

    found = [] if finding is None else [f"not idempotent: task t: {finding}"]
    assert list(one.verdict({}).findings) == found


async def test_a_result_is_thrown_away(tmp_path: Path) -> None:
    """The run is in the journal, and is asked for again."""
    journal = Journal(tmp_path / "journal.jsonl")
    registry = Registry()
    registry.add(TaskType(name="note", model=Data, handler=lambda data: "done"))
    run: Any = journal.recorded(registry, lose=1.0, seed=0)["note"].handler
    with entered(RequestStore(task_id="t", attempt=1)), pytest.raises(RetryLater):
        run(Data())

    (line,) = journal.runs()["t"]
    assert (line.outcome, line.said) == ("returned", json.dumps("done"))
    assert list(journal.peaks().values()) == [1]


class Data(BaseModel):
    """Nothing is needed."""


class Inner(BaseModel):
    """Something inside."""

    size: int = Field(gt=2)


class Wanted(BaseModel):
    """Everything is needed."""

    name: str = Field(min_length=8)
    at: str = Field(json_schema_extra={"format": "date-time"})
    inner: Inner
    several: list[Inner] = Field(min_length=1)
    flag: bool
    maybe: str | None


class Odd(BaseModel):
    """Nothing simple fits."""

    code: str = Field(pattern="^[A-Z]{3}-[0-9]{4}$")


def test_a_sample_fits_the_model() -> None:
    """The least there is, whatever is required; where that fails, it says what to do."""

    def kind(model: type[BaseModel]) -> TaskType:
        return TaskType(name="note", model=model, handler=lambda data: None)

    made = sample(kind(Wanted))
    with pytest.raises(ConfigurationError, match="--data 'note=JSON'"):
        sample(kind(Odd))

    assert Wanted.model_validate(made).inner.size == 3
    assert sample(kind(Data)) == {}

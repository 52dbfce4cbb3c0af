"""Tasks as spans and log lines tell of them: the list, one task, its attempts."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tracebaton.semconv import (
    CORRELATION_ID,
    QUEUE_BACKLOG_MS,
    QUEUE_PREFETCH_MS,
    RECEIVE_COUNT,
    TASK_ID,
    TASK_STATUS,
    TASK_TYPE,
    USER_ID,
)
from tracebaton.viewer.database import Limits
from tracebaton.viewer.spans import SpanStore, TaskQuery, TraceQuery

CONSUMER = 5
TASK = {"task_id": "t-1", "task_type": "report"}

#: What a task tells on its way, at milliseconds after noon, that of its second attempt included.
TOLD = (
    (1, "task.enqueued", TASK),
    (10, "task.started", TASK | {"attempt": 1, "span": 3}),
    (20, "task.progress", TASK | {"attempt": 1, "span": 3, "percent": 40, "message": "page 4"}),
    (30, "task.retried", TASK | {"attempt": 1, "span": 3, "code": "internal"}),
    (50, "task.started", TASK | {"attempt": 2, "span": 4}),
    (60, "task.progress", TASK | {"attempt": 2, "span": 4, "percent": 10, "message": "page 1"}),
    (70, "task.dead", TASK | {"attempt": 2, "span": 4, "sentry_event_id": "e" * 32}),
)


def process(number: int, start: float, end: float, status: str, **more: Any) -> dict[str, Any]:
    """Return the description of one attempt's span."""
    task = {TASK_ID: "t-1", TASK_TYPE: "report", TASK_STATUS: status, RECEIVE_COUNT: number}
    fields = {"id": number + 2, "kind": CONSUMER, "start": start, "end": end}
    return fields | task | more


def tasks(store: SpanStore, **query: Any) -> list[dict[str, Any]]:
    """Return the tasks that match."""
    return store.tasks(TaskQuery(**query))[0]


def state(store: SpanStore) -> tuple[Any, ...]:
    """Return what the list shows of the one task."""
    [task] = tasks(store)
    return task["status"], task["attempt"], task["progress"], task["message"]


def test_a_task_is_followed_by_its_log_lines(store, otlp):
    """Before the first span of its trace has come."""
    states = []
    for line in TOLD:
        otlp.feed(store, otlp.told(line))
        states.append(state(store))

    assert states == [
        ("queued", None, None, None),
        ("running", 1, 0, None),
        ("running", 1, 40, "page 4"),
        ("queued", 1, 40, "page 4"),
        ("running", 2, 0, None),
        ("running", 2, 10, "page 1"),
        ("dead", 2, 10, "page 1"),
    ]
    assert store.traces(TraceQuery()) == ([], None)


@pytest.mark.parametrize("order", [(6, 5, 4, 3, 2, 1, 0), (1, 0, 2, 4, 3, 6, 5)])
def test_later_news_wins_in_whatever_order_it_comes(store, otlp, order):
    """Two processes export their lines on their own."""
    for index in order:
        otlp.feed(store, otlp.told(TOLD[index]))

    assert state(store) == ("dead", 2, 10, "page 1")


def test_a_worker_may_be_faster_than_the_line_of_the_send(store, otlp):
    """SQS hands the message out before it has answered the send."""
    late = (15, "task.enqueued", TASK)
    otlp.feed(store, otlp.told(TOLD[1], late))

    assert state(store) == ("running", 1, 0, None)


def test_a_trace_knows_what_its_tasks_log_lines_say(store, otlp):
    """A list of running traces has it, though no span has ended that would say so."""
    otlp.feed(store, otlp.told(TOLD[1]), otlp.spans({TASK_ID: "t-1"}))

    assert store.traces(TraceQuery(status="running"))[0][0]["task_status"] == "running"


def test_spans_and_lines_make_one_task(store, otlp):
    """Its times, ids, attempts and reasons, as one literal."""
    waits = {QUEUE_BACKLOG_MS: 8, QUEUE_PREFETCH_MS: 1}
    otlp.feed(
        store,
        otlp.spans({"id": 1, TASK_ID: "t-1", CORRELATION_ID: "c-1", USER_ID: "ann"}),
        otlp.told(*TOLD),
        otlp.spans(process(1, 9, 31, "queued", **waits), process(2, 49, 71, "dead")),
    )
    noon = "2026-11-23T12:00:00."
    common = {"trace_id": otlp.trace_hex(1), "error_type": None, "detail": None}

    assert store.task("t-1") == {
        "task_id": "t-1",
        "type": "report",
        "status": "dead",
        "attempt": 2,
        "progress": 10,
        "message": "page 1",
        "created_at": f"{noon}000000Z",
        "started_at": f"{noon}009000Z",
        "updated_at": f"{noon}071000Z",
        "ended_at": f"{noon}071000Z",
        "trace_id": otlp.trace_hex(1),
        "correlation_id": "c-1",
        "user_id": "ann",
        "traces": [otlp.trace_hex(1)],
        "attempts": [
            common
            | {
                "number": 1,
                "span_id": f"{3:016x}",
                "outcome": "retried",
                "started_at": f"{noon}009000Z",
                "ended_at": f"{noon}031000Z",
                "duration_ms": 22.0,
                "queue_ms": 9.0,
                "code": "internal",
                "sentry_event_id": None,
            },
            common
            | {
                "number": 2,
                "span_id": f"{4:016x}",
                "outcome": "dead",
                "started_at": f"{noon}049000Z",
                "ended_at": f"{noon}071000Z",
                "duration_ms": 22.0,
                "queue_ms": 0.0,
                "code": None,
                "sentry_event_id": "e" * 32,
            },
        ],
    }


def test_an_attempt_that_was_killed_is_told_from_one_that_runs(store, otlp):
    """Of both there is only the line with which they began."""
    otlp.feed(store, otlp.told(TOLD[1], TOLD[4]))

    assert [one["outcome"] for one in store.task("t-1")["attempts"]] == ["lost", "running"]


def test_a_task_of_two_traces_is_listed_once(store, otlp):
    """Enqueued in one, run in another: the later news and both traces."""
    enqueued = (1, "task.enqueued", TASK | {"trace": 2})
    otlp.feed(store, otlp.told(enqueued, TOLD[1]))
    [task] = tasks(store)

    assert (task["status"], task["trace_id"]) == ("running", otlp.trace_hex(1))
    assert store.task("t-1")["traces"] == [otlp.trace_hex(1), otlp.trace_hex(2)]


def test_tasks_are_found_by_status_type_and_text(store, otlp):
    """The text is the beginning of an id, or a part of the type or the message."""
    otlp.feed(
        store,
        otlp.spans({"trace": 2, TASK_ID: "t-2", USER_ID: "bob", CORRELATION_ID: "corr"}),
        otlp.told(
            (1, "task.enqueued", {"task_id": "t-2", "task_type": "mail", "trace": 2}),
            *TOLD[1:3],
        ),
    )

    def found(**query: Any) -> list[str]:
        return [task["task_id"] for task in tasks(store, **query)]

    assert found() == ["t-1", "t-2"]
    assert found(status="running") == found(type="report") == found(text="PAGE 4") == ["t-1"]
    assert (
        found(text="bo") == found(text="corr") == found(text="t-2") == found(text="AI") == ["t-2"]
    )
    assert found(text="-2") == found(type="rep") == found(status="dead") == []


def test_pages_of_tasks_are_newest_first_and_complete(store, otlp):
    """Also between tasks of the same instant."""
    otlp.feed(
        store,
        otlp.told(
            *((n // 3, "task.enqueued", {"task_id": f"t-{n}", "trace": n}) for n in range(1, 8))
        ),
    )
    pages, after = [], None
    while True:
        page, after = store.tasks(TaskQuery(limit=3, after=after))
        pages.append([task["task_id"] for task in page])
        if after is None:
            break

    assert pages == [["t-7", "t-6", "t-5"], ["t-4", "t-3", "t-2"], ["t-1"]]


def test_tasks_without_a_trace_are_bounded(otlp):
    """What was heard of longest ago goes, not what began first."""
    with SpanStore(limits=Limits(tasks=3)) as store:
        for number in range(1, 7):
            told = {"task_id": f"t-{number}", "trace": number}
            otlp.feed(
                store,
                otlp.told((number, "task.started", told)),
                otlp.told((number, "task.progress", {"task_id": "t-1", "percent": number})),
            )

        assert [task["task_id"] for task in tasks(store)] == ["t-6", "t-5", "t-1"]
        assert store.task("t-2") is None


def test_a_task_goes_with_its_trace(otlp):
    """And leaves room for the next one."""
    with SpanStore(limits=Limits(traces=2, tasks=2)) as store:
        for number in range(1, 6):
            otlp.feed(store, otlp.spans({"trace": number, "start": number, TASK_ID: f"t-{number}"}))

        assert [task["task_id"] for task in tasks(store)] == ["t-5", "t-4"]


def test_a_file_without_a_task_list_is_read(tmp_path: Path, otlp):
    """Its tasks belonged to a trace's row and were known by spans alone."""
    path = tmp_path / "traces.db"
    with SpanStore(path) as store:
        otlp.feed(store, otlp.spans(process(1, 9, 31, "queued")))
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            """
            DROP TABLE task;
            CREATE TABLE task (
                trace INTEGER NOT NULL, task_id TEXT NOT NULL, first INTEGER NOT NULL, type TEXT,
                status TEXT, status_time INTEGER NOT NULL, PRIMARY KEY (trace, task_id))
                WITHOUT ROWID;
            CREATE INDEX task_key ON task (task_id);
            INSERT INTO task SELECT id, 't-1', start, 'report', 'queued', end FROM trace;
            """
        )
    with SpanStore(path) as store:
        old = state(store)
        otlp.feed(store, otlp.told(*TOLD[4:6]))
        new = state(store)

    assert (old, new) == (("queued", None, None, None), ("running", 2, 10, "page 1"))


def test_forged_news_breaks_nothing(store, otlp):
    """Numbers that are none, times beyond the calendar, lines without a task."""
    nonsense = {"task_id": "t-1", "percent": "much", "attempt": "-1", "span": 9}
    spans = otlp.spans(process(1, 0, 1, "nonsense", **{RECEIVE_COUNT: "x", QUEUE_BACKLOG_MS: "y"}))
    spans.resource_spans[0].scope_spans[0].spans[0].end_time_unix_nano = 2**64 - 1
    otlp.feed(
        store,
        otlp.told(
            (1, "task.progress", nonsense),
            (2, "task.progress", {"task_id": "t-1", "percent": 900}),
            (3, "task.started", {}),
        ),
        spans,
    )
    task = store.task("t-1")

    assert (task["progress"], task["status"]) == (100, "nonsense")
    assert (task["attempts"][0]["number"], task["attempts"][0]["queue_ms"]) == (0, 0.0)
    assert len(tasks(store)) == 1


async def test_tasks_over_http(client: httpx.AsyncClient, store, otlp):
    """The list and its cursor, one task, and a 304 until something is heard of it."""
    second = (2, "task.enqueued", {"task_id": "a/b", "trace": 2})
    otlp.feed(store, otlp.told(*TOLD[:2], second))
    first = (await client.get("/api/tasks", params={"limit": 1})).json()
    rest = (await client.get("/api/tasks", params={"cursor": first["next_cursor"]})).json()
    one = await client.get("/api/tasks/t-1")
    tag = {"if-none-match": one.headers["etag"]}
    codes = [(await client.get("/api/tasks/t-1", headers=tag)).status_code]
    otlp.feed(store, otlp.told((3, "task.succeeded", second[2])))
    codes.append((await client.get("/api/tasks/t-1", headers=tag)).status_code)
    otlp.feed(store, otlp.told(TOLD[2]))
    codes.append((await client.get("/api/tasks/t-1", headers=tag)).status_code)

    assert [task["task_id"] for task in (*first["tasks"], *rest["tasks"])] == ["a/b", "t-1"]
    assert rest["next_cursor"] is None
    assert (one.json()["status"], codes) == ("running", [304, 304, 200])
    assert (await client.get("/api/tasks/a/b")).json()["task_id"] == "a/b"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/tasks/unknown", 404),
        ("/api/tasks?status=error", 400),
        ("/api/tasks?limit=0", 400),
        ("/api/tasks?cursor=x", 400),
    ],
)
async def test_what_is_not_there_is_a_problem(client: httpx.AsyncClient, path, status):
    """As everywhere else."""
    answer = await client.get(path)

    assert answer.status_code == answer.json()["status"] == status
    assert answer.headers["content-type"] == "application/problem+json"


async def test_the_list_names_the_types_there_are(client, store, otlp):
    """All of them, whatever is asked for; a task whose type nobody told has none."""
    tasks_of = [{"task_id": f"t-{n}", "task_type": kind} for n, kind in enumerate("bab")]
    untold = {"task_id": "t-9"}
    otlp.feed(store, otlp.told(*((n, "task.started", one) for n, one in enumerate(tasks_of))))
    otlp.feed(store, otlp.told((9, "task.started", untold)))

    answer = (await client.get("/api/tasks", params={"type": "a"})).json()
    assert answer["types"] == ["a", "b"]
    assert [task["task_id"] for task in answer["tasks"]] == ["t-1"]


async def test_no_tasks_have_no_types(client):
    """An empty list is what a page begins with."""
    assert (await client.get("/api/tasks")).json() == {
        "tasks": [],
        "next_cursor": None,
        "types": [],
    }

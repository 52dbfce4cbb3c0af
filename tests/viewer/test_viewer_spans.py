"""The span store: summaries, bounds, and a writer that nothing stops."""

import logging
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tracebaton.errors import ConfigurationError, StoreUnavailable
from tracebaton.semconv import (
    CORRELATION_ID,
    HTTP_STATUS_CODE,
    TASK_ID,
    TASK_STATUS,
    TASK_TYPE,
    USER_ID,
)
from tracebaton.viewer.database import Limits
from tracebaton.viewer.rows import MAX_TIME, log_rows, span_rows
from tracebaton.viewer.spans import SpanStore, TraceQuery

SERVER, PRODUCER, CONSUMER = 2, 4, 5


def listed(store: SpanStore, **query: Any) -> list[dict[str, Any]]:
    """Return the summaries that match."""
    return store.traces(TraceQuery(**query))[0]


def names(store: SpanStore, **query: Any) -> list[str]:
    """Return the names of the traces that match, newest first."""
    return [trace["name"] for trace in listed(store, **query)]


def test_a_trace_over_two_services_is_one_summary(store, otlp):
    """API and worker, ids and task, as one literal."""
    ids = {CORRELATION_ID: "c-1", USER_ID: "u-1", TASK_ID: "t-1", TASK_TYPE: "ai.chat"}
    otlp.feed(
        store,
        otlp.spans(
            {"id": 1, "name": "POST /v1/ai/chat", "kind": SERVER, "end": 12, **ids}
            | {HTTP_STATUS_CODE: 202},
            {"id": 2, "parent": 1, "name": "send q", "kind": PRODUCER, "start": 4, "end": 9, **ids},
        ),
        otlp.spans(
            {"id": 3, "parent": 2, "name": "process q", "kind": CONSUMER, "start": 50, "end": 99.5}
            | ids
            | {TASK_STATUS: "succeeded"},
            service="worker",
        ),
    )

    assert listed(store) == [
        {
            "trace_id": otlp.trace_hex(1),
            "name": "POST /v1/ai/chat",
            "start": "2026-11-23T12:00:00.000000Z",
            "duration_ms": 99.5,
            "services": ["api", "worker"],
            "error": False,
            "http_status": 202,
            "correlation_id": "c-1",
            "user_id": "u-1",
            "task_id": "t-1",
            "task_type": "ai.chat",
            "task_status": "succeeded",
            "tasks": 1,
            "spans": 3,
            "dropped_spans": 0,
            "root_missing": False,
        }
    ]


def test_a_root_that_comes_last_names_its_trace(store, otlp):
    """Until then the earliest span does, and the trace says that its root is missing."""
    otlp.feed(store, otlp.spans({"id": 3, "parent": 2, "name": "late", "start": 20}))
    otlp.feed(store, otlp.spans({"id": 2, "parent": 1, "name": "early", "start": 10}))
    before = listed(store)[0]
    otlp.feed(store, otlp.spans({"id": 1, "name": "root", "start": 15}))
    after = listed(store)[0]

    assert (before["name"], before["root_missing"]) == ("early", True)
    assert (after["name"], after["root_missing"]) == ("root", False)


def test_the_span_that_names_a_trace_says_what_was_answered(store, otlp):
    """A call inside it, with a status of its own, does not; nor does what is no status."""
    call = {"parent": 2, "start": 5, HTTP_STATUS_CODE: 500}
    otlp.feed(store, otlp.spans({"id": 3, **call}))
    before = listed(store)[0]
    otlp.feed(store, otlp.spans({"id": 2, "http.status_code": 422}, {"id": 4, **call}))
    otlp.feed(store, otlp.spans({"trace": 2, HTTP_STATUS_CODE: "-1e"}))
    forged, after = sorted(listed(store), key=lambda trace: trace["spans"])

    assert (before["http_status"], after["http_status"]) == (500, 422)
    assert forged["http_status"] is None


def test_a_file_of_the_first_version_is_read(tmp_path: Path, otlp):
    """It has no column for what was answered."""
    path = tmp_path / "traces.db"
    with SpanStore(path) as store:
        otlp.feed(store, otlp.spans({HTTP_STATUS_CODE: 404}))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE trace DROP COLUMN http_status")
    with SpanStore(path) as store:
        old = listed(store)[0]["http_status"]
        otlp.feed(store, otlp.spans({"trace": 2, HTTP_STATUS_CODE: 422}))
        new = listed(store)[0]["http_status"]

    assert (old, new) == (None, 422)


def test_a_failed_span_makes_the_trace_an_error(store, otlp):
    """Also when it arrives in another batch."""
    otlp.feed(store, otlp.spans({"id": 1, "trace": 1}, {"id": 2, "trace": 2, "start": 1}))
    otlp.feed(store, otlp.spans({"id": 3, "trace": 2, "parent": 2, "error": True}))

    assert [trace["trace_id"] for trace in listed(store, status="error")] == [otlp.trace_hex(2)]
    assert [trace["trace_id"] for trace in listed(store, status="ok")] == [otlp.trace_hex(1)]


def test_the_latest_span_decides_the_status_of_a_task(store, otlp):
    """A retry that ends later wins, in whatever order the two are exported."""
    failed = {"id": 1, TASK_ID: "t", TASK_STATUS: "queued", "start": 0, "end": 10}
    passed = {"id": 2, TASK_ID: "t", TASK_STATUS: "succeeded", "start": 20, "end": 30}
    otlp.feed(store, otlp.spans(passed), otlp.spans(failed), otlp.spans({"id": 3, TASK_ID: "t"}))

    assert listed(store)[0]["task_status"] == "succeeded"
    assert (len(listed(store, status="succeeded")), listed(store, status="queued")) == (1, [])


def test_every_task_and_id_of_a_trace_finds_it(store, otlp):
    """A task that enqueued another is found by both; the first names the trace."""
    otlp.feed(
        store,
        otlp.spans(
            {"id": 1, "name": "a", TASK_ID: "t-2", "start": 5, USER_ID: "ann"},
            {"id": 2, "parent": 1, TASK_ID: "t-1", "start": 1, CORRELATION_ID: "c.1"},
            {"id": 3, "trace": 2, "name": "other", TASK_ID: "t-3", USER_ID: "bob", "start": 9},
        ),
    )

    assert names(store, task_id="t-1") == names(store, task_id="t-2") == ["a"]
    assert names(store, user_id="ann") == names(store, correlation_id="c.1") == ["a"]
    assert names(store, user_id="ann", task_id="t-3") == []
    assert (listed(store)[1]["task_id"], listed(store)[1]["tasks"]) == ("t-1", 2)


def test_the_search_box_finds_the_beginning_of_any_id_and_a_part_of_the_name(store, otlp):
    """One text, case ignored for names and trace ids; its wildcards mean themselves."""
    otlp.feed(
        store,
        otlp.spans(
            {"id": 1, "trace": 0xAB << 120, "name": "POST /v1/ai/chat", CORRELATION_ID: "corr-7"},
            {"id": 2, "trace": 2, "name": "GET /v1/tasks/{id}", USER_ID: "ann", "start": 1},
            {"id": 3, "trace": 3, "name": "process q", TASK_ID: "0190-task", "start": 2},
        ),
    )

    assert names(store, text="corr") == names(store, text="AI/CHAT") == ["POST /v1/ai/chat"]
    assert names(store, text="AB00") == ["POST /v1/ai/chat"]
    assert names(store, text="an") == ["GET /v1/tasks/{id}"]
    assert names(store, text="0190") == ["process q"]
    assert names(store, text="orr-7") == names(store, text="%") == names(store, text="_") == []


def test_pages_are_newest_first_and_complete(store, otlp):
    """A cursor goes on where the page ended, also between traces of the same instant."""
    otlp.feed(
        store,
        otlp.spans(*({"id": n, "trace": n, "name": str(n), "start": n // 3} for n in range(1, 8))),
    )
    pages, after = [], None
    while True:
        page, after = store.traces(TraceQuery(limit=3, after=after))
        pages.append([trace["name"] for trace in page])
        if after is None:
            break

    assert pages == [["7", "6", "5"], ["4", "3", "2"], ["1"]]


def test_the_trace_fed_longest_ago_is_evicted_with_its_lines(otlp):
    """Not the one that started first: a task of three hours is still being fed."""
    with SpanStore(limits=Limits(traces=2)) as store:
        otlp.feed(store, otlp.spans({"id": 1, "trace": 1, "name": "long", TASK_ID: "t"}))
        otlp.feed(store, otlp.spans({"id": 2, "trace": 2, "name": "short", USER_ID: "u"}))
        otlp.feed(store, otlp.logs("of the short one", trace=2))
        otlp.feed(store, otlp.spans({"id": 3, "trace": 1, "parent": 1, "start": 1}))
        otlp.feed(store, otlp.spans({"id": 4, "trace": 3, "name": "new", "start": 9}))

        assert names(store) == ["new", "long"]
        assert store.trace(otlp.trace_id(2)) is store.logs(otlp.trace_id(2)) is None
        assert (names(store, user_id="u"), names(store, task_id="t")) == ([], ["long"])


def test_ten_thousand_traces_in_one_group_leave_the_limit(otlp):
    """More than fits in one write is evicted in the same write."""
    with SpanStore(limits=Limits(traces=100)) as store:
        otlp.feed(store, otlp.spans(*({"id": n, "trace": n} for n in range(1, 1_001))))

        assert len(listed(store, limit=1_000)) == 100


def test_the_bytes_of_all_spans_are_bounded(otlp):
    """Old traces make room for large spans."""
    with SpanStore(limits=Limits(span_bytes=10_000)) as store:
        for number in range(1, 11):
            otlp.feed(store, otlp.spans({"id": number, "trace": number, "blob": "x" * 3_000}))

        assert [trace["trace_id"] for trace in listed(store)] == [
            otlp.trace_hex(number) for number in (10, 9, 8)
        ]


def test_what_is_too_large_on_its_own_is_not_kept(otlp):
    """One trace, or one line, beyond the bytes of all of them."""
    with SpanStore(limits=Limits(span_bytes=1_000, log_bytes=1_000)) as store:
        otlp.feed(store, otlp.spans({"blob": "x" * 2_000}), otlp.logs("x" * 2_000, trace=2))

        assert (listed(store), store.logs(otlp.trace_id(2))) == ([], None)
        assert store._writer._totals == store._writer._count()


def test_a_trace_keeps_its_limit_of_spans_and_the_span_that_ends_it(otlp):
    """Spans that cross a process have a tenth more; what was dropped is counted."""
    with SpanStore(limits=Limits(spans_per_trace=10)) as store:
        inner = ({"id": n, "parent": 1, "start": n} for n in range(2, 42))
        otlp.feed(store, otlp.spans({"id": 1, "name": "root"}, *inner))
        last = {"id": 99, "parent": 1, "kind": CONSUMER, "start": 90, TASK_ID: "t", "error": True}
        otlp.feed(store, otlp.spans(last, {"id": 100, "parent": 99, "start": 500}))
        kept = store.trace(otlp.trace_id(1))["resourceSpans"][0]["scopeSpans"][0]["spans"]
        summary = listed(store)[0]

        assert len(kept) == summary["spans"] == 11
        assert kept[-1]["spanId"] == (99).to_bytes(8, "big").hex()
        assert (summary["dropped_spans"], summary["error"]) == (32, True)
        assert summary["duration_ms"] == 501.0


def test_a_batch_that_is_sent_again_counts_once(store, otlp):
    """An exporter that saw no answer repeats itself."""
    request = otlp.spans({"id": 1}, {"id": 2, "parent": 1})
    otlp.feed(store, request, request)

    assert listed(store)[0]["spans"] == 2
    assert store._writer._totals.span_bytes == sum(len(row.body) for row in span_rows(request)[0])


def test_log_lines_have_the_one_schema(store, otlp):
    """Fixed fields first; attributes fill what is unset and overwrite nothing."""
    request = otlp.logs("task.started")
    record = request.resource_logs[0].scope_logs[0].log_records[0]
    for key, value in (
        (CORRELATION_ID, "c-1"),
        ("user_id", "u-1"),
        ("level", "forged"),
        ("queue", "q"),
    ):
        record.attributes.add(key=key).value.string_value = value
    record.attributes.add(key="attempt").value.int_value = 2
    steps = record.attributes.add(key="steps").value.array_value.values
    steps.add().string_value = "a"
    steps.add().kvlist_value.values.add(key="n").value.int_value = 1
    otlp.feed(store, request)

    assert store.logs(otlp.trace_id(1)) == [
        {
            "timestamp": "2026-11-23T12:00:00.000000Z",
            "level": "info",
            "event": "task.started",
            "logger": "tests.log",
            "service": "api",
            "trace_id": otlp.trace_hex(1),
            "span_id": "0000000000000001",
            "correlation_id": "c-1",
            "user_id": "u-1",
            "task_id": None,
            "attempt": 2,
            "queue": "q",
            "steps": ["a", {"n": 1}],
        }
    ]


def test_log_bodies_of_every_kind_become_lines(store, otlp):
    """An event name with a text, a structured body, no body, and severities by text or number."""
    request = otlp.logs("text", "", "plain", "observed", "no body")
    named, structured, bare, observed, only_named = (
        request.resource_logs[0].scope_logs[0].log_records
    )
    named.event_name, named.severity_text = "task.retried", "WARNING"
    structured.body.kvlist_value.values.add(key="event").value.string_value = "from.body"
    structured.severity_number = 24
    bare.ClearField("body")
    bare.ClearField("severity_number")
    only_named.event_name = "queue.empty"
    only_named.ClearField("body")
    observed.observed_time_unix_nano, observed.time_unix_nano = 2 * MAX_TIME, 0
    otlp.feed(store, request)
    lines = store.logs(otlp.trace_id(1))

    assert [(line["event"], line["level"], line.get("body")) for line in lines] == [
        ("task.retried", "warning", "text"),
        ("from.body", "critical", None),
        (None, "info", None),
        ("queue.empty", "info", None),
        ("observed", "info", None),
    ]
    assert lines[4]["timestamp"].startswith("2262-04-11T23:47:16")


def test_log_lines_are_bounded_by_number_and_by_bytes(otlp):
    """The oldest go first, whatever their trace; a line outside every trace is not kept."""
    with (
        SpanStore(limits=Limits(log_lines=3)) as few,
        SpanStore(limits=Limits(log_bytes=900)) as small,
    ):
        for number in range(1, 6):
            otlp.feed(few, otlp.logs(str(number), trace=number % 2 + 1))
            otlp.feed(small, otlp.logs(str(number) + "x" * 300))
        otlp.feed(few, otlp.logs("startup", trace=0))

        assert [line["event"] for line in few.logs(otlp.trace_id(2))] == ["3", "5"]
        assert [line["event"] for line in few.logs(otlp.trace_id(1))] == ["4"]
        assert [line["event"][0] for line in small.logs(otlp.trace_id(1))] == ["4", "5"]


def test_lines_are_kept_before_their_trace_is_known(store, otlp):
    """Logs travel faster than spans."""
    otlp.feed(store, otlp.logs("first"))

    assert [line["event"] for line in store.logs(otlp.trace_id(1))] == ["first"]
    assert (store.trace(otlp.trace_id(1)), store.logs(otlp.trace_id(2))) == (None, None)


def test_a_known_trace_without_lines_has_an_empty_list(store, otlp):
    """That is not the same as an unknown trace."""
    otlp.feed(store, otlp.spans({}))

    assert store.logs(otlp.trace_id(1)) == []


def test_forged_times_and_endless_names_are_cut_in_the_summary_only(store, otlp):
    """A time beyond SQLite's integers, an end before the start, a name of a megabyte."""
    request = otlp.spans({"name": "n" * 1_000_000, "start": 10, "end": 5}, {"trace": 2})
    for span in request.resource_spans[0].scope_spans[0].spans[1:]:
        span.start_time_unix_nano = span.end_time_unix_nano = 2**64 - 1
    otlp.feed(store, request)
    forged, named = listed(store)
    whole = store.trace(otlp.trace_id(2))["resourceSpans"][0]["scopeSpans"][0]["spans"][0]

    assert (forged["start"], forged["duration_ms"]) == ("2262-04-11T23:47:16.854775Z", 0.0)
    assert (len(named["name"]), named["duration_ms"]) == (256, 0.0)
    assert whole["startTimeUnixNano"] == str(2**64 - 1)


def test_a_trace_lists_a_bounded_number_of_services(store, otlp):
    """A thousand service names in one trace are forged."""
    otlp.feed(store, *(otlp.spans({"id": n}, service=f"s{n:03}") for n in range(1, 41)))

    assert listed(store)[0]["services"] == [f"s{n:03}" for n in range(1, 33)]


def test_ids_that_are_no_strings_are_indexed_as_text(store, otlp):
    """A user id may be a number; an empty one is none."""
    request = otlp.spans({}, {"trace": 2}, {"trace": 3}, {"trace": 4}, {"trace": 5})
    spans = request.resource_spans[0].scope_spans[0].spans
    spans[0].attributes.add(key=USER_ID).value.int_value = 17
    spans[1].attributes.add(key=USER_ID).value.bool_value = True
    spans[2].attributes.add(key=USER_ID).value.string_value = ""
    spans[3].attributes.add(key=USER_ID).value.bytes_value = b"x"
    spans[4].attributes.add(key=USER_ID).value.double_value = 1.5
    request.resource_spans[0].resource.ClearField("attributes")
    otlp.feed(store, request)

    assert [trace["user_id"] for trace in listed(store)][::-1] == ["17", "true", None, None, "1.5"]
    assert listed(store, user_id="17")[0]["services"] == ["unknown_service"]


def test_a_file_keeps_its_traces_for_the_next_start(tmp_path, otlp):
    """Bounds and write numbers go on where they were."""
    path = tmp_path / "spans.sqlite3"
    with SpanStore(path, limits=Limits(traces=2)) as store:
        otlp.feed(store, otlp.spans({"id": 1, "trace": 1, "name": "one"}), otlp.logs("line"))
        otlp.feed(store, otlp.spans({"id": 2, "trace": 2, "name": "two", "start": 1}))
    with SpanStore(path, limits=Limits(traces=2)) as store:
        before = (names(store), store.logs(otlp.trace_id(1))[0]["event"])
        otlp.feed(store, otlp.spans({"id": 3, "trace": 3, "name": "three", "start": 2}))
        after = names(store)

    assert before == (["two", "one"], "line")
    assert after == ["three", "two"]


def test_a_file_that_is_no_database_is_a_configuration_error(tmp_path):
    """It may be somebody's photograph: it is named and left alone."""
    path = tmp_path / "photo.png"
    path.write_bytes(b"\x89PNG" * 1_000)

    with pytest.raises(ConfigurationError, match=r"photo\.png"):
        SpanStore(path)
    assert path.read_bytes() == b"\x89PNG" * 1_000


def test_what_was_accepted_is_written_at_close(tmp_path, otlp):
    """No flush is needed, and closing twice is one close."""
    path = tmp_path / "spans.sqlite3"
    store = SpanStore(path)
    for number in range(1, 201):
        store.submit(spans=span_rows(otlp.spans({"trace": number}))[0])
    store.close()
    store.close()

    with SpanStore(path) as again:
        assert len(listed(again, limit=1_000)) == 200


def test_a_disk_that_is_busy_refuses_more_and_loses_nothing(tmp_path, otlp):
    """Another process holds the file: the intake says so while the queue is full, then goes on."""
    path = tmp_path / "spans.sqlite3"
    with SpanStore(path, limits=Limits(pending_bytes=1)) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        store.submit(spans=span_rows(otlp.spans({"trace": 1}))[0])
        refused = False
        for number in range(2, 5):
            try:
                store.submit(spans=span_rows(otlp.spans({"trace": number}))[0])
            except StoreUnavailable as exc:
                refused = exc.retry_after == 1
        unsettled = store.settle(0)
        other.execute("ROLLBACK")
        other.close()

        assert (refused, unsettled, store.settle(10)) == (True, False, True)
        assert otlp.trace_hex(1) in {trace["trace_id"] for trace in listed(store)}


def test_a_disk_that_hangs_does_not_hold_up_the_stop(tmp_path, otlp):
    """The close gives up after its time; what was accepted is written once the disk answers."""
    path = tmp_path / "spans.sqlite3"
    store = SpanStore(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store.submit(spans=span_rows(otlp.spans({"name": "late"}))[0])
    store.close(timeout=0.05)
    hanging = store._thread.is_alive()
    other.execute("ROLLBACK")
    other.close()
    store.close()

    with SpanStore(path) as again:
        assert (hanging, names(again)) == (True, ["late"])


def test_a_group_that_cannot_be_written_takes_no_other_with_it(store, otlp, caplog):
    """The writer logs what it lost and goes on; what was stored before stays."""
    otlp.feed(store, otlp.spans({"id": 1, "name": "before"}))
    poison = span_rows(otlp.spans({"id": 2, "trace": 9}))[0][0]._replace(start=2**70, end=2**70)
    good = span_rows(otlp.spans({"id": 3, "trace": 3, "name": "good", "start": 1}))[0]
    # While somebody reads from memory the writer waits, so that the three become one group.
    with caplog.at_level(logging.WARNING), store._reading:
        store.submit(spans=good)
        store.submit(spans=[poison])
        store.submit(spans=[*span_rows(otlp.spans({"id": 4, "trace": 4}, service="x"))[0], poison])
    assert store.settle(10)

    assert names(store) == ["good", "before"]
    assert {record.getMessage() for record in caplog.records} == {"viewer.batch_lost"}
    assert store._writer._totals == store._writer._count()


def test_reads_and_writes_from_many_threads_agree(store, otlp):
    """Every trace that was accepted is listed by the thread that sent it, at once."""
    seen: list[bool] = []

    def work(first: int) -> None:
        for number in range(first, first + 20):
            store.submit(spans=span_rows(otlp.spans({"trace": number}))[0])
            seen.append(store.trace(otlp.trace_id(number)) is not None)

    threads = [threading.Thread(target=work, args=(1 + 100 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert seen == [True] * 80


def test_resources_of_evicted_traces_are_forgotten(otlp, monkeypatch):
    """A service that restarts a thousand times leaves one resource, not a thousand."""
    monkeypatch.setattr("tracebaton.viewer.database.PRUNE_BYTES", 2_000)
    with SpanStore(limits=Limits(traces=3)) as store:
        for number in range(1, 101):
            otlp.feed(store, otlp.spans({"trace": number}, service=f"api-{number}" + "x" * 100))
        rows = store._reader.execute("SELECT count(*) FROM origin").fetchone()[0]

        assert rows < 20
        assert listed(store)[0]["services"][0].startswith("api-100x")


def test_lines_share_the_origin_of_their_services_spans(store, otlp):
    """One resource and scope are stored once for both signals."""
    logs = otlp.logs("a")
    logs.resource_logs[0].scope_logs[0].scope.name = "tests"
    otlp.feed(store, otlp.spans({}), logs)

    assert store._reader.execute("SELECT count(*) FROM origin").fetchone() == (1,)
    assert log_rows(logs)[0].origin == span_rows(otlp.spans({}))[0][0].origin

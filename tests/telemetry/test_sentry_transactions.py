"""Transactions as Sentry's intake gets them."""

import asyncio
import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sentry_sdk
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from sentry_receiver import SentryReceiver

from tracebaton.context import RequestStore, entered
from tracebaton.telemetry.pipeline import Telemetry

pytestmark = pytest.mark.backends

NEW = {"http.request.method": "POST", "http.route": "/v1/jobs/{job_id}"}
OLD = {"http.method": "POST", "http.route": "/v1/jobs/{job_id}"}
SEND = {
    "messaging.system": "aws_sqs",
    "messaging.operation.type": "send",
    "messaging.operation.name": "send",
    "messaging.destination.name": "jobs",
    "messaging.message.id": "m-1",
    "messaging.message.body.size": 14,
    "tracebaton.task.type": "ai.chat",
}
PROCESS = SEND | {
    "messaging.operation.type": "process",
    "tracebaton.message.receive_count": 3,
    "tracebaton.queue.delay_ms": 1.5,
    "tracebaton.queue.backlog_ms": 20.0,
    "tracebaton.queue.prefetch_ms": 2.5,
}


@contextmanager
def request(
    telemetry: Telemetry,
    store: RequestStore | None = None,
    headers: dict[str, str] | None = None,
    **span: Any,
) -> Iterator[Span]:
    """Serve one request the way the http layer does: isolate, attach, SERVER span."""
    context = telemetry.propagator.extract(headers or {})
    options = {"attributes": NEW} | span
    with (
        telemetry.reporter.isolated(),
        entered(store or RequestStore(), context),
        telemetry.tracer.start_as_current_span(
            "POST /v1/jobs/{job_id}", kind=SpanKind.SERVER, **options
        ) as server,
    ):
        yield server


@contextmanager
def message(telemetry: Telemetry, carrier: dict[str, str], **span: Any) -> Iterator[Span]:
    """Process one message the way the queue layer does."""
    found = telemetry.propagator.extract_message(carrier)
    options = {"attributes": PROCESS} | span
    with (
        telemetry.reporter.isolated(),
        entered(RequestStore(**found.fields), found.context),
        telemetry.tracer.start_as_current_span(
            "process jobs", kind=SpanKind.CONSUMER, **options
        ) as process,
    ):
        yield process


def hex_ids(span: Span) -> tuple[str, str]:
    context = span.get_span_context()
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def test_request_and_message_are_two_transactions_of_one_trace(
    pipelines: Any, sentry: SentryReceiver
) -> None:
    """Op, name, source, status, parent and queue data are those of SPEC 5."""
    api = pipelines({"SENTRY_DSN": sentry.dsn}, role="api")
    store = RequestStore(correlation_id="c-1", user_id="u-1")
    with (
        request(api, store) as server,
        api.tracer.start_as_current_span(
            "send jobs", kind=SpanKind.PRODUCER, attributes=SEND
        ) as send,
    ):
        carrier = api.propagator.inject_message()
    assert api.shutdown(5).complete
    worker = pipelines({"SENTRY_DSN": sentry.dsn}, role="worker")
    with message(worker, carrier) as process:
        process.set_status(Status(StatusCode.ERROR))
    assert worker.shutdown(5).complete

    http, queue = sentry.transactions()
    (trace_id, server_id), (_, send_id), (_, process_id) = map(hex_ids, (server, send, process))

    assert http["transaction"] == "POST /v1/jobs/{job_id}"
    assert http["transaction_info"] == {"source": "route"}
    assert _trace(http) == ("http.server", "ok", trace_id, server_id, None)
    assert http["tags"] == {"correlation_id": "c-1"}
    assert http["user"] == {"id": "u-1"}
    (child,) = http["spans"]
    assert (child["op"], child["description"], child["span_id"], child["status"]) == (
        "queue.publish",
        "send jobs",
        send_id,
        "ok",
    )
    assert child["data"]["otel.kind"] == "PRODUCER"
    assert {key: child["data"][key] for key in SEND} == SEND
    assert queue["transaction"] == "ai.chat"
    assert queue["transaction_info"] == {"source": "task"}
    assert _trace(queue) == ("queue.process", "internal_error", trace_id, process_id, send_id)
    assert queue["tags"] == {"correlation_id": "c-1", "task_type": "ai.chat"}
    data = queue["contexts"]["trace"]["data"]
    assert {key: value for key, value in data.items() if key.startswith("messaging.message")} == {
        "messaging.message.id": "m-1",
        "messaging.message.body.size": 14,
        "messaging.message.retry.count": 2,
        "messaging.message.receive.latency": 24.0,
    }
    assert data["messaging.destination.name"] == "jobs"
    assert http["sdk"]["name"] == "sentry.python"


def _trace(event: dict[str, Any]) -> tuple[Any, ...]:
    trace = event["contexts"]["trace"]
    names = ("op", "status", "trace_id", "span_id", "parent_span_id")
    return tuple(trace.get(name) for name in names)


def test_the_sampling_context_is_the_heads_in_every_envelope(
    pipelines: Any, sentry: SentryReceiver
) -> None:
    """The worker passes on what the API wrote, whatever its own settings say."""
    shared = {"SENTRY_DSN": sentry.dsn, "SENTRY_TRACES_SAMPLE_RATE": "1"}
    names = {"SENTRY_RELEASE": "api@1", "SENTRY_ENVIRONMENT": "lab"}
    api = pipelines(shared | names, role="api")
    with request(api) as server:
        carrier = api.propagator.inject_message()
    api.shutdown(5)
    worker = pipelines({"SENTRY_DSN": sentry.dsn, "SENTRY_RELEASE": "worker@2"}, role="worker")
    with message(worker, carrier), worker.tracer.start_as_current_span("inner"):
        onward = worker.propagator.inject_message()
    worker.shutdown(5)

    headers = [e.header["trace"] for e in sentry.envelopes if e.items[0].type == "transaction"]
    expected = {
        "trace_id": hex_ids(server)[0],
        "public_key": "public",
        "release": "api@1",
        "environment": "lab",
        "transaction": "POST /v1/jobs/{job_id}",
        "sample_rate": "1.0",
        "sample_rand": headers[0]["sample_rand"],
        "sampled": "true",
    }

    assert headers == [expected, expected]
    assert float(expected["sample_rand"]) < 1
    assert _sentry_members(onward) == _sentry_members(carrier)
    assert _sentry_members(carrier) != []


def _sentry_members(carrier: dict[str, str]) -> list[str]:
    return [m for m in carrier["baggage"].split(",") if m.startswith("sentry-")]


def test_an_unsampled_trace_sends_nothing_and_says_so(
    pipelines: Any, sentry: SentryReceiver
) -> None:
    """Neither API nor worker; the message still carries ids and the head's decision."""
    telemetry = pipelines({"SENTRY_DSN": sentry.dsn, "SENTRY_TRACES_SAMPLE_RATE": "0"})
    with request(telemetry, RequestStore(correlation_id="c-1")):
        carrier = telemetry.propagator.inject_message()
        headers: dict[str, str] = {}
        telemetry.propagator.inject(headers)
    always = {"SENTRY_DSN": sentry.dsn, "SENTRY_TRACES_SAMPLE_RATE": "1"}
    worker = pipelines(always, role="worker")
    with message(worker, carrier):
        pass
    worker.shutdown(5)

    assert sentry.transactions() == []
    assert carrier["traceparent"].endswith(("-00", "-02"))
    assert headers["sentry-trace"].endswith("-0")
    assert "sentry-sampled=false" in carrier["baggage"]
    assert "tracebaton.correlation_id=c-1" in carrier["baggage"]


def test_an_outsiders_sampling_context_is_corrected_to_our_decision(
    pipelines: Any, sentry: SentryReceiver
) -> None:
    """A browser's members are kept; what they say about sampling has to be what was done."""
    telemetry = pipelines({"SENTRY_DSN": sentry.dsn, "SENTRY_TRACES_SAMPLE_RATE": "1"})
    trace_id = "ab" * 16
    headers = {
        "sentry-trace": f"{trace_id}-{'cd' * 8}-0",
        "baggage": f"sentry-trace_id={trace_id},sentry-public_key=public,sentry-sampled=false,"
        "sentry-sample_rate=0.1,sentry-transaction=%2Fpage",
    }
    with request(telemetry, headers=headers):
        pass
    telemetry.shutdown(5)

    (event,) = sentry.transactions()
    header = sentry.trace_headers()[event["event_id"]]

    assert (header["trace_id"], header["transaction"]) == (trace_id, "/page")
    assert (header["sampled"], header["sample_rate"]) == ("true", "1.0")
    assert event["contexts"]["trace"]["parent_span_id"] == "cd" * 8


@pytest.mark.parametrize(
    ("attributes", "status_name"),
    [(NEW, "http.response.status_code"), (OLD, "http.status_code")],
)
@pytest.mark.parametrize(
    ("code", "failed", "status"),
    [
        (200, False, "ok"),
        (404, False, "not_found"),
        (503, True, "unavailable"),
        (500, True, "internal_error"),
        (200, True, "internal_error"),
    ],
)
def test_both_generations_of_http_conventions_read_the_same(
    pipelines: Any,
    sentry: SentryReceiver,
    attributes: dict[str, Any],
    status_name: str,
    code: int,
    failed: bool,
    status: str,
) -> None:
    """A stream that failed after its 200 is no success."""
    telemetry = pipelines({"SENTRY_DSN": sentry.dsn})
    with request(telemetry, attributes=attributes) as server:
        server.set_attribute(status_name, code)
        if failed:
            server.set_status(Status(StatusCode.ERROR))
    telemetry.shutdown(5)

    (event,) = sentry.transactions()

    assert _trace(event)[:2] == ("http.server", status)
    assert event["transaction"] == "POST /v1/jobs/{job_id}"


@pytest.mark.parametrize("minutes", [12, 180])
def test_long_jobs_arrive_with_their_children(
    pipelines: Any, sentry: SentryReceiver, minutes: int
) -> None:
    """sentry-sdk forgets a span after ten minutes; nothing is forgotten here."""
    telemetry = pipelines({"SENTRY_DSN": sentry.dsn}, role="worker")
    end = time.time_ns()
    start = end - minutes * 60 * 10**9
    with (
        telemetry.reporter.isolated(),
        entered(RequestStore()),
    ):
        root = telemetry.tracer.start_span(
            "process jobs", kind=SpanKind.CONSUMER, attributes=PROCESS, start_time=start
        )
        early = telemetry.tracer.start_span(
            "early", context=set_span_in_context(root), start_time=start + 10**9
        )
        early.end(start + 2 * 10**9)
        late = telemetry.tracer.start_span(
            "late", context=set_span_in_context(root), start_time=end - 2 * 10**9
        )
        late.end(end - 10**9)
        root.end(end)
    telemetry.shutdown(5)

    (event,) = sentry.transactions()

    assert [span["description"] for span in event["spans"]] == ["early", "late"]
    assert _trace(event)[0] == "queue.process"


def test_a_span_that_ends_after_its_root_is_its_own_transaction(
    pipelines: Any, sentry: SentryReceiver
) -> None:
    """With its children, the right parent and the unit's tags; sentry-sdk would drop it."""
    telemetry = pipelines({"SENTRY_DSN": sentry.dsn})
    with request(telemetry, RequestStore(correlation_id="c-1")) as server:
        sentry_sdk.set_tag("unit", "this")
        background = telemetry.tracer.start_span("background")
        middle = telemetry.tracer.start_span("middle")
        middle.end()
        # Its parent has ended, its root has not: still a child of the root's transaction.
        telemetry.tracer.start_span("tail", context=set_span_in_context(middle)).end()
    with telemetry.tracer.start_as_current_span("inner", context=set_span_in_context(background)):
        pass
    background.end()
    telemetry.shutdown(5)

    first, second = sentry.transactions()

    assert [span["description"] for span in first["spans"]] == ["middle", "tail"]
    assert second["transaction"] == "background"
    assert [span["description"] for span in second["spans"]] == ["inner"]
    assert second["contexts"]["trace"]["parent_span_id"] == hex_ids(server)[1]
    assert second["tags"]["unit"] == "this"
    headers = sentry.trace_headers()
    assert headers[first["event_id"]] == headers[second["event_id"]]


def test_a_background_span_started_after_the_response_arrives(
    pipelines: Any, sentry: SentryReceiver
) -> None:
    """Starlette runs background tasks with the ended SERVER span still current."""
    telemetry = pipelines({"SENTRY_DSN": sentry.dsn})
    with request(telemetry) as server:
        pass
    with telemetry.tracer.start_as_current_span("later", context=set_span_in_context(server)):
        pass
    telemetry.shutdown(5)

    _, later = sentry.transactions()

    assert later["transaction"] == "later"
    assert later["contexts"]["trace"]["parent_span_id"] == hex_ids(server)[1]


def test_a_message_in_a_poll_keeps_its_own_ids(pipelines: Any, sentry: SentryReceiver) -> None:
    """sentry-sdk rewrites a transaction to whatever span is current when it ends."""
    telemetry = pipelines({"SENTRY_DSN": sentry.dsn}, role="worker")
    with telemetry.tracer.start_as_current_span("loop"), message(telemetry, {}) as process:
        pass
    telemetry.shutdown(5)

    events = {event["transaction"]: event for event in sentry.transactions()}

    assert events["ai.chat"]["contexts"]["trace"]["trace_id"] == hex_ids(process)[0]
    assert events["ai.chat"]["contexts"]["trace"]["span_id"] == hex_ids(process)[1]


def test_a_message_handled_in_the_producers_process_is_a_transaction(
    pipelines: Any, sentry: SentryReceiver
) -> None:
    """Its parent is remote although the span is at hand."""
    telemetry = pipelines({"SENTRY_DSN": sentry.dsn})
    with request(telemetry):
        carrier = telemetry.propagator.inject_message()
        with message(telemetry, carrier):
            pass
    telemetry.shutdown(5)

    assert {event["transaction"] for event in sentry.transactions()} == {
        "ai.chat",
        "POST /v1/jobs/{job_id}",
    }


def test_spans_are_attributed_to_the_thread_that_started_them(
    pipelines: Any, sentry: SentryReceiver
) -> None:
    """Not to the one that sends them: profiles are matched by thread."""
    telemetry = pipelines({"SENTRY_DSN": sentry.dsn})

    def serve() -> None:
        with request(telemetry):
            pass

    thread = threading.Thread(target=serve, name="server-7")
    thread.start()
    thread.join()
    telemetry.shutdown(5)

    (event,) = sentry.transactions()

    assert event["contexts"]["trace"]["data"]["thread.name"] == "server-7"
    assert event["contexts"]["trace"]["data"]["thread.id"] == str(thread.ident)


def test_the_queues_page_gets_its_child_span(pipelines: Any, sentry: SentryReceiver) -> None:
    """TRACEBATON_SENTRY_QUEUE_CHILD=1 repeats the queue data on a child of the transaction."""
    variables = {"SENTRY_DSN": sentry.dsn, "TRACEBATON_SENTRY_QUEUE_CHILD": "1"}
    telemetry = pipelines(variables, role="worker")
    with message(telemetry, {}) as process:
        pass
    with request(telemetry):
        pass
    report = telemetry.shutdown(5)

    queue, http = sentry.transactions()
    (child,) = queue["spans"]

    assert (child["op"], child["parent_span_id"]) == ("queue.process", hex_ids(process)[1])
    assert child["span_id"] != hex_ids(process)[1]
    assert child["data"]["messaging.message.retry.count"] == 2
    assert http["spans"] == []
    assert (report.spans_exported, report.spans_dropped) == (2, 0)


def test_spans_beyond_sentrys_thousand_are_counted_as_lost(
    pipelines: Any, sentry: SentryReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    """The last ones stay, with all their parents; that the limit was met is said."""
    telemetry = pipelines({"SENTRY_DSN": sentry.dsn})
    with request(telemetry):
        for half in range(2):
            with telemetry.tracer.start_as_current_span(f"half {half}"):
                for number in range(750):
                    telemetry.tracer.start_span(f"{half}-{number}").end()
    report = telemetry.shutdown(5)

    (event,) = sentry.transactions()
    kept = [span["description"] for span in event["spans"]]
    ids = {span["span_id"] for span in event["spans"]} | {event["contexts"]["trace"]["span_id"]}

    assert sorted(kept) == sorted(
        ["half 0", "half 1"]
        + [f"0-{number}" for number in range(502, 750)]
        + [f"1-{number}" for number in range(750)]
    )
    assert all(span["parent_span_id"] in ids for span in event["spans"])
    assert (report.spans_exported, report.spans_dropped) == (1001, 502)
    (line,) = [r for r in caplog.records if r.message == "telemetry.spans_lost"]
    assert vars(line)["fields"]["spans"] == 502


def test_a_job_without_end_holds_no_more_than_it_can_send(
    pipelines: Any, sentry: SentryReceiver
) -> None:
    """Its spans are let go of while it runs."""
    telemetry = pipelines({"SENTRY_DSN": sentry.dsn})
    collector = telemetry.sentry.processor
    with request(telemetry) as server:
        for number in range(3000):
            telemetry.tracer.start_span(str(number)).end()
        gc.collect()
        node = collector.node(server.get_span_context().span_id)

        assert (len(node.spans), node.lost) == (1000, 2000)
        assert len(collector) < 1002


def test_calls_to_sentry_itself_are_no_transactions(pipelines: Any, sentry: SentryReceiver) -> None:
    """An instrumented client would otherwise make one of each envelope, without end."""
    telemetry = pipelines({"SENTRY_DSN": sentry.dsn})
    for name in ("url.full", "http.url"):
        url = sentry.dsn.replace("public@", "") + "/envelope/"
        telemetry.tracer.start_span("POST", kind=SpanKind.CLIENT, attributes={name: url}).end()
    with request(telemetry):
        pass
    telemetry.shutdown(5)

    assert len(sentry.transactions()) == 1


def test_fifty_requests_at_once_never_mix(pipelines: Any, sentry: SentryReceiver) -> None:
    """Tags, user and spans of each are its own; a unit that sets nothing carries nothing."""
    telemetry = pipelines({"SENTRY_DSN": sentry.dsn})
    sentry_sdk.get_isolation_scope().set_tag("process", "leak")
    sentry_sdk.get_current_scope().set_tag("module", "leak")

    async def serve(number: int) -> None:
        store = RequestStore(correlation_id=f"c-{number}", user_id=f"u-{number}")
        with request(telemetry, store):
            if number % 2:
                sentry_sdk.set_tag("number", str(number))
            await asyncio.sleep(0)
            with telemetry.tracer.start_as_current_span(f"work {number}"):
                await asyncio.sleep(0)

    async def serve_all() -> None:
        await asyncio.gather(*(serve(number) for number in range(25)))

    def serve_in_thread(number: int) -> None:
        asyncio.run(serve(number))

    asyncio.run(serve_all())
    threads = [threading.Thread(target=serve_in_thread, args=(n,)) for n in range(25, 50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    telemetry.shutdown(5)
    seen = {
        event["tags"]["correlation_id"]: (
            event["user"],
            event["tags"],
            [span["description"] for span in event["spans"]],
        )
        for event in sentry.transactions()
    }

    assert seen == {
        f"c-{n}": (
            {"id": f"u-{n}"},
            {"correlation_id": f"c-{n}"} | ({"number": str(n)} if n % 2 else {}),
            [f"work {n}"],
        )
        for n in range(50)
    }
    sentry_sdk.get_isolation_scope().remove_tag("process")
    sentry_sdk.get_current_scope().remove_tag("module")


def test_nothing_is_kept_of_spans_that_are_gone(pipelines: Any, sentry: SentryReceiver) -> None:
    """Ended ones and ones that nobody ever ended; several threads race."""
    telemetry = pipelines({"SENTRY_DSN": sentry.dsn})
    collector = telemetry.sentry.processor
    problems: list[BaseException] = []

    def serve() -> None:
        try:
            for _ in range(200):
                with request(telemetry), telemetry.tracer.start_as_current_span("inner"):
                    telemetry.tracer.start_span("never ended")
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=serve) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert telemetry.shutdown(10).complete
    gc.collect()

    assert problems == []
    assert len(collector) == 0
    assert len(sentry.transactions()) == 800


def test_a_trace_is_kept_by_both_services_or_by_none(
    pipelines: Any, sentry: SentryReceiver
) -> None:
    """The worker's own rate does not matter, and the context explains the head's."""
    api = pipelines({"SENTRY_DSN": sentry.dsn, "SENTRY_TRACES_SAMPLE_RATE": "0.3"})
    carriers = []
    for _ in range(100):
        with request(api):
            carriers.append(api.propagator.inject_message())
    api.shutdown(5)
    from_api = {event["contexts"]["trace"]["trace_id"] for event in sentry.transactions()}
    worker_rate = {"SENTRY_DSN": sentry.dsn, "SENTRY_TRACES_SAMPLE_RATE": "0.9"}
    worker = pipelines(worker_rate, role="worker")
    for carrier in carriers:
        with message(worker, carrier):
            pass
    worker.shutdown(5)
    from_worker = {
        event["contexts"]["trace"]["trace_id"]
        for event in sentry.transactions()
        if event["transaction"] == "ai.chat"
    }
    headers = sentry.trace_headers().values()

    assert from_worker == from_api
    assert 10 < len(from_api) < 55
    assert {header["sample_rate"] for header in headers} == {"0.3"}
    assert all(float(h["sample_rand"]) < float(h["sample_rate"]) for h in headers)

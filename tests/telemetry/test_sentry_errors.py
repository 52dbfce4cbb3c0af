"""Failures as Sentry's intake gets them: once, linked, tagged, and nobody else's."""

import asyncio
import logging
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
import sentry_sdk
from opentelemetry.trace import SpanKind, set_span_in_context
from sentry_receiver import SentryReceiver

from tracebaton.context import RequestStore, entered
from tracebaton.errors import QueueUnavailable, ResultTooLarge
from tracebaton.problems import outcome_of
from tracebaton.telemetry.pipeline import Telemetry

pytestmark = pytest.mark.backends


def raised(exc: BaseException) -> BaseException:
    """Return *exc* with a traceback."""
    try:
        raise exc
    except BaseException as caught:
        return caught


def report(telemetry: Telemetry, exc: BaseException, **options: Any) -> str | None:
    """Report *exc* the way the ASGI boundary does."""
    given = {"mechanism": "asgi", "tags": {"route": "/v1/{x}"}} | options
    return telemetry.reporter.report(exc, outcome_of(exc), **given)


def test_what_exceptions_say_is_kept_short(pipelines: Any, sentry: SentryReceiver) -> None:
    """500 characters of a cause, 2,048 of what was raised; no secret is cut in half."""
    telemetry = pipelines({"SENTRY_DSN": sentry.dsn})
    cause = ValueError("c" * 490 + " password=swordfish " + "c" * 100)
    try:
        raise LookupError("r" * 5_000) from cause
    except LookupError as exc:
        with telemetry.reporter.isolated():
            report(telemetry, exc)
    telemetry.shutdown(5)

    (event,) = sentry.events()
    values = [one["value"] for one in event["exception"]["values"]]
    assert [len(value) for value in values] == [500, 2_048]
    assert values[0] == "c" * 490 + " password…"
    assert values[1] == "r" * 2_047 + "…"


def test_a_failure_is_one_event_linked_to_the_current_span(
    pipelines: Any, sentry: SentryReceiver
) -> None:
    """Original type and stack, handled false, tags as strings, the user, the head's context."""
    telemetry = pipelines({"SENTRY_DSN": sentry.dsn})
    store = RequestStore(correlation_id="c-1", user_id="u-1")
    with (
        telemetry.reporter.isolated(),
        entered(store),
        telemetry.tracer.start_as_current_span(
            "POST /v1/{x}",
            kind=SpanKind.SERVER,
            attributes={"http.request.method": "POST", "http.route": "/v1/{x}"},
        ) as server,
    ):
        event_id = report(telemetry, raised(ValueError("boom")))
    telemetry.shutdown(5)

    (event,) = sentry.events()
    (transaction,) = sentry.transactions()
    (exception,) = event["exception"]["values"]

    assert event["event_id"] == event_id
    assert (exception["type"], exception["value"]) == ("ValueError", "boom")
    assert exception["mechanism"] == {"type": "asgi", "handled": False}
    assert exception["stacktrace"]["frames"][-1]["function"] == "raised"
    assert "vars" not in exception["stacktrace"]["frames"][-1]
    assert event["tags"] == {
        "code": "internal",
        "http_status": "500",
        "retryable": "true",
        "correlation_id": "c-1",
        "route": "/v1/{x}",
    }
    assert event["user"] == {"id": "u-1"}
    assert event["level"] == "error"
    span = server.get_span_context()
    assert event["contexts"]["trace"]["trace_id"] == f"{span.trace_id:032x}"
    assert event["contexts"]["trace"]["span_id"] == f"{span.span_id:016x}"
    assert event["transaction"] == transaction["transaction"] == "POST /v1/{x}"
    headers = sentry.trace_headers()
    assert headers[event["event_id"]] == headers[transaction["event_id"]]
    assert "argv" not in str(event.get("extra"))


def test_a_workers_final_failure_lists_its_attempts(pipelines: Any, sentry: SentryReceiver) -> None:
    """No HTTP status there; task, attempt and type are tags."""
    telemetry = pipelines({"SENTRY_DSN": sentry.dsn}, role="worker")
    failures = [{"attempt": 1, "error": "ValueError"}, {"attempt": 2, "error": "KeyError"}]
    with (
        telemetry.reporter.isolated(),
        entered(RequestStore(correlation_id="c-1", task_id="t-1", attempt=3)),
    ):
        report(
            telemetry,
            raised(ResultTooLarge()),
            mechanism="sqs",
            tags={"task_type": "ai.chat"},
            failures=failures,
        )
    telemetry.shutdown(5)

    (event,) = sentry.events()

    assert event["tags"] == {
        "code": "result_too_large",
        "retryable": "false",
        "correlation_id": "c-1",
        "task_id": "t-1",
        "attempt": "3",
        "task_type": "ai.chat",
    }
    assert event["contexts"]["attempts"]["failures"] == failures
    assert event["transaction"] == "ai.chat"


def test_one_exception_in_one_trace_is_one_event(pipelines: Any, sentry: SentryReceiver) -> None:
    """Logged, recorded, captured by a task, a thread and the boundary: whoever comes first."""
    telemetry = pipelines({"SENTRY_DSN": sentry.dsn})
    exc = raised(ValueError("boom"))

    async def capture() -> None:
        sentry_sdk.capture_exception(exc)

    async def boundary() -> list[str | None]:
        span = telemetry.tracer.start_as_current_span("GET", kind=SpanKind.SERVER)
        with telemetry.reporter.isolated(), entered(RequestStore()), span as server:
            server.record_exception(exc)
            logging.getLogger("handler").error("failed", exc_info=exc)
            logging.getLogger("handler").error("failed again")
            await asyncio.create_task(capture())
            await asyncio.to_thread(sentry_sdk.capture_exception, exc)
            return [report(telemetry, exc), report(telemetry, exc)]

    ids = asyncio.run(boundary())
    thread = threading.Thread(target=sentry_sdk.capture_exception, args=(exc,))
    thread.start()
    thread.join()
    telemetry.shutdown(5)

    (event,) = sentry.events()

    assert ids == [event["event_id"]] * 2
    messages = [crumb["message"] for crumb in event["breadcrumbs"]["values"]]
    assert messages == ["failed", "failed again"]


def test_a_cached_exception_is_a_new_failure_in_the_next_trace(
    pipelines: Any, sentry: SentryReceiver
) -> None:
    """sentry-sdk's own deduplication would swallow the second."""
    telemetry = pipelines({"SENTRY_DSN": sentry.dsn})
    exc = raised(ValueError("cached"))
    ids = []
    for _ in range(2):
        with (
            telemetry.reporter.isolated(),
            telemetry.tracer.start_as_current_span("GET", kind=SpanKind.SERVER),
        ):
            ids.append(report(telemetry, exc))
    telemetry.shutdown(5)

    assert [event["event_id"] for event in sentry.events()] == ids
    assert len(set(ids)) == 2


def test_an_exception_that_cannot_be_marked_is_reported(
    pipelines: Any, sentry: SentryReceiver
) -> None:
    """One with slots and no dict has no place for the mark."""

    class Slotted(Exception):
        __slots__ = ()

        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(name)

    telemetry = pipelines({"SENTRY_DSN": sentry.dsn})
    assert report(telemetry, raised(Slotted()))
    telemetry.shutdown(5)

    assert len(sentry.events()) == 1


@pytest.mark.parametrize("rate", ["0", "1"])
def test_failures_in_unsampled_and_ended_spans_are_linked(
    pipelines: Any, sentry: SentryReceiver, rate: str
) -> None:
    """The event names the trace, whether or not the trace was kept or the span is still open."""
    telemetry = pipelines({"SENTRY_DSN": sentry.dsn, "SENTRY_TRACES_SAMPLE_RATE": rate})
    span = telemetry.tracer.start_span("GET", kind=SpanKind.SERVER)
    span.end()
    token = set_span_in_context(span)
    with telemetry.reporter.isolated(), entered(RequestStore(), token):
        report(telemetry, raised(ValueError("late")))
    telemetry.shutdown(5)

    (event,) = sentry.events()
    header = sentry.trace_headers()[event["event_id"]]

    assert event["contexts"]["trace"]["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    assert event["contexts"]["trace"]["span_id"] == f"{span.get_span_context().span_id:016x}"
    assert header["sampled"] == ("true" if rate == "1" else "false")
    assert len(sentry.transactions()) == int(rate)


def test_the_worker_of_an_unsampled_trace_keeps_the_heads_context(
    pipelines: Any, sentry: SentryReceiver
) -> None:
    """Its error event belongs to the same trace with the same rate."""
    telemetry = pipelines({"SENTRY_DSN": sentry.dsn, "SENTRY_TRACES_SAMPLE_RATE": "0"})
    members = f"sentry-trace_id={'a' * 32},sentry-public_key=public,sentry-sample_rate=0.25"
    carrier = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-00", "baggage": members}
    found = telemetry.propagator.extract_message(carrier)
    with (
        telemetry.reporter.isolated(),
        entered(RequestStore(), found.context),
        telemetry.tracer.start_as_current_span("process jobs", kind=SpanKind.CONSUMER),
    ):
        report(telemetry, raised(ValueError("boom")), mechanism="sqs")
    telemetry.shutdown(5)

    (event,) = sentry.events()

    assert sentry.trace_headers()[event["event_id"]]["sample_rate"] == "0.25"


def test_an_outage_is_one_event_with_the_count(pipelines: Any, sentry: SentryReceiver) -> None:
    """All failures of a minute name the same event; another code has its own."""
    telemetry = pipelines({"SENTRY_DSN": sentry.dsn})
    ids, traces = [], []
    for _ in range(5):
        with (
            telemetry.reporter.isolated(),
            entered(RequestStore(correlation_id="first")),
            telemetry.tracer.start_as_current_span("GET", kind=SpanKind.SERVER) as server,
        ):
            ids.append(report(telemetry, raised(QueueUnavailable())))
            traces.append(f"{server.get_span_context().trace_id:032x}")
    telemetry.shutdown(5)

    (event,) = sentry.events()

    assert ids == [event["event_id"]] * 5
    assert event["contexts"]["trace"]["trace_id"] == traces[0]
    assert sentry.trace_headers()[event["event_id"]]["trace_id"] == traces[0]
    assert event["contexts"]["outage"] == {"count": 5}
    assert event["tags"]["code"] == "queue_unavailable"
    assert event["tags"]["http_status"] == "503"
    assert event["tags"]["correlation_id"] == "first"


def test_an_outage_is_told_while_it_lasts(pipelines: Any, sentry: SentryReceiver) -> None:
    """Two seconds after the first failure, not at the end of the process."""
    telemetry = pipelines({"SENTRY_DSN": sentry.dsn})
    begun = time.monotonic()
    report(telemetry, raised(QueueUnavailable()))
    sentry.wait_for(lambda receiver: len(receiver.events()) == 1)

    assert 1.5 < time.monotonic() - begun < 8


def test_breadcrumbs_and_tags_stay_in_their_unit(pipelines: Any, sentry: SentryReceiver) -> None:
    """Also when the units run in one thread, one after the other or one inside the other."""
    telemetry = pipelines({"SENTRY_DSN": sentry.dsn})
    logging.getLogger("process").error("before all units")
    for number in range(3):
        with telemetry.reporter.isolated(), entered(RequestStore(correlation_id=str(number))):
            if number == 1:
                sentry_sdk.set_tag("only", "one")
                sentry_sdk.set_user({"id": "u-1"})
                logging.getLogger("unit").error("crumb of one")
            report(telemetry, raised(ValueError(str(number))))
    telemetry.shutdown(5)

    seen = [
        (e["tags"].get("only"), e.get("user"), len(e["breadcrumbs"]["values"]))
        for e in sentry.events()
    ]

    assert seen == [(None, None, 0), ("one", {"id": "u-1"}, 1), (None, None, 0)]


def test_a_crash_after_the_report_is_not_a_second_event(sentry: SentryReceiver) -> None:
    """sentry-sdk's excepthook sees the exception object that the boundary has reported."""
    code = """
import sys
from tracebaton.problems import outcome_of
from tracebaton.settings import Settings
from tracebaton.telemetry import build
telemetry = build(Settings.load({"SENTRY_DSN": sys.argv[1]}), role="api")
try:
    raise ValueError("boom")
except ValueError as exc:
    with telemetry.reporter.isolated(), telemetry.tracer.start_as_current_span("GET"):
        telemetry.reporter.report(exc, outcome_of(exc), mechanism="asgi", tags={})
    raise
"""
    done = subprocess.run(
        [sys.executable, "-c", code, sentry.dsn], capture_output=True, text=True, timeout=30
    )

    assert done.returncode == 1
    assert "ValueError: boom" in done.stderr
    assert len(sentry.events()) == 1

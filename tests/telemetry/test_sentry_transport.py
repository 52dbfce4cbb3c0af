"""How envelopes leave: several at a time, bounded, and not where Sentry said that it has enough."""

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sentry_receiver import SentryReceiver
from sentry_sdk.envelope import Envelope

from tracebaton.problems import outcome_of
from tracebaton.telemetry.pipeline import Telemetry
from tracebaton.telemetry.sentry.connection import QUEUE_SIZE

pytestmark = pytest.mark.backends


def work(telemetry: Telemetry, count: int, *, fails: bool = False) -> None:
    """Make as many transactions, each with an event if it *fails*."""
    for _ in range(count):
        with telemetry.reporter.isolated(), telemetry.tracer.start_as_current_span("work"):
            if fails:
                exc = LookupError("work")
                telemetry.reporter.report(exc, outcome_of(exc), mechanism="asgi", tags={})


def lost(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """Return the fields of the lines about losses."""
    return [
        vars(record)["fields"]
        for record in caplog.records
        if record.message == "telemetry.spans_lost"
    ]


def until(condition: Callable[[], bool]) -> bool:
    """Tell whether *condition* comes true within ten seconds."""
    deadline, pause = time.monotonic() + 10, threading.Event()
    while not condition() and time.monotonic() < deadline:
        pause.wait(0.01)
    return condition()


def test_envelopes_leave_over_many_connections(pipelines: Any, sentry: SentryReceiver) -> None:
    """One after the other, sixty would take three seconds."""
    sentry.delay = 0.05
    telemetry = pipelines({"SENTRY_DSN": sentry.dsn})
    work(telemetry, 60)
    report = telemetry.shutdown(10)

    assert (report.spans_exported, report.spans_dropped, report.complete) == (60, 0, True)
    assert 10 <= sentry.at_once <= 16


def test_what_waits_for_a_connection_arrives_as_it_is(
    pipelines: Any, sentry: SentryReceiver
) -> None:
    """It has waited as bytes."""
    sentry.delay = 0.3
    telemetry = pipelines({"SENTRY_DSN": sentry.dsn})
    work(telemetry, 40, fails=True)
    report = telemetry.shutdown(10)
    shapes = {
        (event["type"], *sorted(event), *sorted(event["contexts"]["trace"]), event["sdk"]["name"])
        for event in sentry.transactions()
    }

    assert (report.spans_exported, report.spans_dropped, report.complete) == (40, 0, True)
    assert len(sentry.transactions()) == len(sentry.events()) == 40
    assert len(shapes) == 1


def test_ten_thousand_may_wait(
    pipelines: Any, sentry: SentryReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    """None of them is dropped while Sentry does not answer."""
    sentry.delay = 60
    telemetry = pipelines({"SENTRY_DSN": sentry.dsn})
    for _ in range(QUEUE_SIZE):
        telemetry.tracer.start_span("work").end()

    # While a unit becomes an envelope it counts as both.
    assert until(lambda: telemetry.sentry.waiting == QUEUE_SIZE)
    assert QUEUE_SIZE == 10_000
    # Those that wait are bytes by now: the collector of garbage has little to look through.
    assert sum(isinstance(one, Envelope) for one in gc.get_objects()) < 100
    assert lost(caplog) == []
    assert telemetry.shutdown(0).spans_dropped == QUEUE_SIZE
    # The stop is left behind at its deadline, and its line would be the next test's.
    assert until(lambda: sum(fields["spans"] for fields in lost(caplog)) == QUEUE_SIZE)


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (429, {"Retry-After": "60"}),
        (429, {}),
        (200, {"X-Sentry-Rate-Limits": "60::organization"}),
    ],
)
def test_a_sentry_that_has_enough_is_left_alone(
    pipelines: Any,
    sentry: SentryReceiver,
    caplog: pytest.LogCaptureFixture,
    status: int,
    headers: dict[str, str],
) -> None:
    """Nothing is sent for as long as it said; what is not sent is counted."""
    telemetry = pipelines({"SENTRY_DSN": sentry.dsn})
    sentry.status, sentry.headers = status, headers
    work(telemetry, 1)
    telemetry.force_flush(5)
    sentry.status, sentry.headers = 200, {}
    posts = sentry.posts
    work(telemetry, 20)
    report = telemetry.shutdown(5)
    taken = 1 if status == 200 else 0

    assert sentry.posts == posts
    assert (report.spans_exported, report.spans_dropped) == (taken, 21 - taken)
    assert sum(fields["spans"] for fields in lost(caplog)) == 21 - taken


def test_a_limit_on_transactions_lets_events_through(
    pipelines: Any, sentry: SentryReceiver
) -> None:
    """The quota of one kind of data is not that of another."""
    telemetry = pipelines({"SENTRY_DSN": sentry.dsn})
    sentry.headers = {"X-Sentry-Rate-Limits": "60:transaction;span:organization"}
    work(telemetry, 1)
    telemetry.force_flush(5)
    work(telemetry, 3, fails=True)
    report = telemetry.shutdown(5)

    assert (len(sentry.transactions()), len(sentry.events())) == (1, 3)
    assert (report.spans_exported, report.spans_dropped) == (1, 3)


@pytest.fixture
def quiet() -> Iterator[None]:
    """Let pytest keep no log record: those would be the objects that are counted."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("quiet")
def test_nothing_is_left_of_what_was_sent(pipelines: Any, sentry: SentryReceiver) -> None:
    """As many objects after nine hundred failing requests as after three hundred."""
    telemetry = pipelines({"SENTRY_DSN": sentry.dsn})
    sentry.delay = 0.05
    work(telemetry, 60)  # now every connection is open, and the receiver's end of it
    assert telemetry.force_flush(20)
    sentry.delay = 0
    counts = []
    for _ in range(3):
        work(telemetry, 300, fails=True)
        assert telemetry.force_flush(20)
        sentry.clear()
        gc.collect()
        counts.append(len(gc.get_objects()))

    assert abs(counts[2] - counts[1]) < 100

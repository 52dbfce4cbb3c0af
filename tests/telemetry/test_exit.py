"""A process that ends without `shutdown()`: by the end of its script or by a crash."""

import os
import subprocess
import sys
import time

import pytest
from otlp_receiver import OtlpReceiver
from sentry_receiver import SentryReceiver

pytestmark = pytest.mark.backends

#: One of everything that telemetry sends; nothing of it has left when the last line runs.
SCRIPT = """
import atexit, logging, sys, threading
from tracebaton.metrics import MessagingMetrics
from tracebaton.problems import outcome_of
from tracebaton.settings import Settings
from tracebaton.telemetry import build

telemetry = build(Settings.load(), role="worker")
assert telemetry.log_handler is not None
metrics = MessagingMetrics()

def work(name):
    exc = LookupError(name)
    with telemetry.reporter.isolated(), telemetry.tracer.start_as_current_span(name):
        telemetry.log_handler.handle(logging.makeLogRecord({"msg": name, "levelno": 20}))
        telemetry.reporter.report(exc, outcome_of(exc), mechanism="sqs", tags={})
    metrics.sent("jobs", 0.1)

"""
ENDS = {
    "end": ("work('last')", 0),
    "crash": ("work('last'); raise RuntimeError('crash')", 1),
    # Python waits for this one after the main thread has ended, and only then ends.
    "thread": (
        "main = threading.main_thread()\n"
        "threading.Thread(target=lambda: (main.join(), work('last'))).start()",
        0,
    ),
    # From Python 3.12 on no thread can be started from here; whoever comes last runs first.
    "no new thread": (
        """
def refuse(*args, **kwargs):
    raise RuntimeError("can't create new thread at interpreter shutdown")
atexit.register(lambda: setattr(threading, "_start_new_thread", refuse))
work('last')""",
        0,
    ),
}


def end(how: str, variables: dict[str, str]) -> tuple[int, str, float]:
    """Run the script until it ends like that; return exit code, stderr and seconds."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT + ENDS[how][0]],
        env=kept | {"NO_PROXY": "*"} | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr, time.monotonic() - begun


@pytest.mark.parametrize("how", ENDS)
def test_everything_arrives_that_was_made_before_the_end(
    how: str, otlp: OtlpReceiver, sentry: SentryReceiver
) -> None:
    """Spans, log lines, metrics, transactions and events, at every sink."""
    code, stderr, _ = end(
        how,
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url,
            "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": otlp.url + "/v1/logs",
            "TRACEBATON_VIEWER_URL": otlp.url + "/viewer",
            "SENTRY_DSN": sentry.dsn,
        },
    )

    assert code == ENDS[how][1], stderr
    assert stderr.count("Traceback") == (how == "crash"), stderr
    assert [span.name for span in otlp.spans()] == ["last"] * 2
    assert [record.body.string_value for _, record in otlp.logs()] == ["last"] * 2
    assert "messaging.client.sent.messages" in otlp.metrics()
    assert [event["transaction"] for event in sentry.transactions()] == ["last"]
    types = [event["exception"]["values"][-1]["type"] for event in sentry.events()]
    assert types == ["LookupError"] + (["RuntimeError"] if how == "crash" else [])


@pytest.mark.parametrize("how", ["end", "no new thread"])
def test_dead_sinks_hold_up_no_end(how: str, otlp: OtlpReceiver, sentry: SentryReceiver) -> None:
    """Two seconds at most, and nothing is said about it on stderr."""
    otlp.hangs, sentry.delay = True, 60
    code, stderr, seconds = end(
        how,
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url,
            "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": otlp.url + "/v1/logs",
            "SENTRY_DSN": sentry.dsn,
        },
    )

    assert (code, "Traceback" in stderr) == (0, False), stderr
    assert seconds < 12


def test_a_process_that_was_shut_down_ends_at_once(
    otlp: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop that was cut short says what it left behind, and is not tried again."""
    otlp.hangs = True
    monkeypatch.setitem(
        ENDS,
        "stopped",
        (
            "import time\nwork('last')\ntelemetry.shutdown(0.1)\nbegun = time.monotonic()\n"
            "atexit._run_exitfuncs()\nassert time.monotonic() - begun < 1",
            0,
        ),
    )
    code, stderr, _ = end(
        "stopped",
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url,
            "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": otlp.url + "/v1/logs",
        },
    )

    assert (code, stderr) == (0, "telemetry.spans_lost\ntelemetry.logs_lost\n")

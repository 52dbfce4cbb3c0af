"""Jobs that run for minutes and hours, by a clock of the test's, in both of Sentry's modes."""

import asyncio
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import opentelemetry.sdk.trace as sdk
import pytest
from pydantic import BaseModel
from sentry_receiver import SentryReceiver
from stage import Broker, create_queues

from tracebaton import Tracebaton, TracebatonError
from tracebaton.local import LocalSqs
from tracebaton.settings import Settings
from tracebaton.telemetry import spans

pytestmark = pytest.mark.backends

FLAG_HAS_IS_REMOTE, FLAG_IS_REMOTE = 0x100, 0x200


class Job(BaseModel):
    """It says nothing."""


class Broken(TracebatonError):
    """The job came to nothing."""

    retryable = False


async def work(pipelines: Any, sentry: SentryReceiver, folder: Path, **job: Any) -> None:
    """Send one job, have it run, and send what telemetry holds."""
    app = Tracebaton()
    with LocalSqs.in_thread() as sqs:
        create_queues(sqs)
        settings = Settings.load(Broker(sqs, folder).env | {"SENTRY_DSN": sentry.dsn})
        telemetry = pipelines({"SENTRY_DSN": sentry.dsn, "TRACEBATON_SENTRY_MODE": job["mode"]})

        @app.task("job", model=Job)
        async def handle(data: Job) -> None:
            for name in ("early", "late"):
                with telemetry.tracer.start_as_current_span(name):
                    pass
                if name == "early":
                    job["pass_time"]()
            raise Broken

        with app.staged(settings, telemetry) as runtime:
            await app.enqueue("job", {})
            worker = app.worker(wait_seconds=0)
            await worker.prepare()
            running = asyncio.create_task(worker.run())
            ended = time.monotonic() + 20
            while sqs.stats()["tasks"]["deleted"] < 1:
                assert time.monotonic() < ended
                await asyncio.sleep(0.01)
            worker.stop()
            await running
            await runtime.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return what moves the clock of spans on."""
    ahead = [0]
    for clock in (sdk, spans):
        monkeypatch.setattr(clock, "time_ns", lambda: time.time_ns() + ahead[0])

    def advance(seconds: float) -> None:
        ahead[0] += int(seconds * 1e9)

    return advance


@pytest.mark.parametrize("seconds", [11 * 60, 3 * 3600])
async def test_a_long_job_is_a_transaction(
    pipelines: Any, sentry: SentryReceiver, clock: Any, tmp_path: Path, seconds: int
) -> None:
    """With what it did before and after, and its failure linked."""
    await work(
        pipelines,
        sentry,
        tmp_path,
        mode="span-processor",
        pass_time=lambda: clock(seconds),
    )
    [queue] = [e for e in sentry.transactions() if e["transaction"] == "job"]
    [event] = sentry.events()
    began, ended = (
        datetime.fromisoformat(queue[name]).timestamp() for name in ("start_timestamp", "timestamp")
    )

    assert seconds <= ended - began < seconds + 20
    assert [span["description"] for span in queue["spans"]] == ["early", "late"]
    assert queue["contexts"]["trace"]["op"] == "queue.process"
    assert queue["contexts"]["trace"]["status"] == "internal_error"
    for key in ("trace_id", "span_id"):
        assert event["contexts"]["trace"][key] == queue["contexts"]["trace"][key]


@pytest.mark.parametrize("seconds", [11 * 60, 3 * 3600])
async def test_a_long_job_is_spans_at_the_otlp_endpoint(
    pipelines: Any, sentry: SentryReceiver, clock: Any, tmp_path: Path, seconds: int
) -> None:
    """The same story: parent and child, the parent's process, the exception, the event."""
    await work(pipelines, sentry, tmp_path, mode="otlp", pass_time=lambda: clock(seconds))
    spans = {
        span.name: span
        for resource in sentry.resource_spans()
        for scope in resource.scope_spans
        for span in scope.spans
    }
    process, send = spans["process tasks"], spans["send tasks"]
    ops = {
        name: item.value.string_value
        for name, span in spans.items()
        for item in span.attributes
        if item.key == "sentry.op"
    }
    [event] = sentry.events()

    assert process.end_time_unix_nano - process.start_time_unix_nano >= seconds * 10**9
    assert process.parent_span_id == send.span_id
    assert process.flags & FLAG_HAS_IS_REMOTE
    assert process.flags & FLAG_IS_REMOTE
    assert {spans[name].parent_span_id for name in ("early", "late")} == {process.span_id}
    assert (ops["process tasks"], ops["send tasks"]) == ("queue.process", "queue.publish")
    assert [one.name for one in process.events] == ["exception"]
    assert event["contexts"]["trace"]["trace_id"] == process.trace_id.hex()
    assert event["contexts"]["trace"]["span_id"] == process.span_id.hex()
    assert sentry.transactions() == []

"""Each check of the doctor against something real that is well, and against the same gone wrong."""

import json
import time
from collections.abc import AsyncIterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import pytest
from otlp_receiver import otlp_receiver
from sentry_receiver import sentry_receiver

from tracebaton.doctor import Finding, complaints, examine, explained, healthy
from tracebaton.doctor.places import Clock
from tracebaton.local import LocalSqs
from tracebaton.semconv import CORRELATION_ID
from tracebaton.settings import ENVIRONMENT, Settings
from tracebaton.traces import read_trace

NOWHERE = "http://127.0.0.1:9"
DAY = 86_400


@pytest.fixture
async def local() -> AsyncIterator[LocalSqs]:
    """An SQS with a queue that is as it has to be."""
    async with LocalSqs() as sqs:
        sqs.create_queue("good-dlq", {"MessageRetentionPeriod": str(14 * DAY)})
        sqs.create_queue("good-quarantine")
        sqs.create_queue("good", redriving("good-dlq"))
        yield sqs


def redriving(dlq: str, attempts: int = 5, **attributes: str) -> dict[str, str]:
    """Return the attributes of a queue with a DLQ."""
    target = f"arn:aws:sqs:us-east-1:000000000000:{dlq}"
    policy = {"deadLetterTargetArn": target, "maxReceiveCount": str(attempts)}
    return {"RedrivePolicy": json.dumps(policy), **attributes}


def settings(local: LocalSqs, tmp_path: Path, **given: str) -> Settings:
    """Return settings of a process that works on the good queue."""
    return Settings.load(
        {
            "AWS_ENDPOINT_URL_SQS": local.url,
            "TRACEBATON_QUEUE_URL": local.queue_url("good"),
            "TRACEBATON_QUARANTINE_URL": local.queue_url("good-quarantine"),
            "TRACEBATON_STORE": f"sqlite:///{tmp_path / 'tasks.db'}",
            "TRACEBATON_API_URL": NOWHERE,
            **given,
        }
    )


async def found(of: Settings) -> dict[str, Finding]:
    """Return the findings by check, without a probe; the worst of each check."""
    return await by_check(examine(of, probe=False))


async def by_check(findings: AsyncIterator[Finding]) -> dict[str, Finding]:
    """Return the findings by check; where there are several, the last that is not ok."""
    kept: dict[str, Finding] = {}
    async for finding in findings:
        if finding.check not in kept or finding.state != "ok":
            kept[finding.check] = finding
    return kept


async def test_a_queue_that_is_as_it_has_to_be(local: LocalSqs, tmp_path: Path) -> None:
    """Nothing is asked of anybody, and nothing is left in the queue."""
    every = await found(settings(local, tmp_path))
    stats = local.stats()["good"]

    assert {check: finding.state for check, finding in every.items()} == {
        "queue good": "ok",
        "dlq good-dlq": "ok",
        "quarantine good-quarantine": "ok",
        "task store": "warning",  # nobody has made it yet
        "sentry": "skipped",
        "otlp": "skipped",
        "viewer": "skipped",
        "clock": "skipped",
        "api": "failed",  # there is none
    }
    assert not (tmp_path / "tasks.db").exists()
    assert (stats["visible"], stats["in_flight"]) == (0, 0)


@pytest.mark.parametrize(
    ("attributes", "given", "check", "state", "said"),
    [
        ({}, {}, "queue bad", "failed", "has no redrive policy"),
        (redriving("good-dlq", 3), {}, "queue bad", "failed", "is 3"),
        (
            redriving("good-dlq", MessageRetentionPeriod="600"),
            {},
            "queue bad",
            "failed",
            "messages are kept 600 s, but all retries may take 1500 s",
        ),
        (redriving("short-dlq"), {}, "dlq short-dlq", "warning", "keeps messages 4.0 days"),
        (
            redriving("good-dlq"),
            {"TRACEBATON_DLQ_URL": "{url}/000000000000/short-dlq"},
            "dlq good-dlq",
            "failed",
            "TRACEBATON_DLQ_URL is another queue",
        ),
    ],
)
async def test_a_policy_that_does_not_fit(
    local: LocalSqs,
    tmp_path: Path,
    attributes: dict[str, str],
    given: dict[str, str],
    check: str,
    state: str,
    said: str,
) -> None:
    """Named with both numbers, and with what to do."""
    local.create_queue("short-dlq")
    local.create_queue("bad", attributes)
    named = {name: value.replace("{url}", local.url) for name, value in given.items()}
    every = await found(
        settings(local, tmp_path, TRACEBATON_QUEUE_URL=local.queue_url("bad"), **named)
    )

    assert (every[check].state, said in every[check].said) == (state, True), every[check]
    assert every[check].remedy


async def test_what_lies_in_the_dlq_is_told(local: LocalSqs, tmp_path: Path) -> None:
    """With the command that lists it."""
    async with httpx.AsyncClient() as http:
        sent = await http.post(
            local.url,
            headers={
                "x-amz-target": "AmazonSQS.SendMessage",
                "content-type": "application/x-amz-json-1.0",
            },
            json={"QueueUrl": local.queue_url("good-dlq"), "MessageBody": "dead"},
        )
    every = await found(settings(local, tmp_path))

    assert sent.status_code == 200
    assert every["dlq good-dlq"].said == "holds 1 message"
    assert "tracebaton dlq list" in every["dlq good-dlq"].remedy


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("{url}/000000000000/none", "NonExistentQueue"),
        (f"{NOWHERE}/000000000000/good", "EndpointConnectionError"),
        ("", "TRACEBATON_QUEUE_URL is not set"),
    ],
)
async def test_a_queue_that_is_not_there(
    local: LocalSqs, tmp_path: Path, url: str, said: str
) -> None:
    """Each way has its own remedy."""
    at = url.replace("{url}", local.url)
    endpoint = {"AWS_ENDPOINT_URL_SQS": "" if at.startswith(NOWHERE) else local.url}
    every = await found(settings(local, tmp_path, **{"TRACEBATON_QUEUE_URL": at} | endpoint))
    (finding,) = [one for check, one in every.items() if check.startswith("queue")]

    assert (finding.state, said in finding.said) == ("failed", True), finding
    assert finding.remedy


async def test_sinks_that_take_what_is_sent(local: LocalSqs, tmp_path: Path) -> None:
    """Sentry gets no event and the Collector no span."""
    with sentry_receiver() as sentry, otlp_receiver() as otlp:
        of = settings(local, tmp_path, SENTRY_DSN=sentry.dsn, OTEL_EXPORTER_OTLP_ENDPOINT=otlp.url)
        every = await found(of)
        kinds = [item.type for envelope in sentry.envelopes for item in envelope.items]
        spans = otlp.spans()

    assert (every["sentry"].state, every["otlp"].state) == ("ok", "ok"), every
    assert kinds == ["client_report"]
    assert spans == []


async def test_sinks_that_are_away(local: LocalSqs, tmp_path: Path) -> None:
    """They are findings and no crash; the DSN's key is in none of them."""
    of = settings(
        local,
        tmp_path,
        SENTRY_DSN="http://publickey@127.0.0.1:9/1",
        OTEL_EXPORTER_OTLP_ENDPOINT=NOWHERE,
        TRACEBATON_VIEWER_URL=NOWHERE,
    )
    every = await found(of)

    assert [every[check].state for check in ("sentry", "otlp", "viewer")] == ["failed"] * 3
    assert all(every[check].remedy for check in ("sentry", "otlp", "viewer"))
    assert "publickey" not in repr(every)


@pytest.mark.parametrize(
    ("off", "state"), [(0, "ok"), (-30, "warning"), (30, "warning"), (-400, "failed")]
)
def test_the_clock(off: float, state: str) -> None:
    """Off by seconds traces look wrong, off by minutes AWS refuses what is signed."""
    clock = Clock()
    clock.note("nobody", {})
    clock.note("somebody", {"date": "yesterday"})
    assert clock.finding().state == "skipped"

    clock.note("SQS", {"date": formatdate(time.time() - off, usegmt=True)})

    assert clock.finding().state == state


def test_every_setting_is_explained() -> None:
    """In the order of `.env.example`, its value as one would write it, a secret masked."""
    given = {
        "SENTRY_DSN": "http://publickey@127.0.0.1:9/1",
        "TRACEBATON_QUEUE_URL": "http://a/1/one*3,http://a/1/two",
        "TRACEBATON_TRUST_SAMPLING": "true",
        "TRACEBATON_SAMPLE_RATES": "ai.chat=0.5",
        "TRACEBATON_TRUST_BAGGAGE": "b,a",
    }
    every = {one.name: one for one in explained(Settings.load(given))}

    assert set(every) == set(ENVIRONMENT.values())
    assert all(one.meaning and "---" not in one.meaning for one in every.values())
    assert every["TRACEBATON_RETRY_CAP_SECONDS"].meaning.startswith("Back-off between attempts")
    assert every["OTEL_SDK_DISABLED"].meaning.startswith("true: no spans at all")
    assert every["TRACEBATON_CONCURRENCY"].value is None
    assert every["TRACEBATON_CONCURRENCY"].default == "10"
    assert {name: one.value for name, one in every.items() if one.value is not None} == {
        **given,
        "SENTRY_DSN": "[redacted]",
        "TRACEBATON_SAMPLE_RATES": "ai.chat=0.5",
        "TRACEBATON_TRUST_BAGGAGE": "a,b",
    }


def whole() -> list[dict[str, Any]]:
    """Return the spans of a trace as it has to be."""
    return [
        spanned(1, 2, "POST /v1/tasks/{type}"),
        spanned(2, 1, "save", parent=1),
        spanned(3, 4, "send tasks", parent=2),
        spanned(4, 5, "process tasks", parent=3),
    ]


def spanned(number: int, kind: int, name: str, parent: int = 0) -> dict[str, Any]:
    """Return one span as OTLP JSON."""
    return {
        "traceId": "0af7651916cd43dd8448eb211c80319c",
        "spanId": f"{number:016x}",
        "parentSpanId": f"{parent:016x}" if parent else "",
        "name": name,
        "kind": kind,
        "startTimeUnixNano": str(number),
        "endTimeUnixNano": str(number + 1),
        "attributes": [{"key": CORRELATION_ID, "value": {"stringValue": "c-1"}}],
    }


def judged(spans: list[dict[str, Any]]) -> list[str]:
    """Return what the doctor says of a trace of *spans*."""
    trace = read_trace({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]})
    assert trace is not None
    return list(complaints(trace, {"correlation_id": "c-1"}))


def test_a_trace_is_judged() -> None:
    """Halves that are missing or apart, orphans, and another correlation id."""
    without, apart, orphan, other = whole()[:3], whole(), whole(), whole()
    apart[3]["parentSpanId"] = apart[0]["spanId"]
    orphan[1]["parentSpanId"] = "f" * 16
    other[3]["attributes"] = []

    assert judged(whole()) == []
    assert judged(without) == ["the handling is missing"]
    assert judged(apart) == ["the handling is not a child of the send"]
    assert judged(orphan) == ["the send is not below the request", "save has no parent here"]
    assert judged(other) == ["process tasks has another correlation id"]


def test_a_warning_is_no_fault() -> None:
    """The exit code of a deploy gate hangs on it."""
    fine = Finding(check="a", state="warning", said="", remedy="b")
    bad = Finding(check="a", state="failed", said="", remedy="b")

    assert healthy([fine])
    assert not healthy([fine, bad])

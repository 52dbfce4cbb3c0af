"""Crowds of requests and messages at once: nothing of one is found with another, in any sink."""

import importlib.util
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from command import clean_environment
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from otlp_receiver import OtlpReceiver, otlp_receiver
from sentry_receiver import SentryReceiver, sentry_receiver

from .conftest import Cases

pytestmark = [pytest.mark.acceptance, pytest.mark.backends]

CROSSING = Path(__file__).with_name("crossing.py")
_CASE = re.compile(r"case\d+_user\d")
#: Log events that would say that a context was left in the wrong place.
_WRONG = re.compile("Failed to detach|different Context|worker.failure|telemetry.failed")


@dataclass
class Sorting:
    """
    Every trace with the one case it belongs to.

    Attributes:
        cases: Case by trace id.
        kept: How many things of each kind were looked at.
        mixed: What belongs to two.
    """

    cases: dict[str, str] = field(default_factory=dict)
    correlations: dict[str, str] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    mixed: list[str] = field(default_factory=list)

    def look(
        self, kind: str, text: str, *, trace_id: str, correlation_id: Any, user_id: Any
    ) -> None:
        """Take note of one thing from a sink, and of everybody it names."""
        self.kept[kind] = self.kept.get(kind, 0) + 1
        named = set(_CASE.findall(text))
        case = self.cases.get(trace_id)
        if case is None and named:
            case = self.cases[trace_id] = min(named)
        right = named <= {case} and (
            user_id is None or case is None or case.endswith(f"_{user_id}")
        )
        if correlation_id is not None:
            known = self.correlations.setdefault(str(correlation_id), trace_id)
            right = right and known == trace_id
        if not right:
            self.mixed.append(f"{kind} of {case}, user {user_id}: {text[:2000]}")

    def look_at_line(self, line: dict[str, Any]) -> None:
        """Look at a log line."""
        text = json.dumps(line)
        if line["event"] == "mixed" or _WRONG.search(text):
            self.mixed.append(text[:3000])
        if line.get("trace_id"):
            self.look(
                "lines",
                text,
                trace_id=line["trace_id"],
                correlation_id=line["correlation_id"],
                user_id=line["user_id"],
            )

    def look_at_spans(self, body: bytes) -> None:
        """Look at an OTLP request."""
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    own = {one.key: one.value.string_value for one in span.attributes}
                    self.look(
                        "spans",
                        json.dumps(MessageToDict(span)),
                        trace_id=span.trace_id.hex(),
                        correlation_id=own.get("tracebaton.correlation_id"),
                        user_id=own.get("tracebaton.user_id"),
                    )

    def look_at_event(self, kind: str, event: dict[str, Any]) -> None:
        """Look at an event or a transaction: tags, user, breadcrumbs and all."""
        self.look(
            kind,
            json.dumps(event),
            trace_id=event["contexts"]["trace"]["trace_id"],
            correlation_id=event.get("tags", {}).get("correlation_id"),
            user_id=event.get("user", {}).get("id"),
        )


@dataclass
class Sinks:
    """Receivers that are emptied while they fill."""

    otlp: OtlpReceiver
    sentry: SentryReceiver
    sorting: Sorting = field(default_factory=Sorting)

    def sort(self) -> None:
        """Look at what came since the last time."""
        requests, self.otlp.requests = self.otlp.requests, []
        for path, _, body in requests:
            if path.endswith("/v1/traces"):
                self.sorting.look_at_spans(body)
        envelopes = self.sentry.envelopes[:]
        del self.sentry.envelopes[: len(envelopes)]
        for envelope in envelopes:
            for item in envelope.items:
                if item.type in ("event", "transaction"):
                    self.sorting.look_at_event(f"{item.type}s", item.payload)


@pytest.fixture
def sinks() -> Iterator[Sinks]:
    with otlp_receiver() as otlp, sentry_receiver() as sentry:
        yield Sinks(otlp, sentry)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_nothing_of_one_case_is_found_in_another(
    sinks: Sinks, cases: Cases, tmp_path: Path, loop: str
) -> None:
    """Lines, spans, tags, users, breadcrumbs and answers of all who fail, stream, leave or hang."""
    if loop == "uvloop" and importlib.util.find_spec("uvloop") is None:
        pytest.skip("uvloop is not installed: it comes with tracebaton[fast]")
    began = time.monotonic()
    wanted = max(300, round(cases.wanted * (0.7 if loop == "asyncio" else 0.3)))
    budget = round(cases.seconds * (0.65 if loop == "asyncio" else 0.28))
    environment = clean_environment() | {
        "SENTRY_DSN": sinks.sentry.dsn,
        "OTEL_EXPORTER_OTLP_ENDPOINT": sinks.otlp.url,
        "CROSSING_FOLDER": str(tmp_path),
        "TRACEBATON_LOG_FORMAT": "json",
    }
    process = subprocess.Popen(
        [sys.executable, str(CROSSING), str(wanted), str(budget), str(cases.seed), loop],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    errors: list[str] = []
    reader = threading.Thread(target=lambda: errors.extend(process.stderr or ()))
    reader.start()
    watchdog = threading.Timer(budget + 90, process.kill)
    watchdog.start()
    done = None
    with process:
        for number, text in enumerate(process.stdout or ()):
            line = json.loads(text)
            if line["event"] == "crossing.done":
                done = line
            else:
                sinks.sorting.look_at_line(line)
            if number % 200 == 0:
                sinks.sort()
    watchdog.cancel()
    reader.join()
    sinks.sort()

    assert (process.returncode, errors) == (0, [])
    assert done is not None
    sorting = sinks.sorting
    count = done["requests"] + done["messages"]
    memory = done["memory"]
    cases.lines.append(
        f"isolation, {done['loop']}: {count} cases, {time.monotonic() - began:.1f} s, seed"
        f" {cases.seed}, memory {memory[0] / 1024:.0f} MiB,"
        f" at most {(max(memory) - memory[0]) / 1024:+.1f} MiB, looked at {sorting.kept}"
    )
    assert sorting.mixed == []
    assert done["left"] == []
    assert sorting.kept.keys() == {"lines", "spans", "transactions", "events"}
    assert sorting.kept["transactions"] >= count * 0.8
    assert len(memory) < 4 or max(memory) <= memory[2] * 1.25

"""What we write is read by OpenTelemetry in other languages as we meant it, and theirs by us."""

import os
import shutil
import subprocess
from base64 import b64decode, b64encode
from dataclasses import dataclass
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from backends import missing
from tracebaton.context import RequestStore, entered
from tracebaton.propagation import Propagator

HERE = Path(__file__).parent
TOOLS = HERE.parents[1] / ".tools" / "stock-producers"
#: Their programs come with the stock producers' libraries.
READERS = {
    "node": ("node", str(HERE / "read.js")),
    "java": (
        *("java", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
        *("-cp", f"{TOOLS / 'java'}/*", str(HERE / "Read.java")),
    ),
}
TRACE, SPAN = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
STATE = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"
VALUES = [
    "alice",
    "u-42@example.com",
    "a b  c",
    "a+b",
    "100%",
    "%41%zz",
    "a,b;c=d",
    'say "no" \\ yes',
    "ünïcödé 🎈 日本",
    "tab\tand\nline",
    "/?#[]:!$&'()*",
    "x" * 1000,
]


@dataclass(frozen=True)
class Understood:
    """What a program made of one set of headers, and what it writes in turn."""

    written: dict[str, str]
    members: dict[str, str]


def plain(word: str) -> str:
    return "" if word == "-" else b64decode(word).decode()


def read(language: str, carriers: list[dict[str, str]]) -> list[Understood]:
    """Let the program of *language* read each of *carriers*."""
    command = READERS[language]
    if shutil.which(command[0]) is None or not (TOOLS / language / "version").exists():
        missing(f"{language}'s OpenTelemetry is missing: run scripts/stock-producers")
    names = ("traceparent", "tracestate", "baggage")
    lines = (
        " ".join(b64encode(carrier.get(name, "").encode()).decode() for name in names)
        for carrier in carriers
    )
    done = subprocess.run(
        command,
        input="".join(f"{line}\n" for line in lines),
        env=os.environ | {"NODE_PATH": str(TOOLS / "node" / "node_modules")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = []
    for line in done.stdout.splitlines():
        headers, pairs = line.split(" ")[:3], line.split(" ")[3:]
        written = {n: text for n, word in zip(names, headers, strict=True) if (text := plain(word))}
        members = dict(map(plain, pair.split(":")) for pair in pairs)
        found.append(Understood(written, members))
    return found


def carrier_of(user_id: str) -> dict[str, str]:
    """Return what a message of ours carries for a user of that id."""
    state = TraceState([tuple(member.split("=", 1)) for member in STATE.split(",")])  # type: ignore[misc]
    span = SpanContext(TRACE, SPAN, is_remote=False, trace_flags=TraceFlags(3), trace_state=state)
    context = trace.set_span_in_context(NonRecordingSpan(span), Context())
    with entered(RequestStore(correlation_id="order:42", user_id=user_id, task_id="t-1"), context):
        return Propagator().inject_message()


@pytest.mark.backends
@pytest.mark.parametrize("language", READERS)
def test_they_read_what_we_write_and_we_read_what_they_write(language: str) -> None:
    """Every value, whatever is in it, arrives as it was; so do trace, flags and tracestate."""
    carriers = [carrier_of(value) for value in VALUES]
    found = read(language, carriers)
    back = [Propagator().extract_message(one.written) for one in found]

    assert [one.members for one in found] == [
        {
            "tracebaton.correlation_id": "order:42",
            "tracebaton.user_id": value,
            "tracebaton.task_id": "t-1",
        }
        for value in VALUES
    ]
    assert [message.fields for message in back] == [
        {"correlation_id": "order:42", "user_id": value, "task_id": "t-1"} for value in VALUES
    ]
    assert {message.parent.trace_id for message in back} == {TRACE}
    assert {message.parent.span_id for message in back} == {SPAN}
    assert {message.parent.trace_flags.sampled for message in back} == {True}
    assert {message.parent.trace_state.to_header() for message in back} == {STATE}

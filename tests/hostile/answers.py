"""What may be said to a hostile request, worked out from the request alone."""

import asyncio
import json
import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import h11
from opentelemetry import context as otel

from .hostile_requests import Hostile

QUIET = {"/livez", "/readyz", "/startupz", "/metrics"}
#: Bytes of header names and values that are answered.
HEADER_LIMIT = 32 * 1024
_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_LOOPBACK = re.compile(rb"(?i:localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?")
_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SENTRY_TRACE = re.compile(rb"([0-9a-f]{32})-([0-9a-f]{16})(-[01])?")
_MEMBERS = {
    "type",
    "title",
    "status",
    "detail",
    "instance",
    "code",
    "retryable",
    "correlation_id",
    "trace_id",
}
_INSIDES = re.compile(rb"Traceback|File \\?\"|\.py\b|site-packages|0x[0-9a-f]{8}")


@dataclass
class Answer:
    """What the application sent: nothing where the client left before."""

    status: int | None = None
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    complete: bool = False

    def header(self, name: bytes) -> bytes | None:
        """The one value of the header *name*; two of them fail."""
        found = [value for key, value in self.headers if key.lower() == name]
        assert len(found) <= 1, (name, found)
        return found[0] if found else None

    @property
    def correlation_id(self) -> bytes | None:
        """The id as the caller sees it."""
        return self.header(b"x-correlation-id")

    @property
    def trace_id(self) -> bytes | None:
        """The trace id as the caller sees it."""
        found = self.header(b"traceresponse")
        return found.split(b"-")[1] if found else None

    def json(self) -> Any:
        """The body's document."""
        return json.loads(self.body)


def scope_of(request: Hostile) -> dict[str, Any]:
    """Return the scope that uvicorn makes of *request*."""
    raw_path, _, query = request.target.partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": request.version,
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50_000),
        "scheme": "http",
        "root_path": "",
        "method": request.method,
        "path": unquote(raw_path.decode("ascii")),
        "raw_path": raw_path,
        "query_string": query,
        "headers": list(request.headers),
        "state": {},
    }


async def ask(app: Any, request: Hostile, *, seconds: float = 10.0) -> Answer:
    """Put *request* to *app* as a server would, and return what it sent."""
    assert not otel.get_current(), "an earlier request left its context behind"
    answer, over = Answer(), asyncio.Event()
    waiting = list(request.chunks[: len(request.chunks) // 2] if request.cut else request.chunks)
    whole = not request.cut

    async def receive() -> dict[str, Any]:
        if waiting:
            chunk = waiting.pop(0)
            return {"type": "http.request", "body": chunk, "more_body": bool(waiting) or not whole}
        if whole:
            await over.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        assert not answer.complete, "a message after the last one"
        if message["type"] == "http.response.start":
            assert answer.status is None, "two answers"
            answer.status, answer.headers = message["status"], list(message["headers"])
        else:
            assert answer.status is not None, "a body before its start"
            answer.body += message.get("body", b"")
            answer.complete = not message.get("more_body", False)
            if answer.complete:
                over.set()

    async with asyncio.timeout(seconds):
        await app(scope_of(request), receive, send)
    return answer


def check(request: Hostile, answer: Answer) -> None:
    """Hold *answer* against everything that is promised for every request."""
    if answer.status is None:
        assert request.cut, "no answer"
        return
    assert answer.complete
    assert answer.status < 500, (answer.status, answer.body)
    size = sum(len(name) + len(value) for name, value in request.headers)
    assert (answer.status == 431) is (size > HEADER_LIMIT)
    h11.Response(status_code=answer.status, headers=answer.headers)  # a server has to write it
    length = answer.header(b"content-length")
    if length is not None and request.method != "HEAD":
        assert int(length) == len(answer.body)
    _check_ids(request, answer)
    if answer.status >= 400 and request.method != "HEAD":
        _check_problem(request, answer)


def _check_ids(request: Hostile, answer: Answer) -> None:
    correlation_id, trace_id = answer.correlation_id, answer.trace_id
    assert correlation_id is not None
    assert _ID.fullmatch(correlation_id)
    if trace_id is None:
        assert is_quiet(request)
    else:
        _check_trace(request, trace_id)
    asked = request.values(b"x-correlation-id")
    if len(asked) == 1 and _ID.fullmatch(asked[0]):
        assert correlation_id == asked[0]
    elif correlation_id not in asked and correlation_id not in request.values(b"x-request-id"):
        assert trace_id is None or correlation_id == trace_id


def _check_trace(request: Hostile, trace_id: bytes) -> None:
    parents = [value.strip(b" \t") for value in request.values(b"traceparent")]
    sentry = {match[1] for v in request.values(b"sentry-trace") if (match := _sentry(v))}
    joined = {found for value in parents if (found := joinable(value))}
    if len(parents) == 1 and joined:
        assert trace_id in joined
    elif trace_id not in sentry:
        everything = b"\n".join(value for _, value in request.headers)
        assert trace_id not in everything, "an id out of a malformed header"
    assert trace_id.strip(b"0")


def joinable(value: bytes) -> bytes | None:
    """Return the trace id of a *value* of traceparent that is valid by W3C Trace Context."""
    found = _TRACEPARENT.fullmatch(value)
    if not found or found[1] == b"ff" or (found[1] == b"00" and found[5] is not None):
        return None
    return found[2] if found[2].strip(b"0") and found[3].strip(b"0") else None


def _sentry(value: bytes) -> re.Match[bytes] | None:
    found = _SENTRY_TRACE.fullmatch(value.strip(b" \t"))
    return found if found and found[1].strip(b"0") and found[2].strip(b"0") else None


def _check_problem(request: Hostile, answer: Answer) -> None:
    assert answer.header(b"content-type") == b"application/problem+json"
    document = answer.json()
    assert document.keys() - {"errors"} == _MEMBERS, document
    assert document["status"] == answer.status
    assert document["correlation_id"] == (answer.correlation_id or b"").decode()
    assert document["trace_id"] == (answer.trace_id.decode() if answer.trace_id else None)
    assert all(isinstance(document[name], str) for name in ("type", "title", "detail", "code"))
    assert isinstance(document["retryable"], bool)
    assert "?" not in document["instance"]
    assert document["instance"].isascii()
    assert document["instance"].isprintable()
    said = {**document, "instance": ""}
    assert not _INSIDES.search(json.dumps(said).encode()), document
    if answer.status in (429, 503):
        assert int(answer.header(b"retry-after") or b"-1") >= 0


def is_quiet(request: Hostile) -> bool:
    """Tell whether *request* is one of the probes."""
    return str(scope_of(request)["path"]) in QUIET


def from_loopback(request: Hostile) -> bool:
    """Tell whether *request* names this machine, and no other site sends it."""
    hosts, origins = request.values(b"host"), request.values(b"origin")
    ours = len(hosts) == 1 and _LOOPBACK.fullmatch(hosts[0])
    return bool(ours) and all(
        origin.partition(b"://")[0] in (b"http", b"https")
        and _LOOPBACK.fullmatch(origin.partition(b"://")[2])
        for origin in origins
    )


def is_note(request: Hostile) -> bool:
    """Tell whether the body is, at the least, a JSON object with a text."""
    document: Any = None
    with suppress(ValueError, RecursionError):
        document = json.loads(request.body.decode("utf-8-sig"))
    typed = any(b"json" in value.lower() for value in request.values(b"content-type"))
    return typed and isinstance(document, dict) and isinstance(document.get("text"), str)

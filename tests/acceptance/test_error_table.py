"""
Everything that can go wrong with a request, against the real server over real connections.

One row a failure: what the caller reads, what becomes of the connection, what the log and Sentry
are told, and that nothing is enqueued.
"""

import json
import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from command import Command, create_key, running
from sentry_receiver import SentryReceiver
from stage import Broker

pytestmark = [pytest.mark.acceptance, pytest.mark.backends]

HERE = Path(__file__).parent
JSON = "content-type: application/json\r\n"
LIMIT = 1024 * 1024
SUBMIT = "POST /v1/tasks/order"
GOOD = '{"item": "book"}'
GENERIC = "Something went wrong inside the service. Report the correlation id if it stays."
MEMBERS = {
    *("type", "title", "status", "detail", "instance"),
    *("code", "retryable", "correlation_id", "trace_id"),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """
    One request and what it comes to.

    Attributes:
        line: Method and target.
        headers: Lines of it, each with its end.
        body: What is sent; its length is announced unless *headers* do that.
        code: Of the problem; None where the answer is none.
        told: Headers the answer has to have; None for any value.
        pointers: Where the problem's ``errors`` point.
        closes: Whether the connection ends with the answer.
    """

    name: str
    line: str
    headers: str = ""
    body: str | bytes = ""
    status: int
    code: str | None
    told: Mapping[str, str | None] = field(default_factory=dict)
    pointers: Sequence[str] = ()
    closes: bool = False

    @property
    def id(self) -> str:
        """The correlation id by which answer, lines and events are found."""
        return self.name.replace(" ", "-").replace(",", "")

    @property
    def raw(self) -> bytes:
        """The request as it is sent."""
        body = self.body.encode() if isinstance(self.body, str) else self.body
        sized = "content-length" in self.headers or "transfer-encoding" in self.headers
        length = f"content-length: {len(body)}\r\n" if body and not sized else ""
        host = "" if "host:" in self.headers else "host: localhost\r\n"
        ids = f"x-correlation-id: {self.id}\r\n"
        return f"{self.line} HTTP/1.1\r\n{host}{ids}{self.headers}{length}\r\n".encode() + body


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes
    #: Whether the answer came to its end.
    whole: bool = True

    def json(self) -> Any:
        return json.loads(self.body)


class Connection:
    """One connection, on which one request follows another."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname, parts.port or 0), timeout=20)
        self._file = self._socket.makefile("rb")

    def ask(self, raw: bytes, *, head: bool = False) -> Answer:
        """Send *raw* and read one answer; *head* says that it has no body."""
        self._socket.sendall(raw)
        status = int(self._file.readline().split()[1])
        headers: dict[str, str] = {}
        while line := self._file.readline().decode("latin-1").strip():
            name, _, value = line.partition(": ")
            assert name.lower() not in headers, f"two {name}"
            headers[name.lower()] = value
        if head:
            return Answer(status, headers, b"")
        if headers.get("transfer-encoding") == "chunked":
            return Answer(status, headers, *self._chunks())
        length = headers.get("content-length")
        return Answer(status, headers, self._file.read(None if length is None else int(length)))

    def _chunks(self) -> tuple[bytes, bool]:
        body = b""
        while line := self._file.readline().strip():
            size = int(line, 16)
            body += self._file.read(size)
            self._file.readline()
            if not size:
                return body, True
        return body, False

    @property
    def ended(self) -> bool:
        """Whether the server closed it, and said nothing before."""
        return self._file.read(1) == b""

    def close(self) -> None:
        self._file.close()
        self._socket.close()


CHUNKED = "transfer-encoding: chunked\r\n"
LARGE_CHUNKS = b"80000\r\n" + b" " * 0x80000 + b"\r\n"
ALLOW = {"allow": "DELETE, GET, HEAD, POST"}

#: Without authentication. None of them is an event of Sentry's.
WARNINGS = (
    Row(
        name="malformed JSON",
        line=SUBMIT,
        headers=JSON,
        body='{"item":',
        status=400,
        code="malformed_body",
    ),
    Row(name="empty body", line=SUBMIT, headers=JSON, status=400, code="malformed_body"),
    Row(
        name="not UTF-8",
        line=SUBMIT,
        headers=JSON,
        body=b'{"item": "\xff"}',
        status=400,
        code="malformed_body",
    ),
    Row(
        name="nested too deep",
        line=SUBMIT,
        headers=JSON,
        body="[" * 5_000 + "]" * 5_000,
        status=400,
        code="malformed_body",
    ),
    Row(
        name="against the schema",
        line=SUBMIT,
        headers=JSON,
        body='{"amount": "many"}',
        status=422,
        code="validation_failed",
        pointers=("/item", "/amount"),
    ),
    Row(
        name="another content type",
        line=SUBMIT,
        headers="content-type: text/plain\r\n",
        body=GOOD,
        status=415,
        code="unsupported_media_type",
    ),
    Row(
        name="no content type",
        line=SUBMIT,
        body=GOOD,
        status=415,
        code="unsupported_media_type",
    ),
    Row(
        name="another charset",
        line=SUBMIT,
        headers="content-type: application/json; charset=utf-16\r\n",
        body=GOOD,
        status=415,
        code="unsupported_media_type",
    ),
    Row(
        name="oversize, sent",
        line=SUBMIT,
        headers=JSON,
        body=" " * (LIMIT + 1),
        status=413,
        code="payload_too_large",
    ),
    Row(
        name="oversize, announced",
        line=SUBMIT,
        headers=f"{JSON}expect: 100-continue\r\ncontent-length: {LIMIT + 1}\r\n",
        status=413,
        code="payload_too_large",
    ),
    Row(
        name="oversize, in chunks",
        line=SUBMIT,
        headers=JSON + CHUNKED,
        body=LARGE_CHUNKS * 3 + b"0\r\n\r\n",
        status=413,
        code="payload_too_large",
    ),
    Row(
        name="slow body",
        line="POST /slow",
        headers=f"{JSON}content-length: 50\r\n",
        body='{"item":',
        status=408,
        code="request_timeout",
        told={"connection": "close"},
        closes=True,
    ),
    Row(name="unknown route", line="GET /nowhere?token=x", status=404, code="not_found"),
    Row(
        name="unknown type",
        line="POST /v1/tasks/nosuch",
        headers=JSON,
        body=GOOD,
        status=404,
        code="not_found",
    ),
    Row(name="unknown task", line="GET /v1/tasks/nosuch", status=404, code="not_found"),
    Row(name="events of none", line="GET /v1/tasks/nosuch/events", status=404, code="not_found"),
    Row(
        name="cancel of none",
        line="DELETE /v1/tasks/nosuch",
        status=404,
        code="not_found",
    ),
    Row(
        name="wrong method",
        line="PUT /v1/tasks/order",
        status=405,
        code="method_not_allowed",
        told=ALLOW,
    ),
    Row(
        name="wrong method, own route",
        line="GET /slow",
        status=405,
        code="method_not_allowed",
        told={"allow": "POST"},
    ),
    Row(
        name="query out of range",
        line="GET /v1/tasks?limit=0&status=lost",
        status=422,
        code="validation_failed",
        pointers=("/status", "/limit"),
    ),
    Row(
        name="cursor of none",
        line="GET /v1/tasks?cursor=x",
        status=422,
        code="validation_failed",
        pointers=("/cursor",),
    ),
    Row(
        name="key of idempotency too long",
        line=SUBMIT,
        headers=f"{JSON}idempotency-key: {'k' * 256}\r\n",
        body=GOOD,
        status=400,
        code="bad_request",
    ),
    Row(
        name="headers of 100 kB",
        line="GET /v1/tasks",
        headers=f"x-pad: {'p' * 100_000}\r\n",
        status=431,
        code="headers_too_large",
    ),
    Row(
        name="foreign host",
        line=SUBMIT,
        headers=f"host: evil.example\r\n{JSON}",
        body=GOOD,
        status=403,
        code="forbidden",
    ),
    Row(
        name="foreign origin",
        line=SUBMIT,
        headers=f"origin: https://evil.example\r\n{JSON}",
        body=GOOD,
        status=403,
        code="forbidden",
    ),
)
#: Each of them is one event of Sentry's.
ERRORS = (
    Row(name="handler crash", line="GET /crash?token=x", status=500, code="internal"),
    Row(name="handler crash, thread", line="GET /crash-in-thread", status=500, code="internal"),
)


@contextmanager
def serving(env: Mapping[str, str], sentry: SentryReceiver) -> Iterator[tuple[str, Command]]:
    """Run the API, and let it end before anything is counted: Sentry has everything by then."""
    env = {**env, "SENTRY_DSN": sentry.dsn}
    with running("api", "failing:app", "--port", "0", env=env, cwd=HERE) as api:
        yield api.ready()["api"], api
        assert api.stop() == 0
    assert api.errors == []


def put(url: str, row: Row) -> Answer:
    """Ask for *row* on a connection of its own, and find out what became of that."""
    connection = Connection(url)
    try:
        answer = connection.ask(row.raw)
        if row.closes:
            assert connection.ended, row.name
        elif "expect:" not in row.headers:  # its body would be next
            after = connection.ask(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert after.status == 200, row.name
        return answer
    finally:
        connection.close()


def check(row: Row, answer: Answer) -> None:
    """Hold *answer* against *row*, and a problem against RFC 9457 and what SPEC adds."""
    problem = answer.json()
    assert (answer.status, problem["code"]) == (row.status, row.code), (row.name, problem)
    assert answer.headers["content-type"] == "application/problem+json", row.name
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-correlation-id"] == problem["correlation_id"] == row.id
    assert answer.headers["traceresponse"].split("-")[1] == problem["trace_id"]
    assert problem.keys() - {"errors"} == MEMBERS, row.name
    assert problem["status"] == row.status
    assert problem["type"].endswith(f"#{row.code}")
    assert problem["instance"] == row.line.split()[1].partition("?")[0]
    assert [error["pointer"] for error in problem.get("errors", ())] == list(row.pointers)
    assert ("retry-after" in answer.headers) is (row.status in (429, 503))
    for name, value in row.told.items():
        assert name in answer.headers, (row.name, name)
        assert value in (None, answer.headers[name]), (row.name, answer.headers[name])
    for inside in ("Traceback", "LookupError", "hunter2", ".py", "sqlite"):
        assert inside not in answer.body.decode(), (row.name, inside)


def told(api: Command, event: str) -> dict[str, list[dict[str, Any]]]:
    """Return the lines of *event* by correlation id."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in api.events:
        if line["event"] == event:
            found.setdefault(line["correlation_id"], []).append(line)
    return found


def reported(sentry: SentryReceiver) -> Counter[str]:
    """Return how often a request is an event of Sentry's, by correlation id."""
    return Counter(event["tags"]["correlation_id"] for event in sentry.events())


def check_lines(api: Command, rows: Sequence[Row]) -> None:
    """Each row has one line of what went wrong and one of access, of the level of its status."""
    errors, requests = told(api, "http.error"), told(api, "http.request")
    for row in rows:
        [error], [access] = errors[row.id], requests[row.id]
        level = "error" if row.status >= 500 else "warning"
        assert (error["level"], error["code"], error["status"]) == (level, row.code, row.status)
        assert access["status"] == row.status, row.name
        assert error["trace_id"] == access["trace_id"] is not None
    assert errors.keys() == {row.id for row in rows}


def test_the_table_without_authentication(broker: Broker, sentry: SentryReceiver) -> None:
    """Every 4xx is a problem and a warning; every 5xx a problem, an error and one event."""
    rows = (*WARNINGS, *ERRORS)
    with serving(broker.env, sentry) as (url, api):
        for row in rows:
            check(row, put(url, row))

    check_lines(api, rows)
    assert reported(sentry) == {row.id: 1 for row in ERRORS}
    assert broker.sqs.stats()["tasks"]["sent"] == 0


def test_a_crash_is_one_event_of_its_own_type(broker: Broker, sentry: SentryReceiver) -> None:
    """The event has the type, the stack, the span and the tags; the line has the event's id."""
    [row, _] = ERRORS
    with serving(broker.env, sentry) as (url, api):
        answer = put(url, row)

    [event] = sentry.events()
    [line] = told(api, "http.error")[row.id]
    failed = event["exception"]["values"][-1]
    problem = answer.json()
    assert (problem["detail"], problem["retryable"]) == (GENERIC, True)
    assert failed["type"] == "LookupError"
    assert failed["stacktrace"]["frames"][-1]["function"] == "crash"
    assert "hunter2" not in json.dumps(event)
    assert line["sentry_event_id"] == event["event_id"]
    assert event["contexts"]["trace"]["trace_id"] == problem["trace_id"]
    assert event["contexts"]["trace"]["span_id"] == answer.headers["traceresponse"].split("-")[2]
    expected = {
        "code": "internal",
        "http_status": "500",
        "retryable": "true",
        "correlation_id": row.id,
        "route": "/crash",
    }
    assert {name: event["tags"][name] for name in expected} == expected


def test_a_stream_that_fails_says_so(broker: Broker, sentry: SentryReceiver) -> None:
    """An event stream ends with a problem, any other body is broken off; each is one event."""
    stream = Row(name="stream crash", line="GET /events", status=200, code="internal")
    download = Row(name="download crash", line="GET /download", status=200, code="internal")
    with serving(broker.env, sentry) as (url, api):
        answer = put(url, stream)
        connection = Connection(url)
        broken = connection.ask(download.raw)
        connection.close()

    begun, failed = answer.body.decode().split("\n\n")[0], answer.body.decode().split("event: ")[1]
    problem = json.loads(failed.partition("data: ")[2])
    assert (answer.status, answer.whole, begun) == (200, True, "data: begun")
    assert failed.startswith("error\n")
    assert problem.keys() == MEMBERS
    assert (problem["status"], problem["code"], problem["detail"]) == (500, "internal", GENERIC)
    assert problem["correlation_id"] == stream.id
    assert (broken.body, broken.whole) == (b"data: begun\n\n", False)
    assert reported(sentry) == {stream.id: 1, download.id: 1}
    for row in (stream, download):
        [line] = told(api, "http.error")[row.id]
        assert (line["level"], line["status"]) == ("error", 500)


def test_the_parser_answers_what_is_no_request(broker: Broker, sentry: SentryReceiver) -> None:
    """Its 400 comes without an id, ends the connection, and is no failure of the application."""
    with serving(broker.env, sentry) as (url, api):
        connection = Connection(url)
        answer = connection.ask(b"what is this\r\n\r\n")
        ended = connection.ended
        connection.close()

    assert (answer.status, ended) == (400, True)
    assert "x-correlation-id" not in answer.headers
    assert told(api, "http.error") == {}
    assert sentry.events() == []


def test_a_head_request_gets_no_document(broker: Broker, sentry: SentryReceiver) -> None:
    """The headers say what a GET would, and the next answer follows them."""
    with serving(broker.env, sentry) as (url, _):
        connection = Connection(url)
        head = connection.ask(b"HEAD /nowhere HTTP/1.1\r\nhost: localhost\r\n\r\n", head=True)
        after = connection.ask(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
        connection.close()

    assert (head.status, after.status) == (404, 200)
    assert head.headers["content-type"] == "application/problem+json"


def test_the_table_of_tasks_and_keys(broker: Broker, sentry: SentryReceiver) -> None:
    """What the state of a task or of an idempotency key forbids; only the first one is sent."""
    own = f"{JSON}idempotency-key: once\r\n"
    with serving(broker.env, sentry) as (url, api):
        accepted = put(
            url,
            Row(
                name="accepted",
                line=SUBMIT,
                headers=own,
                body=GOOD,
                status=202,
                code=None,
            ),
        )
        path = accepted.headers["location"]
        cancel = Row(name="cancelled", line=f"DELETE {path}", status=202, code=None)
        cancelled = put(url, cancel)
        rows = (
            Row(
                name="ended already",
                line=f"DELETE {path}",
                status=409,
                code="conflict",
            ),
            Row(
                name="key reused",
                line=SUBMIT,
                headers=own,
                body='{"item": "pen"}',
                status=422,
                code="idempotency_key_reused",
            ),
        )
        for row in rows:
            check(row, put(url, row))

    check_lines(api, rows)
    assert (accepted.status, cancelled.status) == (202, 202)
    assert sentry.events() == []
    assert broker.sqs.stats()["tasks"]["sent"] == 1


def test_the_table_of_credentials(broker: Broker, sentry: SentryReceiver) -> None:
    """No key, a forged one, two at once: 401; another user's task: 404; too many: 429."""
    env = broker.env | {
        "TRACEBATON_AUTH": "api-key",
        "TRACEBATON_API_KEYS_FILE": str(broker.folder / "keys.json"),
        "TRACEBATON_RATE_PER_MINUTE": "6",
    }
    alice, bob = (create_key(env, user, cwd=HERE) for user in ("alice", "bob"))
    asks = {"www-authenticate": "Bearer"}

    def by(key: str) -> str:
        return f"authorization: Bearer {key}\r\n"

    def refused(name: str, headers: str) -> Row:
        return Row(
            name=name,
            line="GET /v1/tasks",
            headers=headers,
            status=401,
            code="unauthenticated",
            told=asks,
        )

    unknown = (
        refused("no key", ""),
        refused("forged key", by(f"{alice[:-4]}zzzz")),
        refused("no key at all", by("tb_")),
        refused("another scheme", "authorization: Basic YTpi\r\n"),
        refused("two keys", by(alice) + f"x-api-key: {bob}\r\n"),
    )
    with serving(env, sentry) as (url, api):
        submit = {"line": SUBMIT, "headers": by(alice) + JSON, "body": GOOD}
        accepted = put(url, Row(name="accepted", status=202, code=None, **submit))
        path = accepted.headers["location"]
        hers = [
            Row(
                name=f"hers {method} {end.strip('/')}".strip(),
                line=f"{method} {path}{end}",
                headers=by(bob),
                status=404,
                code="not_found",
            )
            for method, end in (("GET", ""), ("GET", "/events"), ("DELETE", ""))
        ]
        rows = [*unknown, *hers]
        for row in rows:
            check(row, put(url, row))
        spent = {"retry-after": None, "ratelimit-limit": "6", "ratelimit-remaining": "0"}
        many = Row(name="too many", status=429, code="too_many_requests", told=spent, **submit)
        guess = replace(many, name="too many guesses", line="GET /v1/tasks", headers=by("tb_x"))
        more, limited = until_refused(url, many)
        guessed, stopped = until_refused(url, guess)

    known = [replace(row, status=401, code="unauthenticated") for row in guessed]
    check_lines(api, [*rows, limited, *known, stopped])
    assert sentry.events() == []
    assert broker.sqs.stats()["tasks"]["sent"] == 1 + len(more)


def until_refused(url: str, row: Row) -> tuple[list[Row], Row]:
    """
    Ask for *row* until it is what comes back, and return what passed and what did not.

    A share of the limit comes back every ten seconds, so that nobody knows how often that is.
    """
    passed: list[Row] = []
    while True:
        row = replace(row, name=f"{row.name} {len(passed)}")
        answer = put(url, row)
        if answer.status == row.status:
            check(row, answer)
            return passed, row
        assert answer.status in (202, 401)
        passed.append(row)


def away(name: str, line: str, code: str, headers: str = "", body: str = "") -> Row:
    """A request that needs what is away."""
    return Row(name=name, line=line, headers=headers, body=body, status=503, code=code)


def test_the_table_of_a_store_that_is_away(broker: Broker, sentry: SentryReceiver) -> None:
    """Each request is a 503 that may be tried again; the outage is one event; then it goes on."""
    blocked = broker.folder / "blocked"
    blocked.write_text("a file where a folder should be")
    env = broker.env | {"TRACEBATON_STORE": f"sqlite:///{blocked / 'tasks.db'}"}
    code = "store_unavailable"
    rows = (
        away("submit", SUBMIT, code, JSON, GOOD),
        away("submit once", SUBMIT, code, f"{JSON}idempotency-key: k\r\n", GOOD),
        away("show", "GET /v1/tasks/some", code),
        away("list", "GET /v1/tasks", code),
        away("cancel", "DELETE /v1/tasks/some", code),
        away("events", "GET /v1/tasks/some/events", code),
    )
    with serving(env, sentry) as (url, api):
        for row in rows:
            answer = put(url, row)
            check(row, answer)
            assert answer.json()["retryable"] is True
        sent = broker.sqs.stats()["tasks"]["sent"]
        blocked.unlink()
        accepted = put(
            url, Row(name="a", line=SUBMIT, headers=JSON, body=GOOD, status=202, code=None)
        )

    check_lines(api, rows)
    assert (sent, accepted.status) == (0, 202)
    assert {event["tags"]["code"] for event in sentry.events()} == {code}
    assert len([e for e in sentry.events() if e["tags"].get("route")]) == 1


def test_the_table_of_a_queue_that_is_away(broker: Broker, sentry: SentryReceiver) -> None:
    """A send that fails leaves nothing: no task, and the idempotency key is free again."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = f"http://127.0.0.1:{server.getsockname()[1]}"
    env = broker.env | {
        "AWS_ENDPOINT_URL_SQS": closed,
        "TRACEBATON_QUEUE_URL": f"{closed}/000000000000/tasks",
    }
    once = f"{JSON}idempotency-key: k\r\n"
    code = "queue_unavailable"
    rows = (
        away("submit", SUBMIT, code, JSON, GOOD),
        away("submit once", SUBMIT, code, once, GOOD),
        away("submit once more", SUBMIT, code, once, GOOD),
    )
    with serving(env, sentry) as (url, api):
        for row in rows:
            answer = put(url, row)
            check(row, answer)
            assert answer.json()["retryable"] is True
        left = put(url, Row(name="left", line="GET /v1/tasks", status=200, code=None)).json()

    check_lines(api, rows)
    assert left == {"tasks": [], "next_cursor": None}
    assert [event["tags"]["code"] for event in sentry.events()] == [code]

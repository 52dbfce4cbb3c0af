"""Hostile bytes to a real ``tracebaton api``: rubbish, halves, slow bodies, broken connections."""

import asyncio
import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from command import Command, running
from hypothesis import strategies as st
from sentry_receiver import SentryReceiver
from stage import Broker, create_queues

from tracebaton.local import LocalSqs

from .answers import Answer, check
from .conftest import Cases, open_files, resident
from .desk import SLOW_BYTES
from .hostile_requests import Hostile

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning"),
]

HERE = Path(__file__).parent
#: Seconds that any conversation may take. A slow body is given up after a third of one.
PATIENCE = 10.0


@dataclass(frozen=True)
class Conversation:
    """
    What one client does on one connection.

    Attributes:
        pieces: Bytes, written one after the other.
        answers: Statuses that have to come back, in order; None where the client does not wait.
        abrupt: The client leaves with a reset.
    """

    pieces: tuple[bytes, ...]
    answers: tuple[int, ...] | None
    abrupt: bool = False


def _request(line: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    length = (b"content-length: %d" % len(body),) if body else ()
    return b"\r\n".join((line, b"host: localhost", *headers, *length, b"", b"")) + body


_JSON = b"content-type: application/json"
_NOTE = _request(b"POST /v1/tasks/note HTTP/1.1", _JSON, body=b'{"text": "a"}')
_CHUNKED = _request(b"POST /v1/tasks/note HTTP/1.1", _JSON, b"transfer-encoding: chunked")
_GOOD: tuple[tuple[bytes, int], ...] = (
    (_NOTE, 202),
    (_CHUNKED + b'5\r\n{"tex\r\n8;ext=1\r\nt": "b"}\r\n0\r\n\r\n', 202),
    (_request(b"GET /echo/a HTTP/1.1"), 200),
    (_request(b"GET /sync HTTP/1.1"), 200),
    (_request(b"GET /nothing HTTP/1.1"), 404),
    (_request(b"PATCH /sync HTTP/1.1"), 405),
    (_request(b"POST /v1/tasks/note HTTP/1.1", _JSON, body=b"{"), 400),
    (_request(b"POST /v1/tasks/note HTTP/1.1", _JSON, body=b"{}"), 422),
    (_request(b"POST /v1/tasks/note HTTP/1.1", body=b"{}"), 415),
    (_request(b"GET /echo/a HTTP/1.1", b"x-pad: " + b"p" * 100_000), 431),
    (_request(b"GET /echo/a HTTP/1.1", b"host: evil.example"), 400),
    (_request(b"GET /echo/a HTTP/1.1", b"origin: http://evil.example"), 403),
    (_request(b"POST /slow HTTP/1.1", _JSON, body=b"[" + b" " * SLOW_BYTES + b"]"), 413),
)
_LAST: tuple[tuple[bytes, int], ...] = (
    (_request(b"GET /echo/last HTTP/1.1", b"connection: close"), 200),
    (_request(b"GET /sync HTTP/1.0"), 200),
    (_request(b"POST /slow HTTP/1.1", _JSON, b"content-length: 50") + b'{"a":', 408),
    (_request(b"POST /slow HTTP/1.1", _JSON, b"transfer-encoding: chunked") + b"5\r\n[", 408),
)
#: What h11 refuses at once, with an answer of its own.
_RUBBISH = (
    b"\x00\x01\x02\x03\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET / HTTP/x.y\r\n\r\n",
    b"G\xffT / HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nx: a\x00b\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nx : b\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1, 2\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: " + b"9" * 300 + b"\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 20 + b"\r\n\r\n",
)
#: Never a whole note: what is sent here must not arrive in the queue.
_PARTS = (
    _NOTE[:-1],
    _CHUNKED + b'5\r\n{"tex\r\n',
    _CHUNKED + b"zz\r\n",
    _CHUNKED + b"5\r\n{}\r\n0\r\n\r\n",
    _CHUNKED + b"f" * 30 + b"\r\n",
    _request(b"POST /v1/tasks/note HTTP/1.1", _JSON, b"content-length: 1000000") + b'{"text": "a',
    _request(b"POST /v1/tasks/note HTTP/1.1", _JSON, b"expect: 100-continue", b"content-length: 9"),
    _request(b"GET /stream HTTP/1.1"),
    _request(b"GET /echo/a HTTP/1.1")[:-3],
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    _request(b"POST /sync HTTP/1.1", b"transfer-encoding: chunked", b"content-length: 5")
    + b"0\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"p" * 300_000,
    b"A" * 300_000,
    *_RUBBISH,
)


def _polite(pair: tuple[list[tuple[bytes, int]], tuple[bytes, int], bool]) -> Conversation:
    many, (last, status), at_once = pair
    # h11 refuses a second Host header: nothing after it is read.
    stop = next((n for n, (raw, _) in enumerate(many) if b"host: evil" in raw), None)
    if stop is not None:
        many, last, status = many[:stop], *many[stop]
    pieces = [raw for raw, _ in many] + [last]
    answers = (*(code for _, code in many), status)
    # In a piece of its own rubbish may take the place of the answer that is being written.
    at_once = at_once or last in _RUBBISH
    return Conversation((b"".join(pieces),) if at_once else tuple(pieces), answers)


_pipelined = st.tuples(
    st.lists(st.sampled_from(_GOOD), max_size=5),
    st.sampled_from((*_LAST, *((raw, 400) for raw in _RUBBISH))),
    st.booleans(),
).map(_polite)
_left = st.builds(
    Conversation,
    st.lists(st.sampled_from(_PARTS) | st.binary(max_size=200), min_size=1, max_size=3).map(tuple),
    st.none(),
    abrupt=st.booleans(),
)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with LocalSqs.in_thread() as sqs:
        create_queues(sqs)
        yield Broker(sqs, tmp_path)


def test_a_real_server_survives_every_client(broker: Broker, cases: Cases) -> None:
    """Right answers in order, no 5xx, no hang; afterwards it has what it had, and answers."""
    with running("api", "desk:app", "--port", "0", env=broker.env, cwd=HERE) as api:
        url = httpx.URL(api.ready()["api"])
        accepted = [0]

        def check_all(conversations: list[Conversation]) -> int:
            answers = asyncio.run(_all(url, conversations))
            accepted[0] += sum(answer.status == 202 for many in answers for answer in many)
            assert httpx.get(f"{url}/livez", timeout=PATIENCE).status_code == 200
            return len(conversations)

        # Every thread that talks to SQS opens its connection.
        check_all([_polite(([_GOOD[0]] * 5, _LAST[0], True)) for _ in range(20)])
        process = api.process.pid
        files, memory = open_files(process), resident(process)
        cases.explore(
            "http, sockets",
            st.lists(st.one_of(_pipelined, _left), min_size=1, max_size=6),
            check_all,
            share=0.02,
            least=60,
        )
        _until(lambda: open_files(process) <= files, lambda: f"{open_files(process)} > {files}")
        cases.lines.append(f"  the server grew by {(resident(process) - memory) / 1024:.1f} MiB")
        assert resident(process) - memory < 48 * 1024
        assert broker.sqs.stats()["tasks"]["sent"] == accepted[0]
        assert api.stop() == 0

    _check_lines(api)


def test_a_body_that_the_parser_refuses_is_no_failure_of_ours(
    broker: Broker, sentry: SentryReceiver
) -> None:
    """The server answered 400 itself: no error line, no 500 and no event of what came too late."""
    env = broker.env | {"SENTRY_DSN": sentry.dsn}
    with running("api", "desk:app", "--port", "0", env=env, cwd=HERE) as api:
        url = httpx.URL(api.ready()["api"])
        broken = _request(b"GET /echo/a HTTP/1.1", b"transfer-encoding: chunked") + b"zz\r\n"
        asyncio.run(_all(url, [Conversation((broken,), (400,))]))
        assert api.stop() == 0

    assert [event for event in api.events if event.get("level") == "error"] == []
    assert sentry.events() == []


def _check_lines(api: Command) -> None:
    assert api.errors == []
    events = api.events
    failed = [event for event in events if event.get("level") in ("error", "critical")]
    assert not failed, json.dumps(failed, indent=1)[-5000:]
    assert [line for line in api.lines if "Failed to detach" in line] == []
    inside = [event for event in events if event["event"] in ("http.request", "http.error")]
    assert all(event["correlation_id"] and event["trace_id"] for event in inside)


async def _all(url: httpx.URL, conversations: list[Conversation]) -> list[list[Answer]]:
    async with asyncio.timeout(PATIENCE):
        return await asyncio.gather(*(_one(url, each) for each in conversations))


async def _one(url: httpx.URL, conversation: Conversation) -> list[Answer]:
    reader, writer = await asyncio.open_connection(url.host, url.port, limit=2**20)
    if conversation.abrupt:
        raw: Any = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    try:
        for piece in conversation.pieces:
            writer.write(piece)
            await asyncio.sleep(0)
        if conversation.answers is None:
            return []
        answers = [await _answer(reader) for _ in conversation.answers]
        assert tuple(answer.status for answer in answers) == conversation.answers
        assert await reader.read() == b"", "more than was asked for"
        return answers
    finally:
        await _leave(writer, abrupt=conversation.abrupt)


async def _leave(writer: asyncio.StreamWriter, *, abrupt: bool) -> None:
    if abrupt:
        writer.transport.abort()
        return
    writer.close()
    try:
        await writer.wait_closed()
    except ConnectionError:
        """The server had enough first."""


async def _answer(reader: asyncio.StreamReader) -> Answer:
    head = await reader.readuntil(b"\r\n\r\n")
    line, *fields = head[:-4].split(b"\r\n")
    headers = [(key.lower(), value) for key, _, value in (one.partition(b": ") for one in fields)]
    answer = Answer(int(line.split()[1]), headers, complete=True)
    if answer.header(b"transfer-encoding") == b"chunked":
        while size := int((await reader.readline()).strip(), 16):
            answer.body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    elif answer.header(b"content-length") is None:
        answer.body = await reader.read()
    else:
        answer.body = await reader.readexactly(int(answer.header(b"content-length") or b""))
    if answer.correlation_id is not None:  # else it is the parser's own 400
        check(_LARGE if answer.status == 431 else _PLAIN, answer)
    else:
        assert answer.status == 400
    return answer


_PLAIN = Hostile("GET", b"/", (), (b"",), cut=False, version="1.1")
_LARGE = replace(_PLAIN, headers=((b"x-pad", b"p" * 100_000),))


def _until(good: Callable[[], bool], told: Callable[[], str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not good():
        assert time.monotonic() < deadline, told()
        time.sleep(0.02)

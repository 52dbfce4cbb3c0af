"""The layers behind a real server: pipelined, kept alive, slow, huge and broken-off requests."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from http_server import JSON, Address, answer_of, request, serving
from http_service import StoreService
from opentelemetry.trace import SpanKind
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from tracebaton import context
from tracebaton.http.app import create_app
from tracebaton.http.auth import authenticator
from tracebaton.http.body import read_json
from tracebaton.http.keys import create_key
from tracebaton.settings import Settings


def who() -> dict[str, Any]:
    store = context.current()
    return {"user_id": store.user_id, "correlation_id": store.correlation_id}


class Routes:
    """Routes that say whose request they see, each in its own way."""

    def __init__(self) -> None:
        self.background: list[dict[str, Any]] = []
        self.reached = threading.Event()

    async def on_loop(self, request: Request) -> Response:
        before = who()
        await asyncio.sleep(0)
        return JSONResponse([before, who(), await asyncio.to_thread(who)])

    def in_thread(self, request: Request) -> Response:
        return JSONResponse([who()])

    async def with_body(self, request: Request) -> Response:
        before = who()
        size = len((await read_json(request))["pad"])
        return JSONResponse([before, who(), who() | {"size": size}])

    async def later(self, request: Request) -> Response:
        asked = {"asked": who()["correlation_id"]}
        task = BackgroundTask(lambda: self.background.append(who() | asked))
        return JSONResponse([who()], background=task)

    async def failing(self, request: Request) -> Response:
        raise LookupError

    async def slow_body(self, request: Request) -> Response:
        return JSONResponse(await read_json(request, timeout=0.2, limit=1000))

    async def breaking(self, request: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"begun"
            raise LookupError

        return StreamingResponse(chunks(), media_type="text/plain")

    async def endless(self, request: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            self.reached.set()
            while True:
                yield b"x" * 1000
                await asyncio.sleep(0)

        return StreamingResponse(chunks())

    def all(self) -> list[tuple[str, Callable[[Request], Any], list[str]]]:
        return [
            ("/loop", self.on_loop, ["GET"]),
            ("/thread", self.in_thread, ["GET"]),
            ("/body", self.with_body, ["POST"]),
            ("/later", self.later, ["GET"]),
            ("/failing", self.failing, ["GET"]),
            ("/slow", self.slow_body, ["POST"]),
            ("/breaking", self.breaking, ["GET"]),
            ("/endless", self.endless, ["GET"]),
        ]


CONNECTIONS, EACH = 20, 50


@pytest.fixture
def routes() -> Routes:
    return Routes()


@pytest.fixture
def address(routes: Routes, provider: Any, reporter: Any) -> Iterator[Address]:
    """Serve the routes without authentication."""
    service = StoreService(None, routes=routes.all(), reporter=reporter)
    with serving(create_app(service, tracer_provider=provider)) as address:
        yield address


@pytest.mark.parametrize("reset_contextvars", [False, True])
async def test_a_thousand_pipelined_requests_mix_nothing_up(
    routes: Routes, provider: Any, spans: Any, tmp_path: Path, reset_contextvars: bool
) -> None:
    """Mixed users, routes and bodies on kept connections: each answer and span is its request's."""
    keys = tmp_path / "keys.json"
    users = {f"user-{n}": create_key(keys, f"user-{n}") for n in range(7)}
    environ = {"TRACEBATON_AUTH": "api-key", "TRACEBATON_API_KEYS_FILE": str(keys)}
    service = StoreService(
        None, authenticator=authenticator(Settings.load(environ)), routes=routes.all()
    )
    app = create_app(service, tracer_provider=provider)
    pad = json.dumps({"pad": "p" * 70_000})

    def one(connection: int, number: int) -> tuple[bytes, str | None, str | None]:
        """Return a request, its id where it brings one, and its user where it is known."""
        user, key = list(users.items())[(connection + number) % len(users)]
        own = f"c-{connection}-{number}" if number % 3 else None
        known = user if number % 11 else None
        headers = f"x-api-key: {key}\r\n" if known else ""
        headers += f"x-correlation-id: {own}\r\n" if own else ""
        path = ("/loop", "/thread", "/later", "/failing", "/no")[number % 5]
        if number % 10 == 9:
            return request("POST", "/body", headers + JSON, pad), own, known
        return request("GET", path, headers), own, known

    async def connection(number: int, address: Address) -> list[Any]:
        reader, writer = await address.connect()
        sent = [one(number, index) for index in range(EACH)]
        writer.write(b"".join(raw for raw, _, _ in sent))  # all at once: the server pipelines
        answers = [await answer_of(reader) for _ in sent]
        writer.close()
        await writer.wait_closed()
        return [
            (own, known, *answer) for (_, own, known), answer in zip(sent, answers, strict=True)
        ]

    with serving(app, reset_contextvars=reset_contextvars) as address:
        results = await asyncio.gather(*(connection(n, address) for n in range(CONNECTIONS)))

    seen: dict[str, str | None] = {}
    for own, known, status, headers, body in (one for many in results for one in many):
        correlation_id = headers["x-correlation-id"]
        trace_id = headers["traceresponse"].split("-")[1]
        assert correlation_id == (own or trace_id)
        assert trace_id not in seen
        seen[trace_id] = known
        told = json.loads(body)
        assert (status == 401) is (known is None)
        if status == 200:
            expected = {"user_id": known, "correlation_id": correlation_id}
            assert all(expected.items() <= place.items() for place in told)
        else:
            assert (told["correlation_id"], told["trace_id"]) == (correlation_id, trace_id)
    servers = [span for span in spans() if span.kind is SpanKind.SERVER]
    assert len(seen) == len(servers) == CONNECTIONS * EACH
    assert {
        f"{s.context.trace_id:032x}": s.attributes.get("tracebaton.user_id") for s in servers
    } == seen
    assert all(span.parent is None for span in servers)
    assert all(place["asked"] == place["correlation_id"] for place in routes.background)
    assert len(routes.background) > 100


async def test_large_headers_are_a_problem(address: Address) -> None:
    """100 kB of headers reach the application's own limit."""
    reader, writer = await address.connect()
    writer.write(request("GET", "/loop", f"x-pad: {'p' * 100_000}\r\n"))
    status, headers, body = await answer_of(reader)
    writer.write(request("GET", "/loop"))
    after, _, _ = await answer_of(reader)
    writer.close()

    assert (status, json.loads(body)["code"], after) == (431, "headers_too_large", 200)
    assert headers["x-correlation-id"] == json.loads(body)["correlation_id"]


async def test_a_slow_body_ends_its_connection(address: Address) -> None:
    """408, and what would still come is not read as another request."""
    reader, writer = await address.connect()
    writer.write(request("POST", "/slow", JSON + "content-length: 50\r\n") + b'{"a":')
    status, headers, body = await answer_of(reader)
    rest = await asyncio.wait_for(reader.read(), 5)
    writer.close()

    assert (status, json.loads(body)["code"]) == (408, "request_timeout")
    assert (headers["connection"], rest) == ("close", b"")


async def test_an_announced_body_is_refused_before_it_is_sent(address: Address) -> None:
    """A client that asks first is told 413, not 100."""
    reader, writer = await address.connect()
    writer.write(
        request("POST", "/slow", JSON + "expect: 100-continue\r\ncontent-length: 5000\r\n")
    )
    status, _, body = await answer_of(reader)
    writer.close()

    assert (status, json.loads(body)["code"]) == (413, "payload_too_large")


async def test_a_chunked_body_is_counted(address: Address) -> None:
    """What does not say its length is refused when it is too long; the connection goes on."""
    reader, writer = await address.connect()
    chunk = b"258\r\n" + b" " * 600 + b"\r\n"
    writer.write(request("POST", "/slow", JSON + "transfer-encoding: chunked\r\n") + chunk * 2)
    status, _, _ = await answer_of(reader)
    writer.write(b"0\r\n\r\n" + request("GET", "/loop"))
    after, _, _ = await answer_of(reader)
    writer.close()

    assert (status, after) == (413, 200)


async def test_two_lengths_of_one_body_end_the_connection(address: Address) -> None:
    """What a proxy that believes the other one takes for a second request is not read as one."""
    reader, writer = await address.connect()
    chunked = b'7\r\n{"a":1}\r\n0\r\n\r\n'
    head = request("POST", "/body", JSON + "content-length: 4\r\ntransfer-encoding: chunked\r\n")
    writer.write(head + chunked + request("GET", "/loop"))
    _, headers, _ = await answer_of(reader)
    rest = await asyncio.wait_for(reader.read(), 5)
    writer.close()

    assert (headers["connection"], rest) == ("close", b"")


async def test_a_head_request_has_no_body(address: Address) -> None:
    """The next answer on the connection follows the headers."""
    reader, writer = await address.connect()
    writer.write(request("HEAD", "/no") + request("GET", "/loop"))
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
    status, _, _ = await answer_of(reader)
    writer.close()

    assert head.startswith(b"HTTP/1.1 404")
    assert status == 200


async def test_a_broken_stream_breaks_its_connection(
    address: Address, spans: Any, reporter: Any
) -> None:
    """A client sees that the answer is not whole; the failure was told once."""
    reader, writer = await address.connect()
    writer.write(request("GET", "/breaking"))
    raw = await asyncio.wait_for(reader.read(), 10)
    writer.close()

    assert raw.startswith(b"HTTP/1.1 200")
    assert b"begun" in raw
    assert not raw.endswith(b"0\r\n\r\n")
    assert [type(report.exc) for report in reporter.reports] == [LookupError]


async def test_a_client_that_leaves_a_stream_fails_nothing(
    address: Address, routes: Routes, spans: Any, reporter: Any
) -> None:
    """Its span says that it left, and the server answers the next one."""
    reader, writer = await address.connect()
    writer.write(request("GET", "/endless"))
    await asyncio.wait_for(reader.readexactly(5000), 10)
    writer.close()
    while not spans():
        other_reader, other_writer = await address.connect()
        other_writer.write(request("GET", "/livez"))
        assert (await answer_of(other_reader))[0] == 200
        other_writer.close()

    (span,) = spans()
    assert span.attributes["tracebaton.client.disconnected"] is True
    assert span.status.is_unset
    assert reporter.reports == []

"""Connections on which nothing moves, at a real server: they end, and hold little until then."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from http_server import JSON, Address, answer_of, request, serving
from http_service import StoreService
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from tracebaton.http import connections
from tracebaton.http.app import create_app
from tracebaton.http.body import read_json
from tracebaton.http.connections import PatientProtocol
from tracebaton.processes import serving as command_serving

PIECE = b"x" * 10_000


class Endless:
    """A route that sends for as long as anybody takes it, and counts."""

    def __init__(self) -> None:
        self.sent = 0
        self.over = asyncio.Event()

    async def __call__(self, request: Request) -> Response:
        return StreamingResponse(self._pieces(), media_type="text/event-stream")

    async def _pieces(self) -> AsyncIterator[bytes]:
        try:
            while True:
                self.sent += len(PIECE)
                yield PIECE
                await asyncio.sleep(0)
        finally:
            self.over.set()


async def late(request: Request) -> Response:
    """Answer when the body is here, however long that takes."""
    return JSONResponse(await read_json(request))


@pytest.fixture
def endless() -> Endless:
    return Endless()


@pytest.fixture
def address(endless: Endless) -> Iterator[Address]:
    """A server whose connections are as patient as the command's, only quicker to tire."""
    routes = [("/endless", endless, ["GET"]), ("/late", late, ["POST"])]
    with serving(create_app(StoreService(None, routes=routes)), http=PatientProtocol) as address:
        yield address


@pytest.fixture
def given_up(monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, int]]:
    """Return how many connections were given up, by what was waited for."""
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader]).get_meter("test")
    counter = meter.create_counter("tracebaton.http.given_up")
    monkeypatch.setattr(connections, "_given_up", lambda: counter)

    def found() -> dict[str, int]:
        data: Any = reader.get_metrics_data()
        if data is None:
            return {}
        [metric] = data.resource_metrics[0].scope_metrics[0].metrics
        return {p.attributes["tracebaton.outcome"]: p.value for p in metric.data.data_points}

    return found


def deaf(port: int, path: str) -> socket.socket:
    """Ask for *path* and read nothing of the answer."""
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    reader.connect(("127.0.0.1", port))
    reader.sendall(request("GET", path))
    return reader


async def test_a_reader_that_takes_nothing_is_let_go(
    address: Address,
    endless: Endless,
    given_up: Any,
    lines: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its stream waits, then ends; the connection is broken off, told and counted."""
    monkeypatch.setattr(connections, "READ_SECONDS", 0.2)
    reader = deaf(address.port, "/endless")
    async with asyncio.timeout(20):
        while not endless.over.is_set():
            await asyncio.sleep(0.01)
    reader.setblocking(True)

    def rest() -> int:
        found = 0
        try:
            while part := reader.recv(65_536):
                found += len(part)
        except ConnectionResetError:
            """What was on its way is gone with the connection."""
        return found

    taken = await asyncio.to_thread(rest)
    reader.close()

    [line] = lines.of("http.given_up")
    assert (line["level"], line["waited_for"], line["client"]) == ("warning", "reader", "127.0.0.1")
    assert line["bytes"] < 2 * len(PIECE) + connections._WAITING_BYTES
    assert taken < endless.sent < 16 * 1024 * 1024
    assert given_up() == {"reader": 1}


async def test_a_reader_that_is_slow_is_waited_for(
    address: Address, endless: Endless, given_up: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked at again and again, it has always taken some of what the system holds for it."""
    monkeypatch.setattr(connections, "READ_SECONDS", 0.1)
    looks = 0
    ask = PatientProtocol._ask_reader

    def counted(protocol: Any, waiting: int) -> None:
        nonlocal looks
        looks += 1
        ask(protocol, waiting)

    monkeypatch.setattr(PatientProtocol, "_ask_reader", counted)
    reader = deaf(address.port, "/endless")
    reader.setblocking(False)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(20):
        while looks < 5:
            await loop.sock_recv(reader, 10_000)
            await asyncio.sleep(0.01)  # this is how slow it is
    over = endless.over.is_set()
    reader.close()

    assert not over
    assert given_up() == {}


HALF = b"GET /livez HTTP/1.1\r\nhost: local"


@pytest.mark.parametrize("before", [b"", request("GET", "/livez")], ids=["first", "second"])
@pytest.mark.parametrize("sent", [HALF, HALF[:5]])
async def test_half_a_head_is_not_waited_for(
    address: Address,
    given_up: Any,
    lines: Any,
    monkeypatch: pytest.MonkeyPatch,
    before: bytes,
    sent: bytes,
) -> None:
    """On a new connection or on one that was answered, drop by drop or not."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
    reader, writer = await address.connect()
    if before:
        writer.write(before)
        assert (await answer_of(reader))[0] == 200
    for drop in sent:
        writer.write(bytes([drop]))
        await writer.drain()
    rest = await asyncio.wait_for(_rest(reader), 10)
    writer.close()

    assert rest == b""
    assert [line["waited_for"] for line in lines.of("http.given_up")] == ["head"]
    assert given_up() == {"head": 1}


async def test_a_connection_that_says_nothing_is_not_kept(
    address: Address, given_up: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of them would be all the files a process may have."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
    reader, writer = await address.connect()
    rest = await asyncio.wait_for(_rest(reader), 10)
    writer.close()

    assert rest == b""
    assert given_up() == {"head": 1}


async def test_a_request_may_take_longer_than_its_head(
    address: Address, given_up: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its body has a limit of its own, and its answer has none."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.05)
    reader, writer = await address.connect()
    writer.write(request("POST", "/late", JSON + "content-length: 2\r\n") + b"{")
    await asyncio.sleep(0.2)  # four times as long as the head may take
    writer.write(b"}")
    status, _, body = await answer_of(reader)
    writer.close()

    assert (status, body, given_up()) == (200, b"{}", {})


async def _rest(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_an_answer_is_not_held_back_until_its_head_is_confirmed(host: str) -> None:
    """The command's connections send at once; TCP would wait with the body, 40 ms as a rule."""
    app = create_app(StoreService(None))
    async with command_serving(app, host=host, port=0) as (url, server):
        port = int(url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        (connection,) = server.server_state.connections
        held = connection.transport.get_extra_info("socket")
        at_once = held.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        writer.close()

    assert head.startswith(b"HTTP/1.1 200")
    assert at_once

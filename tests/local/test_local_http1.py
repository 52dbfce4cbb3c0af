"""The HTTP of the local SQS, byte by byte."""

import asyncio
import json

import pytest

from tracebaton.local import LocalSqs

LIST = b"X-Amz-Target: AmazonSQS.ListQueues\r\nHost: localhost\r\n"
REQUEST = b"POST / HTTP/1.1\r\n" + LIST + b"Content-Length: 2\r\n\r\n{}"
SECONDS = 5


@pytest.fixture
async def sqs():
    async with LocalSqs() as sqs:
        yield sqs


class Wire:
    """A raw connection."""

    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer

    def send(self, data):
        self.writer.write(data)

    async def answer(self):
        """Return status, headers and body of the next answer."""
        async with asyncio.timeout(SECONDS):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.rstrip("\r\n").split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines)
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return int(first.split()[1]), headers, body

    async def closed(self):
        """Return whether the server closes without a further byte."""
        async with asyncio.timeout(SECONDS):
            return await self.reader.read() == b""


@pytest.fixture
async def wire(sqs):
    host, port = sqs.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    yield Wire(reader, writer)
    writer.close()
    await writer.wait_closed()


async def test_connection_is_kept(wire):
    """One connection, several requests, in HTTP/1.1 without asking."""
    for _ in range(3):
        wire.send(REQUEST)
        status, headers, body = await wire.answer()
        assert (status, body) == (200, b"{}")
        assert headers["content-type"] == "application/x-amz-json-1.0"
        assert "connection" not in headers


async def test_pipelined_requests_are_answered_in_order(wire, sqs):
    """Several requests in one packet, the answers in their order."""
    sqs.create_queue("a")
    url = b'{"QueueName": "a"}'
    other = b"POST / HTTP/1.1\r\nX-Amz-Target: AmazonSQS.GetQueueUrl\r\nHost: [::1]:80\r\n"
    wire.send(REQUEST + other + b"Content-Length: 18\r\n\r\n" + url + REQUEST)

    bodies = [json.loads((await wire.answer())[2]) for _ in range(3)]

    queue = sqs.queue_url("a")
    assert bodies == [{"QueueUrls": [queue]}, {"QueueUrl": queue}, {"QueueUrls": [queue]}]


async def test_request_in_single_bytes(wire):
    """However the packets are cut."""
    for byte in REQUEST:
        wire.send(bytes([byte]))
        await wire.writer.drain()

    assert (await wire.answer())[0] == 200


async def test_empty_lines_before_a_request_are_passed_over(wire):
    """RFC 9112, section 2.2."""
    wire.send(b"\r\n\r\n" + REQUEST)

    assert (await wire.answer())[0] == 200


async def test_expect_continue(wire):
    """A client that asks first is told to go on, and then answered."""
    head, body = REQUEST[:-2], REQUEST[-2:]
    wire.send(head.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
    first = await wire.answer()
    wire.send(body)
    second = await wire.answer()

    assert (first[0], second[0]) == (100, 200)


async def test_expect_with_the_body_at_hand(wire):
    """Nothing to go on with: only the answer."""
    wire.send(REQUEST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))

    assert (await wire.answer())[0] == 200


@pytest.mark.parametrize(
    ("version", "header"), [(b"1.1", b"Connection: Close\r\n"), (b"1.0", b"")], ids=["close", "1.0"]
)
async def test_connection_is_closed_on_request(wire, version, header):
    """Connection: close and HTTP/1.0 end it after the answer."""
    wire.send(REQUEST.replace(b"HTTP/1.1\r\n", b"HTTP/" + version + b"\r\n" + header))
    status, headers, _ = await wire.answer()

    assert (status, headers["connection"]) == (200, "close")
    assert await wire.closed()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"NONSENSE\r\n\r\n", 400),
        (b"GET http://elsewhere/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /stats HTTP/1.1\r\nHost : localhost\r\n\r\n", 400),
        (b"GET /stats HTTP/1.1\r\nHost: localhost\r\n folded\r\n\r\n", 400),
        (b"GET /stats HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /stats HTTP/1.1\r\nHost: localhost\nX: y\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1, 1\r\n\r\n", 400),
        (
            b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            400,
        ),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8388609\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nX: " + b"x" * 40_000, 431),
        (b"GET /stats HTTP/1.1\r\n\r\n", 403),
        (b"GET /stats HTTP/1.1\r\nHost: rebound.example\r\n\r\n", 403),
        (b"GET /stats HTTP/1.1\r\nHost: localhost.example\r\n\r\n", 403),
        (b"GET /stats HTTP/1.1\r\nHost: 127.0.0.1:80\r\nOrigin: https://evil.example\r\n\r\n", 403),
        (b"GET /stats HTTP/1.1\r\nHost: 127.0.0.1:80\r\nOrigin: null\r\n\r\n", 403),
    ],
    ids=lambda value: (
        value.decode("latin-1")[:70].replace("\r\n", "|") if isinstance(value, bytes) else None
    ),
)
async def test_what_is_refused_ends_the_connection(wire, request_, status):
    """Nothing after such a request can be trusted to be one."""
    wire.send(request_)
    got, headers, _ = await wire.answer()

    assert (got, headers["connection"]) == (status, "close")
    assert await wire.closed()


@pytest.mark.parametrize("host", [b"localhost", b"LOCALHOST:9324", b"127.0.0.1", b"[::1]:1"])
async def test_names_of_this_machine_are_answered(wire, host):
    """With any port, and with a local origin."""
    wire.send(
        b"GET /stats HTTP/1.1\r\nHost: " + host + b"\r\nOrigin: http://localhost:3000\r\n\r\n"
    )

    assert (await wire.answer())[0] == 200


async def test_other_paths_are_not_found(wire):
    """And the connection is kept."""
    wire.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + REQUEST)

    assert [(await wire.answer())[0] for _ in range(2)] == [404, 200]


async def test_head_has_no_body(wire):
    """A HEAD is answered with the length of what a GET would get."""
    wire.send(b"HEAD /stats HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    async with asyncio.timeout(SECONDS):
        data = await wire.reader.read()

    assert data.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Length: 2\r\n" in data
    assert data.endswith(b"\r\n\r\n")


async def test_client_that_does_not_read_is_waited_for(wire, sqs):
    """Answers do not pile up in memory, and none is lost once the client reads."""
    url = sqs.create_queue("q")
    body = json.dumps({"QueueUrl": url, "MessageBody": "x" * 1_000_000}).encode()
    length = b"Content-Length: %d\r\n\r\n"
    send = b"POST / HTTP/1.1\r\nX-Amz-Target: AmazonSQS.SendMessage\r\nHost: localhost\r\n"
    wire.send(send + length % len(body) + body)
    assert (await wire.answer())[0] == 200
    receive = json.dumps({"QueueUrl": url, "VisibilityTimeout": 0}).encode()
    call = send.replace(b"SendMessage", b"ReceiveMessage") + length % len(receive) + receive
    wire.send(call * 30)
    await wire.writer.drain()

    while (received := sqs.stats()["q"]["received"]) == 0:
        await asyncio.sleep(0)
    answers = [await wire.answer() for _ in range(30)]

    assert received < 30
    assert all(len(body) > 1_000_000 for _, _, body in answers)

"""
As much HTTP/1.1 as an SQS client speaks: keep-alive, pipelining, Content-Length bodies.

Written for this server because nothing here needs more: one request at a time on a connection,
no task, and a parked request that learns at once when its client has gone.
"""

import asyncio
import json
import re
import select
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Protocol, cast

__all__ = ["BODY_LIMIT", "Connection", "Exchange", "Request", "Response", "Service"]

#: Bytes of a request line with its headers.
_HEAD_LIMIT: Final = 32 * 1024
#: Bytes of a body: a batch of 1 MiB, every character of it as a six-byte JSON escape, and room.
BODY_LIMIT: Final = 8 * 1024 * 1024
_REQUEST_LINE: Final = re.compile(rb"([A-Z]+) (/[!-~]*) HTTP/1\.([01])")
_HEADER: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t -~\x80-\xff]*)")
#: The peer has shut down its sending side; other systems than Linux tell only of a full close.
_HANG_UP: Final = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR


@dataclass(frozen=True, slots=True)
class Request:
    """A request with all of its body; header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; *headers* are those besides Content-Length and Connection."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    @classmethod
    def of_json(cls, status: int, content: object) -> "Response":
        """Return an answer with *content* as JSON."""
        return cls(status, json.dumps(content).encode(), {"Content-Type": "application/json"})


class Service(Protocol):
    """What answers the requests of all connections."""

    def check(self, headers: Mapping[str, str]) -> Response | None:
        """Return the refusal of a request by its headers, before its body is read."""
        ...

    def handle(self, request: Request, exchange: "Exchange") -> Callable[[], None] | None:
        """Answer *request*; return how to forget it if the answer comes later."""
        ...

    def opened(self, connection: "Connection") -> None:
        """Take note of a new connection."""
        ...

    def closed(self, connection: "Connection") -> None:
        """Take note that a connection is gone."""
        ...


class Exchange:
    """One request on its connection, to be answered once."""

    __slots__ = ("_connection", "answered", "cancel")

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self.answered: bool = False
        self.cancel: Callable[[], None] | None = None

    def alive(self) -> bool:
        """Return whether the client is still there, by what the system knows at this moment."""
        return self._connection.alive()

    def respond(self, response: Response) -> None:
        """Send the answer."""
        self.answered = True
        self._connection.answered(response)

    def reset(self) -> None:
        """Reset the connection instead of an answer."""
        self._connection.reset()


@dataclass(frozen=True, slots=True)
class _Head:
    method: str
    path: str
    headers: Mapping[str, str]
    length: int
    keep_alive: bool


class _Refused(Exception):
    """The request is not taken; what follows on the connection cannot be read any more."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


class Connection(asyncio.Protocol):
    """One client connection."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._buffer = bytearray()
        self._head: _Head | None = None
        self._exchange: Exchange | None = None
        self._closing = False
        self._stalled = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start with an empty buffer."""
        # Of TCP it is always a whole one, but uvloop's is no subclass of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._service.opened(self)

    def data_received(self, data: bytes) -> None:
        """Take in bytes and answer what is complete, one request at a time."""
        self._buffer += data
        self._advance()
        if self._exchange is not None and len(self._buffer) > BODY_LIMIT:
            self._transport.pause_reading()  # until the parked request is answered

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a parked request: what arrives now goes to another client."""
        self._closing = True
        exchange, self._exchange = self._exchange, None
        if exchange is not None and exchange.cancel is not None:
            exchange.cancel()
        self._service.closed(self)

    def pause_writing(self) -> None:
        """Answer nothing more while the client does not read."""
        self._stalled = True

    def resume_writing(self) -> None:
        """Go on with the requests that wait in the buffer."""
        self._stalled = False
        self._advance()

    def alive(self) -> bool:
        """
        Return whether the client is still there.

        The event loop may not have seen the client's goodbye yet, so the system is asked.
        """
        if self._transport.is_closing():
            return False
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), _HANG_UP)
        return not poll.poll(0)

    def answered(self, response: Response) -> None:
        """Write the answer to the current request; the next one gets its turn."""
        parked = self._exchange is not None
        self._exchange = None
        self._write(response)
        if parked:
            # Not from here: the caller is in the middle of handing out messages.
            asyncio.get_running_loop().call_soon(self._advance)

    def shut(self) -> None:
        """Close once everything written is sent; a request that is not answered never is."""
        self._closing = True
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def reset(self) -> None:
        """Close at once, so that the client is told of a reset and not of an end."""
        self._closing = True
        linger = struct.pack("ii", 1, 0)
        self._transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, linger
        )
        self._transport.abort()

    def _advance(self) -> None:
        while not (self._closing or self._stalled or self._exchange is not None):
            try:
                request = self._next()
            except _Refused as refused:
                self._closing = True
                self._write(refused.response)
                return
            if request is None:
                self._transport.resume_reading()
                return
            self._handle(request)

    def _handle(self, request: Request) -> None:
        exchange = Exchange(self)
        cancel = self._service.handle(request, exchange)
        if not exchange.answered:
            exchange.cancel = cancel
            self._exchange = exchange

    def _next(self) -> Request | None:
        if self._head is None:
            self._head = self._read_head()
        head = self._head
        if head is None or len(self._buffer) < head.length:
            return None
        body = bytes(self._buffer[: head.length])
        del self._buffer[: head.length]
        return Request(head.method, head.path, head.headers, body)

    def _read_head(self) -> _Head | None:
        buffer = self._buffer
        while buffer[:2] == b"\r\n":  # RFC 9112, 2.2: empty lines before a request
            del buffer[:2]
        end = buffer.find(b"\r\n\r\n", 0, _HEAD_LIMIT)
        if end < 0:
            if len(buffer) >= _HEAD_LIMIT:
                raise _bad(431, f"Headers are limited to {_HEAD_LIMIT} bytes.")
            return None
        head = _parse_head(bytes(buffer[:end]))
        del buffer[: end + 4]
        refusal = self._service.check(head.headers)
        if refusal is not None:
            raise _Refused(refusal)
        expected = head.headers.get("expect", "").lower() == "100-continue"
        if expected and len(buffer) < head.length:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return head

    def _write(self, response: Response) -> None:
        head, self._head = self._head, None
        if head is None or not head.keep_alive:
            self._closing = True
        status = HTTPStatus(response.status)
        lines = [f"HTTP/1.1 {status.value} {status.phrase}"]
        lines += [f"{name}: {value}" for name, value in response.headers.items()]
        lines += [f"Content-Length: {len(response.body)}"]
        lines += ["Connection: close"] if self._closing else []
        body = b"" if head is not None and head.method == "HEAD" else response.body
        self._transport.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        if self._closing:
            self._transport.close()


def _bad(status: int, text: str) -> _Refused:
    headers = {"Content-Type": "text/plain; charset=utf-8"}
    return _Refused(Response(status, text.encode(), headers))


def _parse_head(data: bytes) -> _Head:
    first, *lines = data.split(b"\r\n")
    match = _REQUEST_LINE.fullmatch(first)
    if match is None:
        raise _bad(400, "The request line is not one of HTTP/1.1.")
    headers: dict[str, str] = {}
    for line in lines:
        header = _HEADER.fullmatch(line)
        if header is None:
            raise _bad(400, "A header is malformed.")
        name = header[1].decode().lower()
        if name in headers and name in ("content-length", "host"):
            raise _bad(400, f"There is more than one {name}.")
        headers[name] = header[2].decode("latin-1").rstrip(" \t")
    modern = match[3] == b"1"
    tokens = {token.strip() for token in headers.get("connection", "").lower().split(",")}
    return _Head(
        method=match[1].decode(),
        path=match[2].decode(),
        headers=headers,
        length=_length(headers),
        keep_alive=modern and "close" not in tokens,
    )


def _length(headers: Mapping[str, str]) -> int:
    if "transfer-encoding" in headers:
        raise _bad(411, "A body needs a Content-Length; chunks are not read.")
    text = headers.get("content-length", "0")
    if not re.fullmatch("[0-9]{1,10}", text):
        raise _bad(400, "Content-Length is not a number.")
    if int(text) > BODY_LIMIT:
        raise _bad(413, f"A body is limited to {BODY_LIMIT} bytes.")
    return int(text)

"""
POSTs over kept connections, and nothing else of HTTP.

One envelope is one POST. A general client took 0.8 ms of CPU for each, more than making the event;
this takes a tenth of it. What it does not know, a proxy or a redirect, is left to the general one.
"""

import socket
import ssl
import weakref
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple

__all__ = ["Answer", "Posts"]

#: Bytes of an answer's head, and of its body, that are read.
_HEAD: Final = 64 * 1024
_BODY: Final = 1024 * 1024
_RECEIVE: Final = 64 * 1024


class Headers(dict[str, str]):
    """The headers of an answer; their names are kept in lower case and found in any."""

    def get(self, name: str, default: Any = None) -> Any:
        """Return a header's value."""
        return super().get(name.lower(), default)


class Answer(NamedTuple):
    """What came back, named as urllib3 names it."""

    status: int
    headers: Headers
    data: bytes

    def close(self) -> None:
        """Do nothing: the answer is read."""


class _Stale(ConnectionError):
    """A kept connection was closed by the other side before it answered."""


class Posts:
    """The connections to one host; several threads may post at the same time."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None,
        timeout: float,
        socket_options: Iterable[tuple[int, int, Any]] = (),
    ) -> None:
        """
        Set where to.

        Args:
            tls: How to speak TLS; None for plain HTTP.
            timeout: Seconds that connecting, and each wait for bytes, may take.
            socket_options: As ``setsockopt()`` takes them.
        """
        self._host = host
        self._port = port
        self._tls = tls
        self._timeout = timeout
        self._options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), *socket_options]
        self._idle: deque[socket.socket] = deque()  # the last one used is used first
        self._closed = False
        weakref.finalize(self, _close_all, self._idle)  # as urllib3's pool does for its own
        bracketed = f"[{host}]" if ":" in host else host
        self._host_header = bracketed if port in (80, 443) else f"{bracketed}:{port}"

    def post(self, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """
        Send *body* and return the answer.

        Raises:
            OSError: The host cannot be reached, or does not answer in time or in HTTP.
        """
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        request = (
            f"POST {target} HTTP/1.1\r\nHost: {self._host_header}\r\n"
            f"Content-Length: {len(body)}\r\n{lines}\r\n"
        ).encode("latin-1") + body
        while (kept := self._kept()) is not None:
            with suppress(_Stale):
                return self._exchange(kept, request)
        return self._exchange(self._connect(), request)

    def _kept(self) -> socket.socket | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def close(self) -> None:
        """Keep no connection any longer; those in use are closed when they are done."""
        self._closed = True
        _close_all(self._idle)

    def _connect(self) -> socket.socket:
        connection = socket.create_connection((self._host, self._port), self._timeout)
        try:
            for option in self._options:
                connection.setsockopt(*option)
            if self._tls is None:
                return connection
            return self._tls.wrap_socket(connection, server_hostname=self._host)
        except BaseException:
            connection.close()
            raise

    def _exchange(self, connection: socket.socket, request: bytes) -> Answer:
        try:
            answer, kept = _exchanged(connection, request)
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection) if kept else connection.close()
        if self._closed:
            self.close()
        return answer


def _close_all(connections: deque[socket.socket]) -> None:
    with suppress(IndexError):
        while True:
            connections.pop().close()


def _exchanged(connection: socket.socket, request: bytes) -> tuple[Answer, bool]:
    """Return the answer to *request*, and whether the connection may be used again."""
    try:
        connection.sendall(request)
        received = connection.recv(_RECEIVE)
    except (ConnectionError, ssl.SSLEOFError) as exc:
        raise _Stale from exc
    if not received:
        raise _Stale
    while b"\r\n\r\n" not in received:
        received += _more(connection, received, _HEAD)
    head, _, body = received.partition(b"\r\n\r\n")
    status, headers = _parsed(head)
    length = headers.get("content-length", "0" if status in (204, 304) else "")
    if length.isascii() and length.isdigit():
        while len(body) < int(length):
            body += _more(connection, body, _BODY)
        kept = len(body) == int(length) and headers.get("connection", "").lower() != "close"
        return Answer(status, headers, body[: int(length)]), kept
    # In chunks, or up to the end: nobody reads such a body, so neither do we.
    return Answer(status, headers, body), False


def _more(connection: socket.socket, received: bytes, limit: int) -> bytes:
    more = connection.recv(_RECEIVE)
    if not more or len(received) + len(more) > limit:
        raise ConnectionError("The answer broke off." if not more else "The answer is too long.")
    return more


def _parsed(head: bytes) -> tuple[int, Headers]:
    first, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    if not version.startswith("HTTP/1.") or not rest[:3].isdigit():
        raise ConnectionError("The answer is not HTTP.")
    pairs = (line.partition(":") for line in lines)
    headers = Headers((name.strip().lower(), value.strip()) for name, _, value in pairs)
    return int(rest[:3]), headers

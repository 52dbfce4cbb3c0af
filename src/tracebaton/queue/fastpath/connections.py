"""
Kept connections to one endpoint, and one exchange over one of them, on blocking sockets.

The errors are botocore's, mapped as its own HTTP session maps urllib3's, because its retry rules
and its callers know those.
"""

import select
import socket
import ssl
import time
import weakref
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

from botocore.exceptions import (
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ReadTimeoutError,
    SSLError,
)

from tracebaton.queue.fastpath.http1 import BadAnswer, Reply, ReplyReader

__all__ = ["Connections", "Limits"]

#: Bytes read at once.
_PIECE = 256 * 1024
#: Seconds after which an idle connection is not trusted: a NAT gateway forgets it after 350 s, and
#: what is sent into a forgotten one hangs until the read timeout.
_IDLE_SECONDS = 240.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """
    What a client's configuration says of its connections.

    Attributes:
        kept: Idle connections that are kept at most.
        keepalive: Let TCP probe an idle connection.
    """

    connect_timeout: float
    read_timeout: float
    kept: int
    keepalive: bool


class _Connection:
    """One socket and when it was last used."""

    __slots__ = ("socket", "used_at")

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.used_at = 0.0

    @property
    def alive(self) -> bool:
        """Tell whether nothing has come: what comes uncalled for is the end, or not ours."""
        if time.monotonic() - self.used_at > _IDLE_SECONDS:
            return False
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return not poll.poll(0)


class Connections:
    """A pool of connections to one host, as many as there are exchanges at once."""

    def __init__(
        self, url: str, address: tuple[str, int], *, limits: Limits, tls: ssl.SSLContext | None
    ) -> None:
        """
        Set where to.

        Args:
            url: The endpoint, for the text of errors.
            tls: How to check who answers; None for plain HTTP.
        """
        self._url = url
        self._address = address
        self._limits = limits
        self._tls = tls
        # The newest first: what is not needed any more grows old and is dropped.
        self._idle: deque[_Connection] = deque()
        self._closed = False
        # A client that nobody closed still closes its connections, as urllib3's pools do.
        weakref.finalize(self, _close_all, self._idle)

    def exchange(self, request: bytes, *, read_timeout: float | None = None) -> Reply:
        """
        Send *request* and return the answer.

        Raises:
            HTTPClientError: One of botocore's, by what went wrong.
        """
        connection = self._taken()
        connection.socket.settimeout(read_timeout or self._limits.read_timeout)
        try:
            reply = self._exchange(connection.socket, request)
        except BaseException:
            connection.socket.close()
            raise
        if reply.reusable and not self._closed and len(self._idle) < self._limits.kept:
            connection.used_at = time.monotonic()
            self._idle.append(connection)
        else:
            connection.socket.close()
        return reply

    def close(self) -> None:
        """Close what is idle; an exchange under way closes its own connection."""
        self._closed = True
        _close_all(self._idle)

    def _taken(self) -> _Connection:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return _Connection(self._connected())
            if connection.alive:
                return connection
            connection.socket.close()

    def _connected(self) -> socket.socket:
        plain = None
        try:
            plain = socket.create_connection(self._address, self._limits.connect_timeout)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._limits.keepalive:
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if self._tls is None:
                return plain
            return self._tls.wrap_socket(plain, server_hostname=self._address[0])
        except BaseException as exc:
            if plain is not None:
                plain.close()
            if isinstance(exc, ssl.SSLError | ssl.CertificateError):
                raise SSLError(endpoint_url=self._url, error=exc) from exc
            if isinstance(exc, TimeoutError):
                raise ConnectTimeoutError(endpoint_url=self._url, error=exc) from exc
            if isinstance(exc, OSError):
                raise EndpointConnectionError(endpoint_url=self._url, error=exc) from exc
            raise

    def _exchange(self, connected: socket.socket, request: bytes) -> Reply:
        reader = ReplyReader()
        try:
            with suppress(BrokenPipeError):  # it may have answered before it had read everything
                connected.sendall(request)
            while data := connected.recv(_PIECE):
                reply = reader.feed(data)
                if reply is not None:
                    return reply
            if (reply := reader.end()) is not None:
                return reply
        except TimeoutError as exc:
            raise ReadTimeoutError(endpoint_url=self._url, error=exc) from exc
        except ssl.SSLEOFError as exc:
            raise ConnectionClosedError(endpoint_url=self._url, error=exc) from exc
        except ssl.SSLError as exc:
            raise SSLError(endpoint_url=self._url, error=exc) from exc
        except OSError as exc:
            raise ConnectionClosedError(endpoint_url=self._url, error=exc) from exc
        except BadAnswer as exc:
            raise HTTPClientError(error=exc) from exc
        raise ConnectionClosedError(
            endpoint_url=self._url, error=EOFError("The connection ended before the answer did.")
        )


def _close_all(idle: deque[_Connection]) -> None:
    while idle:
        idle.pop().socket.close()

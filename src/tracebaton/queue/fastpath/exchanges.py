"""
Kept connections to one endpoint on the event loop: the same exchange, without a thread.

A caller that is cancelled does not cut its exchange: the answer is read to its end, and the
connection is kept, as when a thread makes the call. A `Cut` does.
"""

import asyncio
import socket
import ssl
from collections import deque
from typing import cast

from botocore.exceptions import (
    BotoCoreError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ReadTimeoutError,
    SSLError,
)

from tracebaton.queue.fastpath.connections import Limits
from tracebaton.queue.fastpath.http1 import BadAnswer, Reply, ReplyReader

__all__ = ["Cut", "Exchanges"]


class Cut:
    """
    Ends one exchange by closing its connection, for a call that may wait as long as it likes.

    Attributes:
        made: Whether that was asked for; nothing is tried again then.
    """

    def __init__(self) -> None:
        self.made: bool = False
        self.wire: _Wire | None = None

    def __call__(self) -> None:
        """Close the connection, if the exchange is under way or still to come."""
        self.made = True
        if self.wire is not None:
            self.wire.close()


class Exchanges:
    """A pool of connections to one host, on one loop."""

    def __init__(
        self, url: str, address: tuple[str, int], *, limits: Limits, tls: ssl.SSLContext | None
    ) -> None:
        """Set where to; the arguments are those of `Connections`."""
        self._url = url
        self._address = address
        self._limits = limits
        self._tls = tls
        self._loop: asyncio.AbstractEventLoop | None = None
        self._all: set[_Wire] = set()
        # The newest first: what is not needed any more grows old and is ended by the server.
        self._idle: deque[_Wire] = deque()

    async def exchange(self, request: bytes, *, cut: Cut | None = None) -> Reply:
        """
        Send *request* and return the answer, unless *cut* comes first.

        Raises:
            BotoCoreError: One of botocore's, by what went wrong.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # connections do not outlive the loop they were made on
            self._loop = loop
            self._idle.clear()
        wire = self._kept() or await self._connected(loop)
        if cut is None:
            return await wire.ask(request)
        cut.wire, answer = wire, wire.ask(request)
        if cut.made:
            wire.close()
        try:
            return await answer
        finally:
            cut.wire = None

    def close(self) -> None:
        """Close every connection, those with a call under way too."""
        for wire in list(self._all):
            wire.close()
        self._idle.clear()

    def done(self, wire: "_Wire") -> None:
        """Keep *wire* for the next exchange."""
        if len(self._idle) < self._limits.kept:
            self._idle.append(wire)
        else:
            wire.close()

    def gone(self, wire: "_Wire") -> None:
        """Forget *wire*."""
        self._all.discard(wire)

    def _kept(self) -> "_Wire | None":
        while self._idle:
            wire = self._idle.pop()
            if wire.open:
                return wire
        return None

    async def _connected(self, loop: asyncio.AbstractEventLoop) -> "_Wire":
        host, port = self._address
        name = host if self._tls is not None else None
        try:
            async with asyncio.timeout(self._limits.connect_timeout):
                _, wire = await loop.create_connection(
                    lambda: _Wire(self, self._url, self._limits),
                    *(host, port),
                    ssl=self._tls,
                    server_hostname=name,
                )
        except TimeoutError as exc:
            raise ConnectTimeoutError(endpoint_url=self._url, error=exc) from exc
        except ssl.SSLError as exc:
            raise SSLError(endpoint_url=self._url, error=exc) from exc
        except OSError as exc:
            raise EndpointConnectionError(endpoint_url=self._url, error=exc) from exc
        self._all.add(wire)
        return wire


class _Wire(asyncio.Protocol):
    """One connection, with at most one exchange on it."""

    def __init__(self, pool: Exchanges, url: str, limits: Limits) -> None:
        self._pool = pool
        self._url = url
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = ReplyReader()
        self._answer: asyncio.Future[Reply] | None = None
        self._timer: asyncio.TimerHandle | None = None
        #: When bytes last moved, and how many were left to send then.
        self._moved_at, self._unsent = 0.0, 0

    @property
    def open(self) -> bool:
        """Tell whether an exchange can be begun."""
        return self._transport is not None and not self._transport.is_closing()

    def ask(self, request: bytes) -> "asyncio.Future[Reply]":
        """Send *request*; the future is its answer, and cancelling it cuts nothing."""
        assert self._transport is not None
        self._answer = answer = self._loop.create_future()
        self._reader = ReplyReader()
        self._transport.write(request)
        if self._limits.read_timeout is not None:
            self._moved_at = self._loop.time()
            self._unsent = self._transport.get_write_buffer_size()
            self._timer = self._loop.call_later(self._limits.read_timeout, self._look)
        return answer

    def close(self) -> None:
        """Close the connection; who waits for an answer has an error."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._limits.keepalive:
            plain = transport.get_extra_info("socket")
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        if self._answer is None:
            self.close()  # what comes uncalled for belongs to nobody
            return
        self._moved_at = self._loop.time()
        try:
            reply = self._reader.feed(data)
        except BadAnswer as exc:
            self._fail(HTTPClientError(error=exc))
            return
        if reply is not None:
            self._settle(reply)

    def eof_received(self) -> None:
        reply = self._reader.end() if self._answer is not None else None
        if reply is not None:
            self._settle(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._pool.gone(self)
        error = exc or EOFError("The connection ended before the answer did.")
        self._fail(ConnectionClosedError(endpoint_url=self._url, error=error))

    def _look(self) -> None:
        """Give up if nothing has moved for the read timeout; else look again when it could be."""
        assert self._limits.read_timeout is not None
        unsent = self._transport.get_write_buffer_size() if self._transport is not None else 0
        if unsent != self._unsent:
            self._moved_at, self._unsent = self._loop.time(), unsent
        left = self._moved_at + self._limits.read_timeout - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            error = TimeoutError("Nothing came in time.")
            self._fail(ReadTimeoutError(endpoint_url=self._url, error=error))

    def _settle(self, reply: Reply) -> None:
        answer = self._over()
        assert self._transport is not None
        # With some of the request unsent, the rest of it would be taken for the next one.
        if reply.reusable and not self._transport.get_write_buffer_size():
            self._pool.done(self)
        else:
            self._transport.close()
        if answer is not None and not answer.done():
            answer.set_result(reply)

    def _fail(self, error: BotoCoreError) -> None:
        answer = self._over()
        self.close()
        if answer is not None and not answer.done():
            answer.set_exception(error)

    def _over(self) -> "asyncio.Future[Reply] | None":
        answer, self._answer = self._answer, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return answer

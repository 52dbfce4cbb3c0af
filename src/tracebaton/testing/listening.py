"""
What listens on loopback in a test run: a server, its port, and the connections it has.
"""

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from tracebaton.local.http1 import Connection, Response, Service

__all__ = ["Listening"]


class Listening(Service):
    """A service that refuses no request; a context manager, and who inherits it answers."""

    def __init__(self, *, port: int = 0) -> None:
        """Set where to listen, 0 for any free port."""
        self._port = port
        self._connections: set[Connection] = set()

    async def __aenter__(self) -> Self:
        """Listen."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close every connection."""
        self._server.close()
        for connection in list(self._connections):
            connection.abort()

    def check(self, headers: Mapping[str, str]) -> Response | None:
        """Refuse nothing."""
        return None

    def opened(self, connection: Connection) -> None:
        """Take note of a new connection."""
        self._connections.add(connection)

    def closed(self, connection: Connection) -> None:
        """Take note that a connection is gone."""
        self._connections.discard(connection)

"""
A Sentry intake on loopback that keeps which tasks errors were reported of.

Workers send to it as they do to Sentry, over the wire: what arrives twice or never is seen.
"""

import asyncio
import gzip
import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from tracebaton.local.http1 import Connection, Exchange, Request, Response

__all__ = ["ErrorIntake"]


class ErrorIntake:
    """
    An intake at a free port of loopback.

    Attributes:
        heard: The ids of the error events of each task. One that was posted twice counts once, as
            it does for Sentry.
    """

    def __init__(self) -> None:
        self.heard: dict[str, set[str]] = defaultdict(set)
        self._port = 0
        self._connections: set[Connection] = set()

    @property
    def dsn(self) -> str:
        """Return the DSN to configure."""
        return f"http://chaos@127.0.0.1:{self._port}/1"

    async def __aenter__(self) -> Self:
        """Listen."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), "127.0.0.1", 0)
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

    def handle(self, request: Request, exchange: Exchange) -> Callable[[], None] | None:
        """Keep the error events of the envelope that *request* is."""
        body = request.body
        if request.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        for event in _errors(body):
            tags = dict(event.get("tags") or {})
            self.heard[str(tags.get("task_id"))].add(str(event.get("event_id")))
        exchange.respond(Response.of_json(200, {}))
        return None


def _errors(body: bytes) -> list[Mapping[str, Any]]:
    """Return the error events of an envelope: https://develop.sentry.dev/sdk/envelopes/."""
    _, _, rest = body.partition(b"\n")
    events = []
    while rest:
        line, _, rest = rest.partition(b"\n")
        header = json.loads(line or b"{}")
        length = header.get("length", len(rest.partition(b"\n")[0]))
        payload, rest = rest[:length], rest[length:].removeprefix(b"\n")
        if header.get("type") == "event":
            events.append(json.loads(payload))
    return events

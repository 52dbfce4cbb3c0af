"""
A Sentry intake on loopback that keeps which tasks errors were reported of.

Workers send to it as they do to Sentry, over the wire: what arrives twice or never is seen.
"""

import gzip
import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from tracebaton.local.http1 import Exchange, Request, Response
from tracebaton.testing.listening import Listening

__all__ = ["ErrorIntake"]


class ErrorIntake(Listening):
    """
    An intake at a free port of loopback.

    Attributes:
        heard: The ids of the error events of each task. One that was posted twice counts once, as
            it does for Sentry.
    """

    def __init__(self) -> None:
        super().__init__()
        self.heard: dict[str, set[str]] = defaultdict(set)

    @property
    def dsn(self) -> str:
        """Return the DSN to configure."""
        return f"http://chaos@127.0.0.1:{self._port}/1"

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

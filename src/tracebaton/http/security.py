"""
What a browser is told of every answer: whose it is, what it is, and who may show it.

An application's own headers stand. On pages there is no script policy of ours, since a page may
need anything; that nobody frames it is asked for where it says nothing itself.
"""

from collections.abc import Iterable
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["SecurityLayer"]

_Header = tuple[bytes, bytes]

_ON_ALL: Final[tuple[_Header, ...]] = (
    # A browser takes the declared type at its word.
    (b"x-content-type-options", b"nosniff"),
    # It is one user's: no proxy keeps it, and a browser asks before it shows it again.
    (b"cache-control", b"private, no-cache"),
)
_ON_PAGES: Final[tuple[_Header, ...]] = (
    *_ON_ALL,
    (b"content-security-policy", b"frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
)


class SecurityLayer:
    """Adds the headers that an answer needs and does not have."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand around *app*."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def adding(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": _secured(message.get("headers", ()))}
            await send(message)

        await self.app(scope, receive, adding)


def _secured(given: Iterable[_Header]) -> list[_Header]:
    headers = list(given)
    values = {name.lower(): value for name, value in headers}
    is_page = values.get(b"content-type", b"").lower().startswith(b"text/html")
    wanted = _ON_PAGES if is_page else _ON_ALL
    headers += [header for header in wanted if header[0] not in values]
    return headers

"""
Who may talk to the viewer: a browser tab or a process of this machine that meant to.

Listening on loopback does not keep web pages out: any site may post to 127.0.0.1, and DNS rebinding
lets it read the answer under a name of its own. The ``Host`` and ``Origin`` headers tell.
"""

import json
import re
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tracebaton.errors import Forbidden
from tracebaton.problems import outcome_of, problem

__all__ = ["SECURITY_HEADERS", "LoopbackGuard", "is_loopback_host", "is_loopback_origin", "refusal"]

LOOPBACK: Final = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?", re.IGNORECASE)

#: No foreign origin, no inline script: even a hole in the page could not call out.
POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
    )
)
SECURITY_HEADERS: Final = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


def is_loopback_host(host: str) -> bool:
    """Tell whether a ``Host`` header names this machine, whatever the port."""
    return LOOPBACK.fullmatch(host) is not None


def is_loopback_origin(origin: str) -> bool:
    """Tell whether an ``Origin`` header is a page of this machine; ``null`` is not."""
    scheme, _, host = origin.partition("://")
    return scheme in ("http", "https") and is_loopback_host(host)


def refusal(exc: Exception, path: str) -> Response:
    """Return the problem document of *exc*, with the headers of every other answer."""
    outcome = outcome_of(exc)
    body = problem(outcome, instance=path, correlation_id=None, trace_id=None)
    return Response(
        json.dumps(body),
        status_code=outcome.status,
        media_type="application/problem+json",
        headers=SECURITY_HEADERS | dict(outcome.headers or {}),
    )


def _foreign(headers: Headers) -> str | None:
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not is_loopback_host(hosts[0]):
        return "the viewer answers as localhost, 127.0.0.1 or [::1] only"
    if not all(is_loopback_origin(origin) for origin in headers.getlist("origin")):
        return "the viewer answers pages of this machine only"
    return None


class LoopbackGuard:
    """Refuses foreign hosts and origins, and adds the page's security headers to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand in front of *app*."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403, or pass the request on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if reason := _foreign(Headers(scope=scope)):
            await refusal(Forbidden(reason), scope["path"])(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY_HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers)

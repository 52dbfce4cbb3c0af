"""
The outermost layer of an app: the request store around it, its answer's ids, and the access line.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio
from opentelemetry import context as otel
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tracebaton.context import RequestStore, attach, detach
from tracebaton.events import say
from tracebaton.http.exchange import STARTS, Exchange, exchange_of, read_headers
from tracebaton.http.instrumented import readable
from tracebaton.problems import Reporter
from tracebaton.redaction import redact_text
from tracebaton.semconv import (
    EVENT_HTTP_REQUEST,
    EVENT_TELEMETRY_FAILED,
    TRACERESPONSE,
    X_CORRELATION_ID,
)

__all__ = ["RequestLayer"]

_log = logging.getLogger("tracebaton.http")
_KINDS: Final = frozenset({"http", "websocket"})
_CORRELATION, _RESPONSE = X_CORRELATION_ID.encode(), TRACERESPONSE.encode()
#: Seconds after which a request's end asks whether its caller is still there: few give up sooner,
#: and asking costs a turn of the event loop.
_PATIENCE: Final = 0.25


class RequestLayer:
    """The outermost layer: enters the request store, and says at the end how the request went."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        quiet: ASGIApp,
        bare: ASGIApp,
        route: Callable[[Scope], str | None],
        reporter: Reporter,
        store: type[RequestStore],
    ) -> None:
        """
        Stand around *app*.

        Args:
            quiet: The same app without its instrumentation, for paths that leave no trace.
            bare: The app without our layers, for what is no request of its own.
            route: Tells the template of the route that a request will take.
            reporter: Where failures go.
            store: The request store's class.
        """
        self.app = app  # FastAPI looks for the instrumentation along this name
        self._quiet = quiet
        self._bare = bare
        self._route = route
        self._reporter = reporter
        self._store = store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass on what is none."""
        if scope["type"] not in _KINDS or exchange_of(scope) is not None:
            await self._bare(scope, receive, send)
            return
        headers = read_headers(scope["headers"])
        with self._reporter.isolated():
            # A fresh context: whatever task, connection or thread this runs on, nothing is
            # inherited.
            token = attach(self._store(correlation_id=headers.correlation_id))
            try:
                exchange = Exchange(scope, route=self._route(scope), headers=headers)
                try:
                    await self._answer(exchange, scope, receive, send)
                finally:
                    _log_request(exchange)
            finally:
                detach(token)
        if exchange.escaped is not None and not exchange.complete:
            raise exchange.escaped

    async def _answer(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        async def noting_receive() -> Message:
            message = await receive()
            exchange.received(message)
            return message

        async def noting_send(message: Message) -> None:
            if message["type"] in STARTS:
                message = {**message, "headers": _with_ids(message.get("headers", ()), exchange)}
            elif _is_last(message) and exchange.seconds > _PATIENCE:
                await _ask_whether_gone(noting_receive)
            exchange.sent(message)
            try:
                await send(message)
            except OSError as exc:  # ASGI's way to say that the connection is gone
                exchange.left()
                exchange.unsent = exc
                raise
            if exchange.complete and exchange.kind == "http":
                _log_request(exchange)

        if exchange.quiet:
            await self._quiet(scope, noting_receive, noting_send)
            return
        try:
            await self.app(
                readable(scope) if exchange.garbled else scope, noting_receive, noting_send
            )
        except Exception:
            if exchange.entered:
                raise
            # Telemetry never costs a request: an owner's hook of the instrumentation failed, say.
            _log.warning(EVENT_TELEMETRY_FAILED, exc_info=True)
            await self._quiet(scope, noting_receive, noting_send)


def _is_last(message: Message) -> bool:
    return message["type"] == "http.response.body" and not message.get("more_body", False)


async def _ask_whether_gone(receive: Receive) -> None:
    """Take what the server has to say without waiting; whoever reads it notes a disconnect."""
    on_asyncio = _runs_on_asyncio()
    if on_asyncio:
        await asyncio.sleep(0)  # the server may have something to read
    for _ in range(2):  # before it there may be a body that the app did not read
        if not on_asyncio:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await receive()
        elif not _is_there(receive()):
            return


def _runs_on_asyncio() -> bool:
    try:
        return asyncio.current_task() is not None
    except RuntimeError:  # no loop of asyncio's: trio
        return False


def _is_there(message: Awaitable[Message]) -> bool:
    """
    Tell whether a *message* comes at once, and give it up otherwise.

    By its first step, which costs a twentieth of a cancelled scope: there a whole traceback of
    asyncio's is made, and the task's name with it.
    """
    step = message.__await__()
    try:
        next(step)
    except StopIteration:
        return True
    getattr(step, "close", lambda: None)()
    return False


def _with_ids(headers: Any, exchange: Exchange) -> list[tuple[bytes, bytes]]:
    """Return *headers* with the ids of the request; an app's own correlation id gives way."""
    kept, says_trace = [], False
    for pair in headers:
        name = pair[0].lower()
        if name != _CORRELATION:
            kept.append((pair[0], pair[1]))
        says_trace = says_trace or name == _RESPONSE
    kept.append((_CORRELATION, (exchange.store.correlation_id or "").encode()))
    ids = exchange.span.get_span_context()
    if ids.is_valid and not says_trace:
        text = f"00-{ids.trace_id:032x}-{ids.span_id:016x}-{ids.trace_flags:02x}"
        kept.append((_RESPONSE, text.encode()))
    if exchange.ambiguous:
        kept.append((b"connection", b"close"))
    return kept


def _log_request(exchange: Exchange) -> None:
    """Write the access line, once, with the ids and the span of the request."""
    if exchange.logged or exchange.quiet:
        return
    exchange.logged = True
    fields: dict[str, Any] = {
        "method": redact_text(exchange.method),
        "path": redact_text(exchange.path),
        "route": exchange.route,
        "status": exchange.status,
        "duration_ms": round(exchange.seconds * 1000, 3),
        "bytes": exchange.bytes_sent,
        "client": exchange.client and redact_text(exchange.client),
    }
    if exchange.disconnected:
        fields["disconnected"] = True
    if exchange.close_code is not None:
        fields["close_code"] = exchange.close_code
    token = otel.attach(exchange.context)
    try:
        say(_log, EVENT_HTTP_REQUEST, fields, clean=True)
    finally:
        otel.detach(token)

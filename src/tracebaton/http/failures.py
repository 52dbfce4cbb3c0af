"""
The one error story of a request: what is recorded, logged, reported and answered when it fails.

An exception reaches this module in one of three ways: it leaves the app (`ErrorLayer`), an
exception handler of the app turns it into a response (`noting()`), or the answer to it fails too
(`Failures.settle()` from outside). Whatever way it comes, it is told exactly once.
"""

import inspect
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, ExceptionHandler, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from tracebaton import problems
from tracebaton.errors import HeadersTooLarge
from tracebaton.http.answers import http_outcome, problem_document, problem_response
from tracebaton.http.exchange import Exchange, exchange_of
from tracebaton.problems import Outcome, Reporter
from tracebaton.semconv import ERROR_TYPE, EVENT_HTTP_ERROR, EVENT_TELEMETRY_FAILED

__all__ = ["ErrorLayer", "Failures", "noting"]

_log = logging.getLogger("tracebaton.http")
_LEVELS: Final = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
#: The close code of a server that failed (RFC 6455, 7.4.1).
_INTERNAL_ERROR: Final = 1011
#: What Starlette and Litestar raise in place of an exception that comes too late for its handler.
_TOO_LATE: Final = (
    "Caught handled exception, but response already started.",
    "Exception caught after response started",
)
#: The module whose exceptions are signals between Starlette's own layers.
_SIGNALS: Final = "starlette.middleware.body_limit"


class Failures:
    """Tells each failure once, to all who listen."""

    def __init__(self, reporter: Reporter, tracer: Tracer) -> None:
        """
        Tell them to *reporter*.

        Args:
            tracer: Makes the span of a background task that failed.
        """
        self._reporter = reporter
        self._tracer = tracer

    def tell(self, exchange: Exchange, exc: BaseException, *, status: int | None = None) -> Outcome:
        """
        Record, report and log *exc* once, and return what it means.

        Args:
            status: What the app's own exception handler answers.
        """
        if exchange.failure is exc and exchange.outcome is not None:
            return exchange.outcome
        outcome = http_outcome(exc, status=status)
        if outcome.status >= 400:
            token = otel.attach(exchange.context)  # whatever span the app left current
            try:
                self._tell(exchange, exc, outcome, exchange.span)
            finally:
                otel.detach(token)
        exchange.failure, exchange.outcome = exc, outcome
        return outcome

    async def settle(
        self, scope: Scope, receive: Receive, send: Send, exc: Exception, *, leave: bool
    ) -> None:
        """
        Tell *exc* and end the answer; raise it where only breaking the connection says the truth.

        Args:
            leave: Leave the answer to an unexpected failure to the app's own handler for it, which
                stands outside.
        """
        exchange = exchange_of(scope)
        if exchange is None or type(exc).__module__ == _SIGNALS:
            raise exc
        if isinstance(exc, ClientDisconnect | WebSocketDisconnect) or exc is exchange.unsent:
            exchange.left()
            return
        cause = _original(exc)
        if exchange.kind == "http" and exchange.complete:
            if exchange.failure is not cause:
                self._tell_background(exchange, cause)
            return
        outcome = self.tell(exchange, cause)
        if exchange.kind == "websocket":
            await _end_websocket(scope, receive, send, exc, outcome)
        elif not exchange.started:
            if leave and outcome.code == "internal":
                raise exc
            await problem_response(outcome, scope)(scope, receive, send)
        elif exchange.can_end_with_event:
            await send(_error_event(outcome, exchange))
        else:
            raise exc

    def _tell(
        self, exchange: Exchange, exc: BaseException, outcome: Outcome, span: trace.Span
    ) -> None:
        if outcome.status >= 500:
            problems.record(exc, outcome, span)
        event_id = self._report(exchange, exc, outcome) if outcome.reported else None
        fields: dict[str, Any] = {
            "method": exchange.method,
            "path": exchange.path,
            "route": exchange.route,
            "status": outcome.status,
            "code": outcome.code,
            "error_type": outcome.error_type,
            "retryable": outcome.retryable,
            "detail": outcome.detail,
        }
        if event_id is not None:
            fields["sentry_event_id"] = event_id
        unexpected = outcome.reported and not outcome.outage
        _log.log(
            _LEVELS[outcome.level],
            EVENT_HTTP_ERROR,
            extra={"fields": fields},
            exc_info=exc if unexpected else None,
        )

    def _report(self, exchange: Exchange, exc: BaseException, outcome: Outcome) -> str | None:
        tags = {"route": exchange.route} if exchange.route else {}
        try:
            return self._reporter.report(exc, outcome, mechanism="asgi", tags=tags)
        except Exception:  # a sink that is broken never changes a response (SPEC 6)
            _log.warning(EVENT_TELEMETRY_FAILED, exc_info=True)
            return None

    def _tell_background(self, exchange: Exchange, exc: Exception) -> None:
        """Give what failed after the answer a span of its own: the SERVER span has ended."""
        span = self._tracer.start_span(
            f"{exchange.method} {exchange.route or exchange.path} background",
            context=exchange.context,
            kind=SpanKind.INTERNAL,
            start_time=exchange.ended_ns,
        )
        with trace.use_span(span, end_on_exit=True):
            self._tell(exchange, exc, http_outcome(exc), span)
        exchange.failure = exc


class ErrorLayer:
    """Tells what leaves the app, or what the app's handlers answer, and answers what is left."""

    def __init__(self, app: ASGIApp, *, failures: Failures, leave: bool) -> None:
        """
        Stand around *app*.

        Args:
            leave: Whether the app has its own answer to unexpected failures.
        """
        self.app = app
        self._failures = failures
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        exchange = exchange_of(scope)
        if exchange is None:
            await self.app(scope, receive, send)
            return

        async def telling(message: Message) -> None:
            if exchange.handled is not None and "status" in message:
                exc, exchange.handled = exchange.handled, None
                self._failures.tell(exchange, exc, status=message["status"])
            await send(message)

        try:
            if exchange.too_large:
                raise HeadersTooLarge
            await self.app(scope, receive, telling)
        except Exception as exc:
            await self._failures.settle(scope, receive, send, exc, leave=self._leave)


def noting(handler: ExceptionHandler) -> Callable[[Any, Exception], Awaitable[Any]]:
    """Return *handler*, an exception handler, so that what it answers is told as well."""

    call: Callable[[Any, Exception], Any] = handler
    instance_call = getattr(handler, "__call__", None)  # noqa: B004  an async one counts too
    on_loop = inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(instance_call)

    async def noted(connection: Any, exc: Exception) -> Any:
        exchange = exchange_of(connection.scope)
        if exchange is not None:
            exchange.handled = exc
        if on_loop:
            return await call(connection, exc)
        return await run_in_threadpool(call, connection, exc)

    return noted


def mark_failed(exchange: Exchange) -> None:
    """Say again what failed, after the instrumentation wrote the status in its place."""
    if exchange.outcome is not None and exchange.outcome.status >= 500:
        exchange.span.set_attribute(ERROR_TYPE, exchange.outcome.error_type)
        exchange.span.set_status(Status(StatusCode.ERROR, exchange.outcome.code))


def _original(exc: Exception) -> Exception:
    while isinstance(cause := exc.__cause__, Exception) and str(exc).endswith(_TOO_LATE):
        exc = cause
    while isinstance(exc, ExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]  # the task group of a streaming response
    return exc


def _error_event(outcome: Outcome, exchange: Exchange) -> Message:
    """Return the last chunk of a stream; the blank line before it ends a half-written event."""
    document = json.dumps(problem_document(outcome, exchange), separators=(",", ":"))
    return {
        "type": "http.response.body",
        "body": f"\n\nevent: error\ndata: {document}\n\n".encode(),
        "more_body": False,
    }


async def _end_websocket(
    scope: Scope, receive: Receive, send: Send, exc: Exception, outcome: Outcome
) -> None:
    exchange = exchange_of(scope)
    if exchange is None or exchange.complete:
        return
    if exchange.started:
        await send({"type": "websocket.close", "code": _INTERNAL_ERROR, "reason": outcome.code})
    elif "websocket.http.response" in scope.get("extensions", {}):
        await problem_response(outcome, scope)(scope, receive, send)
    else:
        raise exc

"""
What is known of one HTTP request, or WebSocket connection, and of its answer while it runs.

One `Exchange` stands in the ASGI scope. The layers around the app and the layers inside it read and
write the same one, so that none of them has to wrap the app twice to learn what another one knows.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple
from urllib.parse import quote

from opentelemetry import context as otel
from opentelemetry import trace
from starlette.types import Message, Scope

from tracebaton.context import RequestStore, in_context, valid_correlation_id
from tracebaton.problems import Outcome
from tracebaton.semconv import (
    CLIENT_DISCONNECTED,
    QUIET_PATHS,
    WEBSOCKET_CLOSE_CODE,
    X_CORRELATION_ID,
    X_REQUEST_ID,
)

__all__ = ["Exchange", "exchange_in", "exchange_of", "read_headers"]

#: Where the exchange stands in the scope.
_KEY: Final = "tracebaton.exchange"
#: Bytes of all header names and values together that are answered (SPEC 6).
HEADER_LIMIT: Final = 32 * 1024
#: The ids a caller may send, the first valid one counts.
_ID_HEADERS: Final = (X_CORRELATION_ID.encode(), X_REQUEST_ID.encode())
#: What says how long a body is; both at once is how one request is smuggled inside another.
_LENGTHS: Final = frozenset({b"content-length", b"transfer-encoding"})
_NOTED: Final = _LENGTHS.union(_ID_HEADERS)
#: What RFC 3986 lets stand in a path.
_PATH_CHARACTERS: Final = "/:@!$&'()*+,;=~"

#: The messages that start an answer, and whether headers may be added to them.
STARTS: Final = frozenset(
    {"http.response.start", "websocket.accept", "websocket.http.response.start"}
)
_BODIES: Final = frozenset({"http.response.body", "websocket.http.response.body"})


class Headers(NamedTuple):
    """
    What a request's headers say to us.

    Attributes:
        correlation_id: The id the caller sent, None where there is no valid one or several.
        too_large: Whether they are over the limit together.
        garbled: Whether one of them may be no UTF-8 and no Python escape either.
        ambiguous: Whether they say the body's length in two ways.
    """

    correlation_id: str | None = None
    too_large: bool = False
    garbled: bool = False
    ambiguous: bool = False


class Exchange:
    """
    One request and its answer.

    Attributes:
        below: The path below that prefix, as the app's own routes see it.
        quiet: Whether the path leaves no trace: no span, no metric, no access line.
        route: The template of the matched route, None where none matched.
        context: The OpenTelemetry context of the request: its store, and its SERVER span once that
            has started.
        span: The SERVER span; an invalid one on a quiet path or where tracing is off.
        status: The status of the answer, None before it started.
        complete: Whether the last byte was handed to the server.
        ended_ns: When that was, in nanoseconds since the epoch.
        entered: Whether the app was reached.
        disconnected: Whether the caller left before the answer was complete.
        close_code: The code a WebSocket was closed with.
        handled: An exception that an exception handler is turning into a response right now.
        failure: The exception that was told, and what it means.
        escaped: What left the app, on its way past the instrumentation to the server.
        unsent: What the server raised because nobody is there to send to.
        too_large: Whether the request's headers are over the limit together.
        garbled: Whether one of them may be neither UTF-8 nor a Python escape.
        ambiguous: Whether they say the body's length in two ways: then this request is the last one
            of its connection (RFC 9112, 6.1).
    """

    __slots__ = (
        "_began",
        "_encoded",
        "_stream",
        "_trailers",
        "ambiguous",
        "below",
        "bytes_sent",
        "client",
        "close_code",
        "complete",
        "context",
        "disconnected",
        "ended_ns",
        "entered",
        "escaped",
        "failure",
        "garbled",
        "handled",
        "kind",
        "logged",
        "method",
        "outcome",
        "path",
        "quiet",
        "route",
        "span",
        "status",
        "too_large",
        "unsent",
    )

    def __init__(self, scope: Scope, *, route: str | None, headers: Headers | None = None) -> None:
        """Begin with *scope*, in the context that is current now."""
        self.too_large: bool = headers is not None and headers.too_large
        self.garbled: bool = headers is not None and headers.garbled
        self.ambiguous: bool = headers is not None and headers.ambiguous
        self.kind: str = scope["type"]
        # A WebSocket begins as a GET (RFC 6455, 4.1) and ASGI does not say so.
        self.method: str = scope.get("method", "GET")
        self.path: str = scope["path"]
        client: Sequence[object] | None = scope.get("client")
        self.client: str | None = str(client[0]) if client else None
        self.route: str | None = route
        # A server that is told of a prefix writes it before the path (ASGI, root_path).
        self.below: str = self.path.removeprefix(scope.get("root_path", ""))
        self.quiet: bool = self.below in QUIET_PATHS
        self._began = time.perf_counter()
        self.context: otel.Context = otel.get_current()
        self.span: trace.Span = trace.INVALID_SPAN
        self.status: int | None = None
        self.bytes_sent: int = 0
        self.complete: bool = False
        self.ended_ns: int = 0
        self.entered: bool = False
        self.disconnected: bool = False
        self.close_code: int | None = None
        self.handled: Exception | None = None
        self.failure: BaseException | None = None
        self.outcome: Outcome | None = None
        self.escaped: BaseException | None = None
        self.unsent: OSError | None = None
        self.logged: bool = False
        self._stream = False
        self._encoded = False
        self._trailers = False
        scope[_KEY] = self

    @property
    def seconds(self) -> float:
        """Return how long ago the request came."""
        return time.perf_counter() - self._began

    @property
    def store(self) -> RequestStore:
        """Return the request's store as it is now."""
        return in_context(self.context)

    @property
    def trace_id(self) -> str | None:
        """Return the trace id in hex, None where the request is in no trace."""
        ids = self.span.get_span_context()
        return trace.format_trace_id(ids.trace_id) if ids.is_valid else None

    @property
    def instance(self) -> str:
        """Return the request's path as RFC 9457's ``instance``: a URI reference without query."""
        return quote(self.path, safe=_PATH_CHARACTERS)

    @property
    def started(self) -> bool:
        """Tell whether the answer started."""
        return self.status is not None

    @property
    def can_end_with_event(self) -> bool:
        """Tell whether a failure can still be told inside the body: an open, plain SSE stream."""
        return self._stream and not self._encoded and not self.complete

    def sent(self, message: Message) -> None:
        """Note a *message* of the app to the server."""
        kind = message["type"]
        if kind in STARTS:
            self._note_start(message)
        elif kind in _BODIES:
            self.bytes_sent += len(message.get("body", b""))
            if not message.get("more_body", False) and not self._trailers:
                self._end()
        elif kind == "http.response.pathsend" or (
            kind == "http.response.trailers" and not message.get("more_trailers", False)
        ):
            self._end()
        elif kind == "websocket.close":
            self.status = self.status or 403  # closed before accepted: the server answers that
            self._close(message.get("code", 1000))

    def received(self, message: Message) -> None:
        """Note a *message* of the server to the app."""
        if message["type"] == "http.disconnect":
            if not self.complete:  # after a complete answer it means nothing
                self.left()
        elif message["type"] == "websocket.disconnect":
            self._close(message.get("code", 1005))

    def left(self) -> None:
        """Say that the caller left: nothing failed, and nobody reads the answer."""
        self.disconnected = True
        self.span.set_attribute(CLIENT_DISCONNECTED, True)

    def _note_start(self, message: Message) -> None:
        if message["type"] == "websocket.accept":
            self.status = 101
            return
        self.status = message["status"]
        self._trailers = message.get("trailers", False)
        for name, value in message.get("headers", ()):
            key = name.lower()
            if key == b"content-type":
                self._stream = value.lower().startswith(b"text/event-stream")
            elif key in (b"content-encoding", b"content-length"):
                self._encoded = True

    def _close(self, code: int) -> None:
        self.close_code = code
        self.span.set_attribute(WEBSOCKET_CLOSE_CODE, code)
        self._end()

    def _end(self) -> None:
        self.complete = True
        self.ended_ns = time.time_ns()


def exchange_of(scope: Scope) -> Exchange | None:
    """Return the exchange that *scope* belongs to, None in an app that is not instrumented."""
    found = scope.get(_KEY)
    return found if isinstance(found, Exchange) else None


def exchange_in(scope: Scope) -> Exchange:
    """Return the exchange of *scope*, which passed through `RequestLayer`."""
    exchange: Exchange = scope[_KEY]
    return exchange


def read_headers(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return what *headers* say to us; they are looked through once."""
    size, garbled = 0, False
    given: dict[bytes, set[bytes]] = {}
    for name, value in headers:
        size += len(name) + len(value)
        if name in _NOTED:
            given.setdefault(name, set()).add(value)
        if b"\\" in value and not value.isascii():
            garbled = True
    return Headers(
        _correlation_id(given) if given else None,
        size > HEADER_LIMIT,
        garbled,
        ambiguous=given.keys() >= _LENGTHS,
    )


def _correlation_id(given: Mapping[bytes, set[bytes]]) -> str | None:
    for name in _ID_HEADERS:
        values = given.get(name, set())
        if len(values) == 1 and (found := valid_correlation_id(min(values).decode("latin-1"))):
            return found
    return None

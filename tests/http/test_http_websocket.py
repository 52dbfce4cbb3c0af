"""WebSockets: one span from the handshake to the close, the store, and the error story."""

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

from tracebaton import context
from tracebaton.errors import Forbidden
from tracebaton.http.middleware import instrument

CONNECT: Message = {"type": "websocket.connect"}


def said(text: str) -> Message:
    return {"type": "websocket.receive", "text": text}


def gone(code: int) -> Message:
    return {"type": "websocket.disconnect", "code": code}


async def talk(app: Any, *messages: Message, path: str = "/ws/7", **scope: Any) -> list[Message]:
    """Open a WebSocket to *app*, say *messages*, and return what it sent."""
    waiting = iter(messages)
    sent: list[Message] = []

    async def receive() -> Message:
        return next(waiting)

    async def send(message: Message) -> None:
        sent.append(message)

    handshake = {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost"), (b"x-correlation-id", b"c")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "subprotocols": [],
    }
    await app(handshake | scope, receive, send)
    return sent


def app_of(endpoint: Any, **options: Any) -> Starlette:
    return Starlette(routes=[Mount("/ws", routes=[WebSocketRoute("/{x}", endpoint)])], **options)


async def echo(socket: WebSocket) -> None:
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(f"{text} {context.current().correlation_id}")


async def test_a_socket_is_one_span_and_one_line(provider: Any, spans: Any, lines: Any) -> None:
    """Named by its route, however many messages; ids are in the answer to the handshake."""
    app = instrument(app_of(echo), tracer_provider=provider)
    sent = await talk(app, CONNECT, said("a"), said("b"), gone(1000))

    (span,) = spans()
    (line,) = lines.all
    headers = dict(sent[0]["headers"])
    assert span.name == span.attributes["http.route"] == "/ws/{x}"
    assert [message.get("text") for message in sent[1:]] == ["a c", "b c"]
    assert headers[b"x-correlation-id"] == b"c"
    assert headers[b"traceresponse"].split(b"-")[1].decode() == line["trace_id"]
    assert (line["method"], line["status"], line["close_code"]) == ("GET", 101, 1000)
    assert span.attributes["tracebaton.websocket.close_code"] == 1000


async def test_a_socket_without_a_route_has_a_name(provider: Any, spans: Any, lines: Any) -> None:
    """It is closed before it is accepted, which the server answers with 403."""
    app = instrument(app_of(echo), tracer_provider=provider)
    sent = await talk(app, CONNECT, path="/other")

    assert [message["type"] for message in sent] == ["websocket.close"]
    assert [span.name for span in spans()] == ["websocket"]
    assert [(line["status"], line["route"]) for line in lines.of("http.request")] == [(403, None)]


async def test_a_failure_closes_an_open_socket(
    provider: Any, spans: Any, lines: Any, reporter: Any
) -> None:
    """With 1011, told once, and nothing of it in the reason."""

    async def failing(socket: WebSocket) -> None:
        await socket.accept()
        raise LookupError("secret")

    app = instrument(app_of(failing), tracer_provider=provider, reporter=reporter)
    sent = await talk(app, CONNECT)

    (span,) = spans()
    assert sent[-1] == {"type": "websocket.close", "code": 1011, "reason": "internal"}
    assert span.attributes["error.type"] == "LookupError"
    assert span.attributes["tracebaton.websocket.close_code"] == 1011
    assert [event.name for event in span.events] == ["exception"]
    assert len(reporter.reports) == 1
    assert [line["event"] for line in lines.all] == ["http.error", "http.request"]


async def test_a_handshake_that_fails_is_answered_where_it_can_be(
    provider: Any, spans: Any, lines: Any
) -> None:
    """With a problem if the server can say one, else the exception is the server's to answer."""

    async def failing(socket: WebSocket) -> None:
        raise LookupError

    app = instrument(app_of(failing), tracer_provider=provider)
    sent = await talk(app, CONNECT, extensions={"websocket.http.response": {}})

    assert [message["type"] for message in sent] == [
        "websocket.http.response.start",
        "websocket.http.response.body",
    ]
    assert (sent[0]["status"], dict(sent[0]["headers"])[b"x-correlation-id"]) == (500, b"c")
    with pytest.raises(LookupError):
        await talk(app, CONNECT)
    assert [line["status"] for line in lines.of("http.request")] == [500, None]


@pytest.mark.parametrize("exc", [HTTPException(403), Forbidden()])
async def test_a_refused_handshake_is_a_problem(exc: Exception, lines: Any, reporter: Any) -> None:
    """Exceptions with a handler answer the handshake, and are told as what they are."""

    async def refusing(socket: WebSocket) -> None:
        raise exc

    app = instrument(app_of(refusing), reporter=reporter)
    sent = await talk(app, CONNECT, extensions={"websocket.http.response": {}})

    assert sent[0]["status"] == 403
    assert b"forbidden" in sent[1]["body"]
    assert [(line["level"], line["code"]) for line in lines.of("http.error")] == [
        ("warning", "forbidden")
    ]
    assert reporter.reports == []


async def test_a_caller_who_leaves_fails_nothing(lines: Any, reporter: Any) -> None:
    """A disconnect that the endpoint does not catch is no exception of its own."""

    async def waiting(socket: WebSocket) -> None:
        await socket.accept()
        while True:
            await socket.receive_text()

    app = instrument(app_of(waiting), reporter=reporter)
    await talk(app, CONNECT, said("a"), gone(1006))

    assert reporter.reports == []
    assert [(line["event"], line["close_code"]) for line in lines.all] == [("http.request", 1006)]


async def test_a_failure_after_the_close_is_told(lines: Any, reporter: Any) -> None:
    """There is nobody left to tell but the log and the reporter."""

    async def late(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close(1001)
        raise LookupError

    app = instrument(app_of(late), reporter=reporter)
    sent = await talk(app, CONNECT)

    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.close"]
    assert len(reporter.reports) == 1
    assert lines.of("http.request")[0]["close_code"] == 1001


async def test_a_disconnect_raised_by_hand_is_a_disconnect(lines: Any) -> None:
    """Libraries raise it themselves when a send fails."""

    async def leaving(socket: WebSocket) -> None:
        await socket.accept()
        raise WebSocketDisconnect(1006)

    await talk(instrument(app_of(leaving)), CONNECT)

    assert [(line["event"], line["disconnected"]) for line in lines.all] == [("http.request", True)]


async def test_http_routes_beside_it_are_not_taken(provider: Any, spans: Any) -> None:
    """A WebSocket does not match an HTTP route of the same path."""

    async def page(request: Any) -> None:
        raise AssertionError

    app = Starlette(routes=[Route("/ws/{id}", page), WebSocketRoute("/ws/{x}", echo)])
    await talk(instrument(app, tracer_provider=provider), CONNECT, gone(1000))

    assert [span.name for span in spans()] == ["/ws/{x}"]

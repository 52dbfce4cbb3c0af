"""An HTTP endpoint whose very bytes a test writes, connection by connection."""

import contextlib
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

#: A queue's URL; the endpoint comes with the client.
QUEUE = "http://localhost/000000000000/tasks"
#: What is sent back for a request: bytes, or None to reset the connection without an answer.
Answer = Callable[["Request"], bytes | None]
#: Lingering for no second: closing resets the connection.
_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Request:
    """One request, and on which connection, counted from 0, it came."""

    connection: int
    headers: dict[str, str]
    body: bytes

    @property
    def action(self) -> str:
        """The SQS action."""
        return self.headers["x-amz-target"].removeprefix("AmazonSQS.")

    @property
    def document(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class WireServer:
    """
    Answers by script on loopback.

    Attributes:
        requests: All that came, in order.
        names: The host names that TLS clients asked for.
    """

    def __init__(self, answer: Answer, *, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.names: list[str | None] = []
        self._answer = answer
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        if tls is not None:
            tls.sni_callback = lambda _, name, __: self.names.append(name)

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._listener.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """The endpoint, by the name that its certificate has."""
        return f"{'https' if self._tls else 'http'}://localhost:{self.port}"

    def drop(self) -> None:
        """End every open connection, as a server does with idle ones."""
        for connection in list(self._open):
            with contextlib.suppress(OSError):  # the client was faster
                connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        self.drop()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        number = 0
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(number, connection))
            self._threads.append(thread)
            thread.start()
            number += 1

    def _serve(self, number: int, connection: socket.socket) -> None:
        self._open.append(connection)
        try:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
                self._open[:] = [one for one in self._open if one.fileno() >= 0] + [connection]
            self._converse(number, connection)
        except OSError:
            return  # the client left, or does not trust us
        finally:
            self._open[:] = [one for one in self._open if one is not connection]
            connection.close()

    def _converse(self, number: int, connection: socket.socket) -> None:
        with connection.makefile("rb") as stream:
            while (request := _read(stream, number)) is not None:
                self.requests.append(request)
                answer = self._answer(request)
                if answer is None:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    return
                connection.sendall(answer)
                if b"connection: close" in answer:
                    return


def _read(stream: Any, number: int) -> Request | None:
    if not stream.readline():
        return None
    headers: dict[str, str] = {}
    while (line := stream.readline().strip()) and b":" in line:
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    if "content-length" not in headers:
        return None  # it speaks something else
    return Request(number, headers, stream.read(int(headers["content-length"])))


def ok(document: Any = None, *, headers: str = "") -> bytes:
    """Return the answer 200 with *document*."""
    return answer(200, {} if document is None else document, headers=headers)


def error(status: int, code: str, *, headers: str = "") -> bytes:
    """Return an error of SQS's JSON protocol."""
    return answer(status, {"__type": f"com.amazonaws.sqs#{code}", "message": "no"}, headers=headers)


def answer(status: int, document: Any, *, headers: str = "") -> bytes:
    """Return an answer with *document* as JSON."""
    body = json.dumps(document).encode()
    head = (
        f"HTTP/1.1 {status} Said\r\ncontent-type: application/x-amz-json-1.0\r\n"
        f"x-amzn-requestid: 1234\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
    )
    return head.encode() + body

"""The connections that envelopes leave by, against servers that behave and that do not."""

import gc
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import sentry_sdk
from sentry_receiver import SentryReceiver

from tracebaton.telemetry.sentry.posts import Posts

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Last(bytes):
    """An answer behind which the server closes."""


class Server:
    """
    Answers each request with the next of *answers*; behind a `Last` one it closes.

    Attributes:
        port: Where it listens.
        requests: What came, whole.
        connections: How many were accepted.
    """

    def __init__(self, *answers: bytes, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self._answers = list(answers)
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> "Server":
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            connection.settimeout(5)
            self._threads.append(threading.Thread(target=self._talk, args=(connection,)))
            self._threads[-1].start()

    def _talk(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with connection:
                while request := _request(connection):
                    self.requests.append(request)
                    answer = self._answers.pop(0) if self._answers else Last()
                    connection.sendall(answer)
                    if isinstance(answer, Last):
                        return


def _request(connection: socket.socket) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received:
        more = connection.recv(65536)
        if not more:
            return b""
        received += more
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


@contextmanager
def posts(server: Server, **options: Any) -> Iterator[Posts]:
    """Post to *server*."""
    made = Posts("127.0.0.1", server.port, **{"tls": None, "timeout": 5, **options})
    yield made
    made.close()


def test_one_connection_serves_many_posts() -> None:
    """Each is a whole request, each gets its own answer."""
    with Server(OK, OK.replace(b"200", b"429"), OK) as server, posts(server) as sender:
        answers = [sender.post("/a", {"X-A": "1"}, body) for body in (b"one", b"", b"x" * 200_000)]

    assert [answer.status for answer in answers] == [200, 429, 200]
    assert server.connections == 1
    assert server.requests[0] == (
        b"POST /a HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 3\r\nX-A: 1\r\n\r\none"
        % server.port
    )
    assert len(server.requests[2].partition(b"\r\n\r\n")[2]) == 200_000


def test_headers_are_found_whatever_their_case() -> None:
    """The SDK asks for Retry-After and for x-sentry-rate-limits."""
    head = b"HTTP/1.1 429 Too Many\r\nretry-after: 7\r\nX-Sentry-Rate-Limits: 1\r\n"
    with Server(head + b"Content-Length: 0\r\n\r\n") as server, posts(server) as sender:
        found = sender.post("/", {}, b"").headers

    assert (found.get("Retry-After"), found.get("x-sentry-rate-limits")) == ("7", "1")
    assert found.get("Other") is None


def test_a_connection_that_the_server_closed_is_replaced() -> None:
    """A kept one may be closed at any time; the post goes out on a fresh one."""
    with Server(OK, Last(), OK) as server, posts(server) as sender:
        statuses = [sender.post("/", {}, b"a").status, sender.post("/", {}, b"b").status]

    assert statuses == [200, 200]
    assert [request[-1:] for request in server.requests] == [b"a", b"b", b"b"]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nmore than it said",
        b"HTTP/1.0 200 OK\r\n\r\n",
    ],
)
def test_what_does_not_end_where_it_says_is_not_used_again(answer: bytes) -> None:
    """The next answer would be read from the middle of this one."""
    with Server(answer, OK) as server, posts(server) as sender:
        first, second = (sender.post("/", {}, b"a").status for _ in range(2))

        assert (first, second) == (200, 200)
    assert server.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n" + b"x" * 2_000_000,
    ],
)
def test_an_answer_that_is_none_is_an_error_of_the_connection(answer: bytes) -> None:
    """The SDK counts the envelope as lost; no memory grows and nothing hangs."""
    with (
        Server(Last(answer)) as server,
        posts(server) as sender,
        pytest.raises(OSError, match=r"answer|reset|Broken"),
    ):
        sender.post("/", {}, b"a")


def test_silence_ends_with_the_timeout() -> None:
    """And the connection with it."""
    with (
        Server(b"") as server,
        posts(server, timeout=0.1) as sender,
        pytest.raises(TimeoutError),
    ):
        sender.post("/", {}, b"a")


def test_connections_are_closed_with_whom_they_belong_to() -> None:
    """A transport that is only forgotten leaves no socket behind; a warning would fail this."""
    with Server(OK) as server:
        sender = Posts("127.0.0.1", server.port, tls=None, timeout=5)
        assert sender.post("/", {}, b"a").status == 200
        del sender
        gc.collect()


def test_nobody_there_is_an_error() -> None:
    """At once."""
    with pytest.raises(ConnectionError):
        Posts("127.0.0.1", 9, tls=None, timeout=5).post("/", {}, b"")


def test_threads_do_not_share_a_connection() -> None:
    """Sixteen at a time, each gets the answer to its own body."""
    answers: list[tuple[bytes, bytes]] = []

    def answer(body: bytes) -> None:
        answers.append((body, sender.post("/", {}, body).data))

    with echo() as port:
        sender = Posts("127.0.0.1", port, tls=None, timeout=5)
        threads = [threading.Thread(target=answer, args=(b"%04d" % n,)) for n in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        sender.close()

    assert len(answers) == 64
    assert all(body == data for body, data in answers)


@contextmanager
def echo() -> Iterator[int]:
    """Run a server that answers with the body it got, each connection in a thread."""

    def talk(connection: socket.socket) -> None:
        with connection:
            while request := _request(connection):
                body = request.partition(b"\r\n\r\n")[2]
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
                )

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            talking.append(threading.Thread(target=talk, args=(connection,), daemon=True))
            talking[-1].start()

    talking: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        for one in talking:
            one.join(5)


@pytest.mark.parametrize("known", [True, False])
def test_tls_asks_for_a_certificate_that_somebody_vouches_for(
    certificate: tuple[Path, Path], *, known: bool
) -> None:
    """The host's own name on it, too."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*certificate)
    trusting = ssl.create_default_context(cafile=str(certificate[0]) if known else None)
    with Server(OK, OK, tls=tls) as server, posts(server, tls=trusting) as sender:
        if known:
            assert [sender.post("/", {}, b"a" * 100_000).status for _ in range(2)] == [200, 200]
            assert server.connections == 1
        else:
            with pytest.raises(ssl.SSLCertVerificationError):
                sender.post("/", {}, b"a")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1 that vouches for itself; return it and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    made, key = folder / "cert.pem", folder / "key.pem"
    options = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    options += ["-days", "2", "-subj", "/CN=127.0.0.1"]
    options += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(made), "-keyout", str(key)]
    subprocess.run(["openssl", "req", *options], check=True, capture_output=True, timeout=30)
    return made, key


def test_an_envelope_follows_a_redirect(pipelines: Any, sentry: SentryReceiver) -> None:
    """What our connections do not know is left to the SDK's."""
    host = sentry.dsn.split("@")[1].rpartition("/")[0]
    there = f"HTTP/1.1 308 Moved\r\nLocation: http://{host}/api/42/envelope/\r\n".encode()
    moved = Last(there + b"Content-Length: 0\r\n\r\n")
    with Server(moved, moved) as server:
        telemetry = pipelines({"SENTRY_DSN": f"http://key@127.0.0.1:{server.port}/42"})
        sentry_sdk.capture_message("moved")

        assert telemetry.force_flush(5)
    assert [event["message"] for event in sentry.events()] == ["moved"]


def test_an_envelope_takes_the_proxy(pipelines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy is asked for the whole URL."""
    with Server(Last(OK)) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", "")
        telemetry = pipelines({"SENTRY_DSN": "http://key@sentry.example/42"})
        sentry_sdk.capture_message("by proxy")

        assert telemetry.force_flush(5)
    assert proxy.requests[0].startswith(b"POST http://sentry.example/api/42/envelope/ HTTP/1.1")

"""
A stand-in for Sentry's intake on loopback: takes envelopes and OTLP as the real one does, decodes
them and keeps them. It answers what it is told to: at once, late, with an error, or never.
"""

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans


@dataclass
class Item:
    """One item of an envelope: its header and its decoded payload."""

    header: dict[str, Any]
    payload: Any

    @property
    def type(self) -> str:
        return str(self.header["type"])


@dataclass
class Envelope:
    """One POST: the envelope's own header, its items, and how it came."""

    header: dict[str, Any]
    items: list[Item]
    headers: dict[str, str] = field(default_factory=dict)


def decode(body: bytes) -> Envelope:
    """Return the envelope that *body* is (https://develop.sentry.dev/sdk/data-model/envelopes/)."""
    line, _, rest = body.partition(b"\n")
    envelope = Envelope(json.loads(line), [])
    while rest:
        line, _, rest = rest.partition(b"\n")
        if not line.strip():
            continue
        header = json.loads(line)
        length = header.get("length", rest.find(b"\n") % (len(rest) + 1))
        payload, rest = rest[:length], rest[length:].removeprefix(b"\n")
        kind = header.get("content_type", "application/json")
        envelope.items.append(Item(header, json.loads(payload) if "json" in kind else payload))
    return envelope


class SentryReceiver:
    """
    What arrived at one DSN.

    Attributes:
        envelopes: Every envelope, oldest first.
        otlp: Every OTLP request to ``/api/1/integration/otlp/v1/traces/``, oldest first.
        otlp_headers: The headers of each of those.
        status: What each POST is answered with.
        headers: What each answer has besides.
        delay: Seconds before the answer; it can be cut short by `close()`.
        posts: POSTs that were answered, whatever the answer was.
        at_once: The most that were held at the same time.
    """

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self.otlp: list[ExportTraceServiceRequest] = []
        self.otlp_headers: list[dict[str, str]] = []
        self.status = 200
        self.headers: dict[str, str] = {}
        self.delay = 0.0
        self.posts = self.at_once = self._held = 0
        self._closed = threading.Event()
        self._changed = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # head and body are two writes: 40 ms each otherwise

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                with receiver._holding():
                    receiver._closed.wait(receiver.delay)
                if receiver.status == 200:
                    receiver._take(self.path, body, dict(self.headers))
                self.send_response(receiver.status)
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *args: object) -> None:
                """Say nothing."""

            def handle(self) -> None:
                try:
                    super().handle()
                except (ConnectionError, BrokenPipeError):
                    """The client is gone: tests that stop at a deadline do that."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="sentry-receiver", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def dsn(self) -> str:
        """Return the DSN to configure: public key ``public``, project 1."""
        return f"http://public@127.0.0.1:{self.port}/1"

    @contextmanager
    def _holding(self) -> Iterator[None]:
        with self._changed:
            self._held += 1
            self.at_once = max(self.at_once, self._held)
        yield
        with self._changed:
            self._held -= 1
            self.posts += 1

    def _take(self, path: str, body: bytes, headers: dict[str, str]) -> None:
        with self._changed:
            if path.startswith("/api/1/integration/otlp/v1/traces"):
                self.otlp.append(ExportTraceServiceRequest.FromString(body))
                self.otlp_headers.append(headers)
            else:
                envelope = decode(body)
                envelope.headers = headers
                self.envelopes.append(envelope)
            self._changed.notify_all()

    def items(self, kind: str) -> list[Any]:
        """Return the payloads of every item of *kind*, in the order of arrival."""
        with self._changed:
            return [i.payload for e in self.envelopes for i in e.items if i.type == kind]

    def transactions(self) -> list[dict[str, Any]]:
        """Return every transaction by its start; they come over several connections."""
        return sorted(self.items("transaction"), key=lambda event: str(event["start_timestamp"]))

    def events(self) -> list[dict[str, Any]]:
        """Return every error event by its time."""
        return sorted(self.items("event"), key=lambda event: str(event["timestamp"]))

    def trace_headers(self) -> dict[str, dict[str, Any]]:
        """Return the dynamic sampling context of each envelope, by event id."""
        with self._changed:
            return {
                e.header["event_id"]: e.header["trace"]
                for e in self.envelopes
                if "event_id" in e.header and "trace" in e.header
            }

    def resource_spans(self) -> list[ResourceSpans]:
        """Return all that came over OTLP."""
        with self._changed:
            return [spans for request in self.otlp for spans in request.resource_spans]

    def wait_for(
        self, predicate: "Callable[[SentryReceiver], bool]", timeout: float = 10.0
    ) -> None:
        """Wait until *predicate* of this receiver holds; fail with what is there otherwise."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not predicate(self):
                if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    kinds = [item.type for e in self.envelopes for item in e.items]
                    raise AssertionError(f"not within {timeout} s; arrived so far: {kinds}")

    def clear(self) -> None:
        """Forget what arrived."""
        with self._changed:
            self.envelopes.clear()
            self.otlp.clear()
            self.otlp_headers.clear()

    def close(self) -> None:
        """Stop listening; answers that are held back are given first."""
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def sentry_receiver() -> Iterator[SentryReceiver]:
    """Run a receiver for the length of a ``with`` block."""
    receiver = SentryReceiver()
    try:
        yield receiver
    finally:
        receiver.close()

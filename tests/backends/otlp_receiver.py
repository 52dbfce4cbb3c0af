"""An OTLP/HTTP receiver on loopback that answers as it is told: at once, wrong, or never."""

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class OtlpReceiver:
    """
    What arrived at one endpoint.

    Attributes:
        requests: Path, headers and body of each POST, oldest first.
        status: What each POST is answered with.
        first: Statuses and headers of the answers before that.
        delay: Seconds before an answer.
        hangs: Whether it is answered at all; `close()` ends the wait.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.status = 200
        self.first: list[tuple[int, dict[str, str]]] = []
        self.delay = 0.0
        self.hangs = False
        self._closed = threading.Event()
        self._changed = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with receiver._changed:
                    receiver.requests.append((self.path, dict(self.headers), body))
                    receiver._changed.notify_all()
                receiver._closed.wait(None if receiver.hangs else receiver.delay)
                answers = receiver.first
                status, headers = answers.pop(0) if answers else (receiver.status, {})
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Say nothing."""

            def handle(self) -> None:
                try:
                    super().handle()
                except OSError:
                    """The client is gone: a stop at its deadline does that."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._scheme = "http"
        if tls is not None:
            self._scheme = "https"
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="otlp-receiver", daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """Return what ``OTEL_EXPORTER_OTLP_ENDPOINT`` has to be."""
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}"

    def spans(self) -> list[Span]:
        """Return every span, in the order of arrival."""
        return [
            span
            for path, _, body in list(self.requests)
            if path.endswith("/v1/traces")
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def logs(self) -> list[tuple[str, LogRecord]]:
        """Return the logger's name and the record of every log line."""
        return [
            (scope.scope.name, record)
            for path, _, body in list(self.requests)
            if path.endswith("/v1/logs")
            for resource in ExportLogsServiceRequest.FromString(body).resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]

    def metrics(self) -> dict[str, Metric]:
        """Return every metric by its name, as it came last."""
        return {
            metric.name: metric
            for path, _, body in list(self.requests)
            if path.endswith("/v1/metrics")
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def wait_for(self, predicate: "Callable[[OtlpReceiver], bool]", timeout: float = 10.0) -> None:
        """Wait until *predicate* of this receiver holds."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not predicate(self):
                if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    raise AssertionError(f"not within {timeout} s, {len(self.requests)} requests")

    def close(self) -> None:
        """Stop listening and let go of who is waiting."""
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def otlp_receiver(*, tls: ssl.SSLContext | None = None) -> Iterator[OtlpReceiver]:
    """Run a receiver for the length of a ``with`` block."""
    receiver = OtlpReceiver(tls=tls)
    try:
        yield receiver
    finally:
        receiver.close()

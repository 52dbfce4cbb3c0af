"""What other hosts get of a trace, as real servers see it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry import propagate
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor

from tracebaton.context import RequestStore, entered

OURS = {"traceparent", "tracestate", "baggage", "sentry-trace"}


class Seen:
    """A server under two names of this machine that notes our headers and may send elsewhere."""

    def __init__(self) -> None:
        self.headers: list[tuple[str, dict[str, str]]] = []
        self.redirect: str | None = None
        seen = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host = self.headers["Host"].partition(":")[0]
                headers = {key.lower(): value for key, value in self.headers.items()}
                seen.headers.append((host, {key: headers[key] for key in OURS & set(headers)}))
                to, seen.redirect = seen.redirect, None
                self.send_response(307 if to else 200)
                if to:
                    self.send_header("Location", to)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def url(self, host: str) -> str:
        return f"http://{host}:{self._server.server_address[1]}/"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def seen() -> Iterator[Seen]:
    server = Seen()
    yield server
    server.close()


@contextmanager
def client(telemetry: Any) -> Iterator[httpx.Client]:
    """Yield an instrumented client that uses the pipeline's propagator, inside a request."""
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(telemetry.propagator)
    try:
        with (
            httpx.Client(follow_redirects=True) as http,
            entered(RequestStore(correlation_id="c-1", user_id="u-1")),
            telemetry.tracer.start_as_current_span("work"),
        ):
            HTTPXClientInstrumentor.instrument_client(
                http, tracer_provider=telemetry.tracer_provider
            )
            yield http
    finally:
        propagate.set_global_textmap(before)


@pytest.mark.parametrize("sampler", ["always_on", "always_off"])
def test_a_redirect_takes_nothing_to_a_host_that_is_not_listed(
    pipelines: Any, seen: Seen, sampler: str
) -> None:
    """The client copies the first request's headers; sampled or not, they end at the border."""
    telemetry = pipelines(
        {
            "TRACEBATON_PROPAGATE_TRACE_TO": "localhost",
            "TRACEBATON_PROPAGATE_BAGGAGE_TO": "localhost",
            "OTEL_TRACES_SAMPLER": sampler,
        }
    )
    seen.redirect = seen.url("127.0.0.1")
    with client(telemetry) as http:
        http.get(seen.url("localhost"))

    (first, ours), (second, theirs) = seen.headers

    assert (first, set(ours)) == ("localhost", {"traceparent", "baggage"})
    assert "u-1" in ours["baggage"]
    assert (second, theirs) == ("127.0.0.1", {})


def test_a_redirect_leaves_the_baggage_behind(pipelines: Any, seen: Seen) -> None:
    """By default the trace goes everywhere, the ids do not."""
    telemetry = pipelines({"TRACEBATON_PROPAGATE_BAGGAGE_TO": "localhost"})
    seen.redirect = seen.url("127.0.0.1")
    with client(telemetry) as http:
        http.get(seen.url("localhost"))

    assert [set(headers) for _, headers in seen.headers] == [
        {"traceparent", "baggage"},
        {"traceparent"},
    ]

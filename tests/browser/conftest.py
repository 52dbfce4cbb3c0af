"""Debian's Chromium on a viewer that is really served, fed by the OTel SDK's own exporters."""

import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from tracebaton.viewer.app import create_viewer
from tracebaton.viewer.spans import SpanStore

CHROMIUM = Path("/usr/bin/chromium")
SWITCHES = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update"
    " --disable-sync --disable-quic --no-first-run"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Yield Chromium; skip where it is missing, fail in CI."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _missing("the package playwright")
    if not CHROMIUM.exists():
        _missing("Chromium (scripts/chromium installs it)")
    # For one module only: while it runs, no other test of this thread can have an event loop.
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES.split())
        yield browser
        browser.close()


def _missing(what: str) -> None:
    reason = f"{what} is missing"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@dataclass
class Viewer:
    """A viewer that is being served."""

    url: str
    store: SpanStore
    providers: list[Any] = field(default_factory=list)

    def tracer(self, service: str) -> Any:
        """Return a tracer whose spans arrive over OTLP at the next `flush()`."""
        provider = TracerProvider(
            resource=Resource({"service.name": service}), shutdown_on_exit=False
        )
        exporter = OTLPSpanExporter(endpoint=f"{self.url}/v1/traces")
        provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=20_000))
        self.providers.append(provider)
        return provider.get_tracer("tests")

    def logger(self, service: str) -> Any:
        """Return a logger whose records arrive over OTLP at once."""
        provider = LoggerProvider(
            resource=Resource({"service.name": service}), shutdown_on_exit=False
        )
        exporter = OTLPLogExporter(endpoint=f"{self.url}/v1/logs")
        provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
        self.providers.append(provider)
        return provider.get_logger("tests.log")

    def flush(self) -> None:
        """Export what was recorded."""
        for provider in self.providers:
            assert provider.force_flush()


@pytest.fixture
def viewer() -> Iterator[Viewer]:
    """Yield a viewer on a free port of loopback."""
    listener = socket.create_server(("127.0.0.1", 0))
    with SpanStore() as store:
        config = uvicorn.Config(create_viewer(store), access_log=False, log_level=logging.WARNING)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        viewer = Viewer(f"http://127.0.0.1:{listener.getsockname()[1]}", store)
        yield viewer
        for provider in viewer.providers:
            provider.shutdown()
        server.should_exit = True
        thread.join(10)
    listener.close()
    assert not thread.is_alive()


@pytest.fixture
def expect(browser: Any) -> Any:
    """Return Playwright's assertions, which wait; the page's policy forbids those that evaluate."""
    from playwright.sync_api import expect

    return expect


@pytest.fixture
def complaints() -> list[str]:
    """Return what the page wrote to its console so far."""
    return []


@pytest.fixture
def page(browser: Any, viewer: Viewer, complaints: list[str]) -> Iterator[Any]:
    """Yield a page that must neither complain nor call anybody but its viewer."""
    with watched(browser, viewer.url, complaints) as page:
        yield page


@contextmanager
def watched(browser: Any, url: str, complaints: list[str] | None = None) -> Iterator[Any]:
    """Open a page of the viewer at *url*, which must neither complain nor call anybody else."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, base_url=url)
    page = context.new_page()
    said: list[str] = [] if complaints is None else complaints
    foreign: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: _note(request.url, url, foreign))
    yield page
    context.close()
    assert (said, foreign) == ([], [])


def _note(url: str, home: str, foreign: list[str]) -> None:
    if not url.startswith((f"{home}/", "data:")):
        foreign.append(url)

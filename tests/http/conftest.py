"""Apps written in the tests, asked through ASGI, and what they left: spans, log lines, reports."""

import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.types import ASGIApp

from tracebaton.logs import log_fields
from tracebaton.problems import Outcome
from tracebaton.tasks.sqlite import SqliteTaskStore


@dataclass
class Report:
    """One call of the reporter, and where it was made."""

    exc: BaseException
    outcome: Outcome
    mechanism: str
    tags: Mapping[str, str]
    trace_id: int
    span_id: int


@dataclass
class RecordingReporter:
    """A reporter that keeps what it is told."""

    reports: list[Report] = field(default_factory=list)
    isolations: int = 0

    @contextmanager
    def isolated(self) -> Iterator[None]:
        self.isolations += 1
        yield

    def report(
        self,
        exc: BaseException,
        outcome: Outcome,
        *,
        mechanism: str,
        tags: Mapping[str, str],
        failures: Sequence[Mapping[str, Any]] = (),
    ) -> str | None:
        here = trace.get_current_span().get_span_context()
        self.reports.append(Report(exc, outcome, mechanism, tags, here.trace_id, here.span_id))
        return f"event-{len(self.reports)}"


class Lines(logging.Handler):
    """The log lines as the one schema would write them, taken where they are logged."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.all.append(log_fields(record, service="test"))

    def of(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.all if line["event"] == event]


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: InMemorySpanExporter) -> Iterator[TracerProvider]:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider
    provider.shutdown()


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> Callable[[], Sequence[ReadableSpan]]:
    """Return the finished spans so far."""
    return exporter.get_finished_spans


@pytest.fixture
def reporter() -> RecordingReporter:
    return RecordingReporter()


@pytest.fixture
def lines() -> Iterator[Lines]:
    logger, handler = logging.getLogger("tracebaton"), Lines()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before)


@pytest.fixture
def ask() -> Callable[..., Any]:
    """Return an HTTP client of an app; exceptions that leave the app are raised in the test."""

    def client(app: ASGIApp, **options: Any) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app, **options)
        return httpx.AsyncClient(transport=transport, base_url="http://localhost")

    return client


@pytest.fixture
async def task_store(tmp_path: Path) -> AsyncIterator[SqliteTaskStore]:
    store = SqliteTaskStore(tmp_path / "tasks.db")
    yield store
    await store.close()

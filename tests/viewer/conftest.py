"""A viewer over a real store, asked through ASGI, and OTLP requests to feed it with."""

import itertools
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tracebaton.viewer.app import create_viewer
from tracebaton.viewer.rows import log_rows, span_rows
from tracebaton.viewer.spans import SpanStore

#: 2026-11-23T12:00:00Z
NOON = 1_795_435_200_000_000_000
MS = 1_000_000


@pytest.fixture
def store() -> Iterator[SpanStore]:
    """Yield a store in memory."""
    with SpanStore() as store:
        yield store


@pytest.fixture
async def client(store: SpanStore) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of the viewer over *store*."""
    transport = httpx.ASGITransport(create_viewer(store))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:4318") as client:
        yield client


@pytest.fixture
def otlp() -> SimpleNamespace:
    """Return what builds OTLP requests, and reads what a store keeps of them."""
    return SimpleNamespace(
        spans=trace_request,
        logs=log_request,
        told=told_request,
        trace_id=trace_bytes,
        trace_hex=trace_hex,
        feed=feed,
        noon=NOON,
    )


def feed(store: SpanStore, *requests: Message) -> None:
    """Put *requests* into *store* as the intake does, and wait until they are written."""
    for request in requests:
        if isinstance(request, ExportTraceServiceRequest):
            store.submit(spans=span_rows(request)[0])
        elif isinstance(request, ExportLogsServiceRequest):
            store.submit(lines=log_rows(request))
    assert store.settle(10)


def trace_request(*described: dict[str, Any], service: str = "api") -> ExportTraceServiceRequest:
    """
    Return a request with one span a description.

    ``id`` and ``parent`` are small numbers, ``start`` and ``end`` milliseconds after noon;
    everything else is an attribute, except ``trace``, ``name``, ``kind`` and ``error``.
    """
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    group.resource.attributes.add(key="service.name").value.string_value = service
    scoped = group.scope_spans.add()
    scoped.scope.name = "tests"
    for number, fields in zip(itertools.count(1), described, strict=False):
        fields = dict(fields)
        start = fields.pop("start", 0)
        span = scoped.spans.add(
            trace_id=trace_bytes(fields.pop("trace", 1)),
            span_id=fields.pop("id", number).to_bytes(8, "big"),
            name=fields.pop("name", f"span {number}"),
            kind=fields.pop("kind", 1),
            start_time_unix_nano=NOON + int(start * MS),
            end_time_unix_nano=NOON + int(fields.pop("end", start + 1) * MS),
        )
        if parent := fields.pop("parent", 0):
            span.parent_span_id = parent.to_bytes(8, "big")
        if fields.pop("error", False):
            span.status.code = 2
        for key, value in fields.items():
            kind = "int_value" if isinstance(value, int) else "string_value"
            setattr(span.attributes.add(key=key).value, kind, value)
    return request


def log_request(*events: str, trace: int = 1, service: str = "api") -> ExportLogsServiceRequest:
    """Return a request with one log line an event, a millisecond apart."""
    request = ExportLogsServiceRequest()
    group = request.resource_logs.add()
    group.resource.attributes.add(key="service.name").value.string_value = service
    scoped = group.scope_logs.add()
    scoped.scope.name = "tests.log"
    for number, event in enumerate(events):
        record = scoped.log_records.add(
            trace_id=trace_bytes(trace) if trace else b"",
            span_id=(1).to_bytes(8, "big"),
            time_unix_nano=NOON + number * MS,
            severity_number=9,
        )
        record.body.string_value = event
    return request


def told_request(*told: tuple[float, str, dict[str, Any]]) -> ExportLogsServiceRequest:
    """Return a request with one log line each: milliseconds after noon, event, attributes."""
    request = log_request(*(event for _, event, _ in told), service="worker")
    records = request.resource_logs[0].scope_logs[0].log_records
    for record, (at, _, fields) in zip(records, told, strict=True):
        fields = dict(fields)
        record.time_unix_nano = NOON + int(at * MS)
        record.trace_id = trace_bytes(fields.pop("trace", 1))
        record.span_id = fields.pop("span", 1).to_bytes(8, "big")
        for key, value in fields.items():
            kind = "int_value" if isinstance(value, int) else "string_value"
            setattr(record.attributes.add(key=key).value, kind, value)
    return request


def trace_bytes(number: int) -> bytes:
    """Return a trace id."""
    return number.to_bytes(16, "big")


def trace_hex(number: int) -> str:
    """Return a trace id as it is written."""
    return trace_bytes(number).hex()

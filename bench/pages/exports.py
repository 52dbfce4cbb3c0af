"""OTLP export requests like those of an API and its worker, as protobuf or as JSON."""

import base64
import json
from collections.abc import Iterator
from typing import Any

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tracebaton import semconv

MS = 1_000_000
#: The spans of one trace: service, name, kind, parent, start and end in milliseconds.
SHAPE = (
    ("api", "POST /v1/ai/chat", Span.SPAN_KIND_SERVER, None, 0, 60),
    ("api", "validate", Span.SPAN_KIND_INTERNAL, 0, 2, 9),
    ("api", "store", Span.SPAN_KIND_INTERNAL, 0, 10, 24),
    ("api", "send tasks", Span.SPAN_KIND_PRODUCER, 0, 25, 55),
    ("worker", "process tasks", Span.SPAN_KIND_CONSUMER, 3, 300, 640),
    ("worker", "GET", Span.SPAN_KIND_CLIENT, 4, 310, 500),
    ("worker", "answer", Span.SPAN_KIND_INTERNAL, 4, 505, 590),
    ("worker", "save", Span.SPAN_KIND_INTERNAL, 4, 600, 630),
)
EVENTS = ("task.enqueued", "task.started", "task.succeeded", "http.request")


def trace_id(number: int) -> bytes:
    """Return the id of the trace *number*."""
    return (0xBE9C << 112 | number).to_bytes(16)


def spans(number: int, now: int) -> Iterator[tuple[str, Span]]:
    """Yield the spans of one trace, each with its service."""
    for place, (service, name, kind, parent, start, end) in enumerate(SHAPE):
        yield (
            service,
            Span(
                trace_id=trace_id(number),
                span_id=span_id(number, place),
                parent_span_id=b"" if parent is None else span_id(number, parent),
                name=name,
                kind=kind,
                start_time_unix_nano=now + start * MS,
                end_time_unix_nano=now + end * MS,
                attributes=list(attributes(number, place, kind)),
            ),
        )


def span_id(number: int, place: int) -> bytes:
    """Return the id of a span of the trace *number*."""
    return (number << 16 | place + 1).to_bytes(8)


def attributes(number: int, place: int, kind: int) -> Iterator[KeyValue]:
    """Yield what our processes put on such a span."""
    yield text(semconv.CORRELATION_ID, f"order-{number}")
    yield text(semconv.USER_ID, f"user-{number % 50}")
    yield text("code.function.name", "shop.orders.place")
    yield text("server.address", "127.0.0.1")
    if place == 0:
        yield text("http.request.method", "POST")
        yield text("http.route", "/v1/ai/chat")
        yield text("url.path", "/v1/ai/chat")
        yield whole("http.response.status_code", 202)
    if place > 2:
        yield text(semconv.TASK_ID, f"task-{number}")
        yield text(semconv.TASK_TYPE, "ai.chat")
    if kind == Span.SPAN_KIND_CONSUMER:
        yield text(semconv.TASK_STATUS, "failed" if number % 20 == 0 else "succeeded")
        yield whole(semconv.RECEIVE_COUNT, 1)
        yield KeyValue(key=semconv.QUEUE_BACKLOG_MS, value=AnyValue(double_value=240.5))


def text(key: str, value: str) -> KeyValue:
    """Return an attribute."""
    return KeyValue(key=key, value=AnyValue(string_value=value))


def whole(key: str, value: int) -> KeyValue:
    """Return an attribute."""
    return KeyValue(key=key, value=AnyValue(int_value=value))


def trace_requests(first: int, count: int, now: int, batch: int) -> list[ExportTraceServiceRequest]:
    """Return requests for *count* traces from *first* on, of up to *batch* spans of one service."""
    waiting: dict[str, list[Span]] = {"api": [], "worker": []}
    made = []
    for number in range(first, first + count):
        for service, span in spans(number, now + number * MS):
            waiting[service].append(span)
            if len(waiting[service]) == batch:
                made.append(_request(service, waiting[service]))
                waiting[service] = []
    return made + [_request(service, rest) for service, rest in waiting.items() if rest]


def wide_trace(number: int, count: int, now: int, batch: int) -> list[ExportTraceServiceRequest]:
    """Return requests for one trace of *count* spans: steps, each with four calls in it."""
    made = [Span(trace_id=trace_id(number), span_id=span_id(number, 0), name="process tasks")]
    for place in range(1, count):
        step = place - (place - 1) % 5
        parent = 0 if step == place else step
        made.append(
            Span(
                trace_id=trace_id(number),
                span_id=span_id(number, place),
                parent_span_id=span_id(number, parent),
                name=f"step {place}" if parent == 0 else f"SELECT {place}",
                start_time_unix_nano=now + place * MS,
                end_time_unix_nano=now + (place + (5 if parent == 0 else 1)) * MS,
                attributes=list(attributes(number, 1, 0)),
            )
        )
    made[0].start_time_unix_nano, made[0].end_time_unix_nano = now, now + (count + 5) * MS
    return [_request("worker", made[at : at + batch]) for at in range(0, count, batch)]


def log_requests(first: int, count: int, now: int) -> list[ExportLogsServiceRequest]:
    """Return requests with the log lines of *count* traces."""
    made = []
    for start in range(first, first + count, 100):
        request = ExportLogsServiceRequest()
        group = request.resource_logs.add(resource=resource("worker"))
        group.scope_logs.add().log_records.extend(
            LogRecord(
                trace_id=trace_id(number),
                span_id=span_id(number, 4),
                time_unix_nano=now + number * MS + place,
                event_name=event,
                attributes=list(attributes(number, 4, 0)),
            )
            for number in range(start, min(start + 100, first + count))
            for place, event in enumerate(EVENTS)
        )
        made.append(request)
    return made


def resource(service: str) -> Resource:
    """Return who sent it."""
    return Resource(attributes=[text("service.name", service), text("service.version", "1.4.2")])


def as_json(request: ExportTraceServiceRequest) -> bytes:
    """Return *request* as OTLP JSON: ids in hexadecimal digits, enums as numbers."""
    document = MessageToDict(request, use_integers_for_enums=True)
    for group in document["resourceSpans"]:
        for scoped in group["scopeSpans"]:
            for one in scoped["spans"]:
                _hexadecimal(one)
    return json.dumps(document).encode()


def _hexadecimal(span: dict[str, Any]) -> None:
    for name in ("traceId", "spanId", "parentSpanId"):
        if name in span:
            span[name] = base64.b64decode(span[name]).hex()


def _request(service: str, spans: list[Span]) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add(resource=resource(service))
    group.scope_spans.add().spans.extend(spans)
    return request

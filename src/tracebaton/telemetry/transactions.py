"""
What a Sentry transaction says: op, name, source, status, queue data and dynamic sampling context.

Pure functions over the spans that OpenTelemetry recorded and over the event as sentry-sdk built it.
"""

from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any, Final

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode, format_span_id
from opentelemetry.util.types import AttributeValue

from tracebaton.redaction import redact_value
from tracebaton.semconv import (
    CORRELATION_ID,
    HTTP_METHODS,
    HTTP_ROUTE,
    HTTP_STATUS_CODES,
    OP_QUEUE_PROCESS,
    QUEUE_BACKLOG_MS,
    QUEUE_DELAY_MS,
    QUEUE_PREFETCH_MS,
    RECEIVE_COUNT,
    SENTRY_OP,
    SENTRY_RECEIVE_LATENCY,
    SENTRY_RETRY_COUNT,
    TASK_ATTEMPT,
    TASK_ID,
    TASK_TYPE,
    USER_ID,
)
from tracebaton.telemetry.masking import dict_of

__all__ = ["describe", "json_data", "transaction_name"]

#: Tags of a transaction, by the attribute they come from.
_TAGS: Final = {
    CORRELATION_ID: "correlation_id",
    TASK_ID: "task_id",
    TASK_TYPE: "task_type",
    TASK_ATTEMPT: "attempt",
}
_WAITS: Final = (QUEUE_DELAY_MS, QUEUE_BACKLOG_MS, QUEUE_PREFETCH_MS)

_SCALARS: Final = frozenset({str, int, float, bool})

Attributes = Mapping[str, AttributeValue]


def transaction_name(name: str, kind: SpanKind, attributes: Attributes) -> tuple[str, str]:
    """Return the name and source of the transaction whose root span has this name and kind."""
    route, method = attributes.get(HTTP_ROUTE), _first(attributes, HTTP_METHODS)
    if kind is SpanKind.SERVER and route and method:
        return f"{method} {route}", "route"
    if kind is SpanKind.CONSUMER:
        return str(attributes.get(TASK_TYPE) or name), "task"
    return name, "custom"


def describe(
    event: MutableMapping[str, Any],
    root: ReadableSpan,
    spans: Iterable[ReadableSpan],
    *,
    http_status: Callable[[int], str],
    queue_child: bool = False,
) -> None:
    """
    Complete the transaction *event* in place.

    Args:
        event: What sentry-sdk made of *root* and *spans*.
        root: The transaction's own span.
        spans: Its child spans.
        http_status: Sentry's status of an HTTP status code.
        queue_child: Add a ``queue.process`` child span, for Sentry's Queues page.
    """
    attributes = dict_of(root.attributes)
    data = _data(attributes)
    trace = event["contexts"]["trace"]
    trace["op"] = attributes.get(SENTRY_OP, trace.get("op"))
    trace["status"] = _status(root, attributes, http_status)
    trace.setdefault("data", {}).update(data)
    event["transaction"], source = transaction_name(root.name, root.kind, attributes)
    event["transaction_info"] = {"source": source}
    tags = {tag: str(attributes[key]) for key, tag in _TAGS.items() if key in attributes}
    event["tags"] = {**(event.get("tags") or {}), **tags}
    if USER_ID in attributes:
        event["user"] = {**(event.get("user") or {}), "id": str(attributes[USER_ID])}
    known = {format_span_id(span.context.span_id): span for span in spans if span.context}
    for child in event.get("spans", ()):
        if (span := known.get(child["span_id"])) is not None:
            _describe_child(child, span, http_status)
    if queue_child and trace["op"] == OP_QUEUE_PROCESS:
        event["spans"].append(_queue_child(event, trace, data))


def _describe_child(
    child: MutableMapping[str, Any], span: ReadableSpan, http_status: Callable[[int], str]
) -> None:
    attributes = dict_of(span.attributes)
    child["op"] = attributes.get(SENTRY_OP, child.get("op"))
    child["description"] = span.name
    child["status"] = _status(span, attributes, http_status)
    child["data"] = {**(child.get("data") or {}), **_data(attributes), "otel.kind": span.kind.name}


def json_data(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of *attributes* as JSON data; a span's are masked already and mostly that."""
    return {
        name: value if type(value) in _SCALARS else redact_value(name, value)
        for name, value in attributes.items()
    }


def _queue_child(
    event: Mapping[str, Any], trace: Mapping[str, Any], data: Mapping[str, Any]
) -> dict[str, Any]:
    # The id has to differ from the root's and be the same on each try to send: invert one bit.
    span_id = format_span_id(int(trace["span_id"], 16) ^ 1)
    return {
        "trace_id": trace["trace_id"],
        "span_id": span_id,
        "parent_span_id": trace["span_id"],
        "op": OP_QUEUE_PROCESS,
        "description": event["transaction"],
        "start_timestamp": event["start_timestamp"],
        "timestamp": event["timestamp"],
        "status": trace["status"],
        "origin": "manual",
        "data": {key: value for key, value in data.items() if key.startswith("messaging.")},
    }


def _data(attributes: Attributes) -> dict[str, Any]:
    data: dict[str, Any] = json_data(attributes)
    receives = attributes.get(RECEIVE_COUNT)
    if isinstance(receives, int):
        data.setdefault(SENTRY_RETRY_COUNT, receives - 1)
    waits = [wait for key in _WAITS if isinstance(wait := attributes.get(key), (int, float))]
    if waits:
        data.setdefault(SENTRY_RECEIVE_LATENCY, sum(waits))
    return data


def _status(span: ReadableSpan, attributes: Attributes, http_status: Callable[[int], str]) -> str:
    code = _first(attributes, HTTP_STATUS_CODES)
    status = http_status(code) if isinstance(code, int) else "ok"
    failed = span.status.status_code is StatusCode.ERROR
    # A stream that fails after its 200 was sent is a failure all the same.
    return "internal_error" if failed and status == "ok" else status


def _first(attributes: Attributes, names: Iterable[str]) -> AttributeValue | None:
    return next((attributes[name] for name in names if name in attributes), None)

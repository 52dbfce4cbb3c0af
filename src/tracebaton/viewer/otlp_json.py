"""
OTLP's JSON encoding, which is not quite the one that protobuf's library writes.

Ids are hex instead of base64, enums are numbers
(https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding).
"""

import base64
import binascii
import math
from collections.abc import Iterable
from typing import Any, Final, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

__all__ = ["any_value", "attributes", "parsed", "resource", "scope", "span"]

M = TypeVar("M", bound=Message)

ID_FIELDS: Final = ("traceId", "spanId", "parentSpanId")
#: Where messages with ids are found inside a request.
NESTING: Final = (
    "resourceSpans",
    "scopeSpans",
    "spans",
    "links",
    "resourceLogs",
    "scopeLogs",
    "logRecords",
)


def parsed(document: Any, message: M) -> M:
    """
    Fill *message* from a document of OTLP JSON and return it.

    Raises:
        ValueError: *document* is not of this message.
    """
    try:
        _ids_to_base64(document)
        return json_format.ParseDict(document, message, ignore_unknown_fields=True)
    except (
        RecursionError,
        ArithmeticError,
        AttributeError,
        TypeError,
        json_format.ParseError,
    ) as exc:
        raise ValueError(f"not an OTLP JSON {message.DESCRIPTOR.name}: {exc}") from exc


def _ids_to_base64(node: Any) -> None:
    for field in ID_FIELDS:
        if isinstance(node.get(field), str):
            node[field] = base64.b64encode(binascii.unhexlify(node[field])).decode()
    for field in NESTING:
        for child in node.get(field) or ():
            _ids_to_base64(child)


def span(message: Span) -> dict[str, Any]:
    """Return *message* as OTLP JSON."""
    document: dict[str, Any] = {
        "traceId": message.trace_id.hex(),
        "spanId": message.span_id.hex(),
        "name": message.name,
        "kind": message.kind,
        "startTimeUnixNano": str(message.start_time_unix_nano),
        "endTimeUnixNano": str(message.end_time_unix_nano),
        "attributes": attributes(message.attributes),
        "events": [_event(event) for event in message.events],
        "links": [_link(link) for link in message.links],
        "status": _present({"code": message.status.code, "message": message.status.message}),
    }
    return document | _present(
        {
            "parentSpanId": message.parent_span_id.hex(),
            "traceState": message.trace_state,
            "flags": message.flags,
            "droppedAttributesCount": message.dropped_attributes_count,
            "droppedEventsCount": message.dropped_events_count,
            "droppedLinksCount": message.dropped_links_count,
        }
    )


def resource(message: Resource) -> dict[str, Any]:
    """Return *message* as OTLP JSON."""
    dropped = _present({"droppedAttributesCount": message.dropped_attributes_count})
    return {"attributes": attributes(message.attributes)} | dropped


def scope(message: InstrumentationScope) -> dict[str, Any]:
    """Return *message* as OTLP JSON."""
    return _present(
        {
            "name": message.name,
            "version": message.version,
            "attributes": attributes(message.attributes),
            "droppedAttributesCount": message.dropped_attributes_count,
        }
    )


def attributes(items: Iterable[KeyValue]) -> list[dict[str, Any]]:
    """Return attributes as OTLP JSON."""
    return [{"key": item.key, "value": any_value(item.value)} for item in items]


def any_value(value: AnyValue) -> dict[str, Any]:
    """Return an attribute value as OTLP JSON; an unset one is an empty object."""
    match value.WhichOneof("value"):
        case "string_value":
            return {"stringValue": value.string_value}
        case "int_value":
            return {"intValue": str(value.int_value)}
        case "bool_value":
            return {"boolValue": value.bool_value}
        case "double_value":
            return {"doubleValue": _double(value.double_value)}
        case "bytes_value":
            return {"bytesValue": base64.b64encode(value.bytes_value).decode()}
        case "array_value":
            return {
                "arrayValue": {"values": [any_value(item) for item in value.array_value.values]}
            }
        case "kvlist_value":
            return {"kvlistValue": {"values": attributes(value.kvlist_value.values)}}
        case _:
            return {}


def _double(number: float) -> float | str:
    if math.isfinite(number):
        return number
    if math.isnan(number):
        return "NaN"
    return "Infinity" if number > 0 else "-Infinity"


def _event(message: Span.Event) -> dict[str, Any]:
    return {
        "timeUnixNano": str(message.time_unix_nano),
        "name": message.name,
        "attributes": attributes(message.attributes),
    } | _present({"droppedAttributesCount": message.dropped_attributes_count})


def _link(message: Span.Link) -> dict[str, Any]:
    return {
        "traceId": message.trace_id.hex(),
        "spanId": message.span_id.hex(),
        "attributes": attributes(message.attributes),
    } | _present(
        {
            "traceState": message.trace_state,
            "flags": message.flags,
            "droppedAttributesCount": message.dropped_attributes_count,
        }
    )


def _present(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value}

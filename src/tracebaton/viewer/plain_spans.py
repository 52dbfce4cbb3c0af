"""
Spans of OTLP JSON without protobuf's own JSON parser, which needs 100 µs for one.

What is read here is what exporters write. Anything else (a nested value, a name for an enum, a
field that is not known) is left to the parser, which also says what is wrong with it.
"""

import math
from binascii import unhexlify
from collections.abc import Iterable, Mapping
from typing import Any, Final

from opentelemetry.proto.trace.v1.trace_pb2 import Span

__all__ = ["plain_span"]

#: What a field that is written as it is has to be, and its name in protobuf.
COPIED: Final[Mapping[str, tuple[str, type]]] = {
    "name": ("name", str),
    "kind": ("kind", int),
    "traceState": ("trace_state", str),
    "flags": ("flags", int),
    "droppedAttributesCount": ("dropped_attributes_count", int),
    "droppedEventsCount": ("dropped_events_count", int),
    "droppedLinksCount": ("dropped_links_count", int),
    "code": ("code", int),
    "message": ("message", str),
}
IDS: Final = {"traceId": "trace_id", "spanId": "span_id", "parentSpanId": "parent_span_id"}
TIMES: Final = {
    "startTimeUnixNano": "start_time_unix_nano",
    "endTimeUnixNano": "end_time_unix_nano",
    "timeUnixNano": "time_unix_nano",
}
SCALARS: Final[Mapping[str, tuple[str, type]]] = {
    "stringValue": ("string_value", str),
    "boolValue": ("bool_value", bool),
    "doubleValue": ("double_value", float),
    "intValue": ("int_value", int),
}
#: The highest number of an enum that has a meaning, by its field.
ENUMS: Final[dict[str, int]] = {"kind": max(Span.SpanKind.values()), "code": 2}


def plain_span(raw: Any) -> Span | None:
    """Return what *raw* says, None where protobuf's parser has to look at it."""
    try:
        return Span(**_fields(raw))
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError):
        return None


def _fields(raw: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in raw.items():
        if name in IDS:
            fields[IDS[name]] = unhexlify(value)
        elif name in TIMES:
            fields[TIMES[name]] = _whole(value)
        elif name == "attributes":
            fields[name] = _attributes(value)
        elif name in ("events", "links"):
            fields[name] = [_fields(one) for one in value]
        elif name == "status":
            fields[name] = _fields(value)
        else:
            fields[COPIED[name][0]] = _copied(name, value)
    return fields


def _copied(name: str, value: Any) -> Any:
    found = type(value)
    if found is not COPIED[name][1] or (name in ENUMS and not 0 <= value <= ENUMS[name]):
        raise TypeError(name)
    return value


def _attributes(raw: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for item in raw:
        ((kind, value),) = item["value"].items()
        (name, wanted), given = SCALARS[kind], type(value)
        if kind == "intValue":
            value = _whole(value)
        elif given is not wanted or (wanted is float and not math.isfinite(value)):
            raise TypeError(kind)
        found.append({"key": item["key"], "value": {name: value}})
    return found


def _whole(value: Any) -> int:
    """Return a 64-bit number, which OTLP JSON writes as text so that JavaScript can carry it."""
    if type(value) not in (str, int) or (type(value) is str and not value.lstrip("-").isdecimal()):
        raise TypeError(value)
    return int(value)

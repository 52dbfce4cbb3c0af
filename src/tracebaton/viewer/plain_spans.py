"""
Rows made of OTLP JSON without protobuf's own JSON parser, which needs 100 µs for a span.

What is read here is what exporters write. Anything else (a nested value, a name for an enum, a
field that is not known) is left to the parser, which also says what is wrong with it. Fields and
their numbers are those of ``opentelemetry/proto/trace/v1/trace.proto``.
"""

import math
import struct
from binascii import unhexlify
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tracebaton.protobuf import sized, varint
from tracebaton.viewer.otlp_json import parsed
from tracebaton.viewer.rows import (
    ENTRY_KINDS,
    INDEXED,
    MAX_TEXT,
    MAX_TIME,
    SpanRow,
    encode_origin,
    is_id,
    service_name,
    span_rows,
)

__all__ = ["json_span_rows", "plain_row"]

#: The fields that every span has; the others stand in `_REST`.
_OFTEN: Final = frozenset(
    {
        *("traceId", "spanId", "parentSpanId", "name", "kind", "attributes", "status"),
        *("startTimeUnixNano", "endTimeUnixNano"),
    }
)
_MOMENTS: Final = struct.Struct("<BQBQ")
_DOUBLE: Final = struct.Struct("<Bd")
_INT64: Final = range(-(2**63), 2**63)
_COUNT: Final = range(2**32)
_KINDS: Final = range(max(Span.SpanKind.values()) + 1)
_CODES: Final = range(max(Status.StatusCode.values()) + 1)
#: Characters of a key and its value up to which the pair is kept as it is written.
_KEPT_TEXT: Final = 256


def json_span_rows(document: Any) -> tuple[list[SpanRow], int]:
    """
    Return what `span_rows()` returns of the request that *document* is; its spans are taken out.

    Raises:
        ValueError: *document* is no export request.
    """
    taken = _spans_taken(document)
    request = parsed(document, ExportTraceServiceRequest())
    rows: list[SpanRow] = []
    for at, inner, spans in taken:
        group = request.resource_spans[at]
        scoped = group.scope_spans[inner]
        service, origin = service_name(group.resource), encode_origin(group, scoped)
        for raw in spans:
            if row := plain_row(raw, service, origin):
                rows.append(row)
            else:
                parsed(raw, scoped.spans.add())
    odd, rejected = span_rows(request)
    return rows + odd, rejected


def _spans_taken(document: Any) -> list[tuple[int, int, list[Any]]]:
    """Take the spans out of *document*, each list with the place of its scope."""
    taken = []
    try:
        for at, group in enumerate(document.get("resourceSpans") or ()):
            for inner, scoped in enumerate(group.get("scopeSpans") or ()):
                if isinstance(scoped.get("spans"), list):
                    taken.append((at, inner, scoped.pop("spans")))
    except (AttributeError, TypeError) as exc:
        raise ValueError(f"not an OTLP JSON request: {exc}") from exc
    return taken


def plain_row(raw: Any, service: str, origin: bytes) -> SpanRow | None:
    """Return the row of *raw*, None where protobuf's parser has to look at it."""
    try:
        return _row(raw, service, origin)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError, struct.error):
        return None


def _row(raw: Mapping[str, Any], service: str, origin: bytes) -> SpanRow:
    read = raw.get
    trace_id, span_id = _id(raw["traceId"], 16), _id(raw["spanId"], 8)
    parent, kind = unhexlify(read("parentSpanId", "")), _in(_KINDS, read("kind", 0))
    start, end = _whole(read("startTimeUnixNano", 0)), _whole(read("endTimeUnixNano", 0))
    name = read("name", "")
    encoded = name.encode()
    parts = [b"\n\x10", trace_id, b"\x12\x08", span_id, b"*", varint(len(encoded)), encoded]
    parts += (b"0", varint(kind), _MOMENTS.pack(0x39, start, 0x41, end))
    if parent:
        parts.append(sized(b'"', parent))
    indexed: dict[str, str] = {}
    if "attributes" in raw:
        _attributes(b"J", raw["attributes"], parts, indexed)
    status = read("status")
    if status is not None:
        parts.append(_message(b"z", status, _STATUS))
    for field in raw.keys() - _OFTEN:
        parts.append(_REST[field](raw[field]))
    start = min(start, MAX_TIME)
    return SpanRow(
        trace_id,
        span_id,
        start,
        max(start, min(end, MAX_TIME)),
        not parent,
        not parent or kind in ENTRY_KINDS,
        status is not None and status.get("code") == Status.STATUS_CODE_ERROR,
        name[:MAX_TEXT],
        service,
        indexed,
        origin,
        b"".join(parts),
    )


def _attributes(
    tag: bytes, items: Iterable[Mapping[str, Any]], parts: list[bytes], indexed: dict[str, str]
) -> None:
    """Add *items* to *parts*, and to *indexed* what of them is looked for."""
    for item in items:
        key = item["key"]
        ((kind, value),) = item["value"].items()
        short = type(value) is str and len(key) + len(value) < _KEPT_TEXT
        encoded, wanted = (_kept_pair if short else _pair)(tag, key, kind, value)
        parts.append(encoded)
        if wanted:
            indexed[key] = wanted


def _pair(tag: bytes, key: str, kind: str, value: Any) -> tuple[bytes, str]:
    """Return an attribute, and its text where it is looked for."""
    encoded, told = _SCALARS[kind](value)
    pair = sized(tag, sized(b"\n", key.encode()) + sized(b"\x12", encoded))
    return pair, told[:MAX_TEXT] if key in INDEXED else ""


#: A trace says its ids on each of its spans, and a service its names: two of three pairs recur.
_kept_pair: Final = lru_cache(maxsize=4096)(_pair)


def _string(value: str) -> tuple[bytes, str]:
    return sized(b"\n", value.encode()), value


def _bool(value: Any) -> tuple[bytes, str]:
    if type(value) is not bool:
        raise TypeError(value)
    return (b"\x10\x01", "true") if value else (b"\x10\x00", "false")


def _int(value: Any) -> tuple[bytes, str]:
    number = _in(_INT64, _whole(value))
    return b"\x18" + varint(number & 0xFFFF_FFFF_FFFF_FFFF), str(number)


def _double(value: Any) -> tuple[bytes, str]:
    """JavaScript writes 1 for 1.0."""
    if type(value) not in (float, int) or not math.isfinite(value):
        raise TypeError(value)
    return _DOUBLE.pack(0x21, value), str(float(value))


_SCALARS: Final[Mapping[str, Callable[[Any], tuple[bytes, str]]]] = {
    "stringValue": _string,
    "boolValue": _bool,
    "doubleValue": _double,
    "intValue": _int,
}


def _message(
    tag: bytes, raw: Mapping[str, Any], fields: Mapping[str, Callable[[Any], bytes]]
) -> bytes:
    return sized(tag, b"".join([fields[name](value) for name, value in raw.items()]))


def _listed(
    tag: bytes, fields: Mapping[str, Callable[[Any], bytes]]
) -> Callable[[Iterable[Mapping[str, Any]]], bytes]:
    return lambda raw: b"".join([_message(tag, one, fields) for one in raw])


def _pairs(tag: bytes) -> Callable[[Iterable[Mapping[str, Any]]], bytes]:
    def write(raw: Iterable[Mapping[str, Any]]) -> bytes:
        parts: list[bytes] = []
        _attributes(tag, raw, parts, {})
        return b"".join(parts)

    return write


def _number(tag: bytes, allowed: range = _COUNT) -> Callable[[Any], bytes]:
    return lambda value: tag + varint(_in(allowed, value))


def _flags(tag: bytes) -> Callable[[Any], bytes]:
    return lambda value: tag + _in(_COUNT, value).to_bytes(4, "little")


def _hex(tag: bytes) -> Callable[[Any], bytes]:
    return lambda value: sized(tag, unhexlify(value))


def _str(tag: bytes) -> Callable[[Any], bytes]:
    return lambda value: sized(tag, value.encode())


_STATUS: Final = {"message": _str(b"\x12"), "code": _number(b"\x18", _CODES)}
_EVENT: Final[Mapping[str, Callable[[Any], bytes]]] = {
    "timeUnixNano": lambda value: b"\x09" + _whole(value).to_bytes(8, "little"),
    "name": _str(b"\x12"),
    "attributes": _pairs(b"\x1a"),
    "droppedAttributesCount": _number(b" "),
}
_LINK: Final[Mapping[str, Callable[[Any], bytes]]] = {
    "traceId": _hex(b"\n"),
    "spanId": _hex(b"\x12"),
    "traceState": _str(b"\x1a"),
    "attributes": _pairs(b'"'),
    "droppedAttributesCount": _number(b"("),
    "flags": _flags(b"5"),
}
_REST: Final[Mapping[str, Callable[[Any], bytes]]] = {
    "traceState": _str(b"\x1a"),
    "droppedAttributesCount": _number(b"P"),
    "events": _listed(b"Z", _EVENT),
    "droppedEventsCount": _number(b"`"),
    "links": _listed(b"j", _LINK),
    "droppedLinksCount": _number(b"p"),
    "flags": _flags(b"\x85\x01"),
}


def _id(value: Any, size: int) -> bytes:
    found = unhexlify(value)
    if not is_id(found, size):
        raise ValueError(value)
    return found


def _in(allowed: range, value: Any) -> int:
    if type(value) is not int or value not in allowed:
        raise TypeError(value)
    return value


def _whole(value: Any) -> int:
    """Return a 64-bit number, which OTLP JSON writes as text so that JavaScript can carry it."""
    if type(value) is str:
        if not value.lstrip("-").isdecimal():
            raise TypeError(value)
        return int(value)
    if type(value) is not int:
        raise TypeError(value)
    return value

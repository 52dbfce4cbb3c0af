"""
Spans as OTLP has them on the wire, written straight to bytes.

The SDK's encoder makes a protobuf object of each attribute, which is most of what a span costs
outside the request. Fields and numbers are those of ``opentelemetry/proto/trace/v1/trace.proto``,
their form is https://protobuf.dev/programming-guides/encoding/.
"""

import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, Status, StatusCode

from tracebaton.protobuf import sized, varint
from tracebaton.telemetry.masking import dict_of

__all__ = ["encoded"]

_INT64: Final = range(-(2**63), 2**63)
_MOMENTS: Final = struct.Struct("<BQBQ")
_DOUBLE: Final = struct.Struct("<Bd")
#: Of a span's and a link's flags: whether it is known that the context came from elsewhere, and so.
_IS_KNOWN, _IS_REMOTE = 0x100, 0x200


def encoded(spans: Sequence[ReadableSpan]) -> bytes:
    """
    Return *spans* as an ``ExportTraceServiceRequest``.

    Text that is no Unicode loses what is not, and an integer of more than 64 bits becomes a string:
    neither costs the span, nor the batch.
    """
    # By identity: a resource's hash serialises it to JSON, and a process has one resource.
    grouped: dict[int, tuple[Resource, dict[InstrumentationScope | None, list[bytes]]]] = {}
    for span in spans:
        _, scopes = grouped.setdefault(id(span.resource), (span.resource, {}))
        scopes.setdefault(span.instrumentation_scope, []).append(sized(b"\x12", _span(span)))
    return b"".join(sized(b"\n", _of_resource(*group)) for group in grouped.values())


def _of_resource(
    resource: Resource, scopes: Mapping[InstrumentationScope | None, list[bytes]]
) -> bytes:
    attributes = _attributes(b"\n", resource.attributes)
    parts = [sized(b"\n", b"".join(attributes))]
    for scope, spans in scopes.items():
        told = b"" if scope is None else _scope(scope)
        schema = b"" if scope is None else _text(b"\x1a", scope.schema_url)
        parts.append(sized(b"\x12", sized(b"\n", told) + b"".join(spans) + schema))
    return b"".join(parts) + _text(b"\x1a", resource.schema_url)


def _scope(scope: InstrumentationScope) -> bytes:
    named = _text(b"\n", scope.name) + _text(b"\x12", scope.version)
    return named + b"".join(_attributes(b"\x1a", scope.attributes))


def _span(span: ReadableSpan) -> bytes:
    context, parent = span.context, span.parent
    parts = [b"" if context is None else _ids(context)]
    if context is not None and context.trace_state:
        parts.append(_text(b"\x1a", context.trace_state.to_header()))
    if parent is not None:
        parts.append(b'"\x08' + parent.span_id.to_bytes(8, "big"))
    parts += (
        _text(b"*", span.name),
        b"0" + varint(span.kind.value + 1),  # the protocol's 0 is "unspecified"
        _MOMENTS.pack(0x39, span.start_time or 0, 0x41, span.end_time or 0),
        *_attributes(b"J", span.attributes),
        _count(b"P", span.dropped_attributes),
    )
    if span.events:
        parts += (sized(b"Z", _event(event)) for event in span.events)
    parts.append(_count(b"`", span.dropped_events))
    if span.links:
        parts += (sized(b"j", _link(link)) for link in span.links)
    parts += (_count(b"p", span.dropped_links), _status(span.status), b"\x85\x01", _flags(parent))
    return b"".join(parts)


def _ids(context: SpanContext) -> bytes:
    trace_id, span_id = context.trace_id.to_bytes(16, "big"), context.span_id.to_bytes(8, "big")
    return b"\n\x10" + trace_id + b"\x12\x08" + span_id


def _flags(context: SpanContext | None) -> bytes:
    remote = context is not None and context.is_remote
    return (_IS_KNOWN | _IS_REMOTE if remote else _IS_KNOWN).to_bytes(4, "little")


def _status(status: Status) -> bytes:
    if status.status_code is StatusCode.UNSET and not status.description:
        return b"z\x00"
    said = _text(b"\x12", status.description) + _count(b"\x18", status.status_code.value)
    return sized(b"z", said)


def _event(event: Event) -> bytes:
    parts = [b"\x09", event.timestamp.to_bytes(8, "little"), _text(b"\x12", event.name)]
    parts += _attributes(b"\x1a", event.attributes)
    return b"".join(parts) + _count(b" ", event.dropped_attributes)


def _link(link: Link) -> bytes:
    parts = [_ids(link.context), *_attributes(b'"', link.attributes)]
    return b"".join(parts) + _count(b"(", link.dropped_attributes) + b"5" + _flags(link.context)


def _attributes(tag: bytes, attributes: Mapping[str, Any] | None) -> list[bytes]:
    parts: list[bytes] = []
    for name, value in dict_of(attributes).items():
        kind = type(value)
        if kind is str:  # most are
            told = value.encode("utf-8", "replace")
            length = len(told)
            if length < _SHORT:
                parts += (_before_text(tag, name, length), told)
                continue
            told = sized(b"\n", told)
        elif kind is int and value in _INT64:
            told = b"\x18" + varint(value & 0xFFFF_FFFF_FFFF_FFFF)
        elif kind is float:
            told = _DOUBLE.pack(0x21, value)
        else:
            told = _value(value)
        length = len(told)
        before = _before(tag, name, length) if length < _SHORT else _beginning(tag, name, length)
        parts += (before, told)
    return parts


def _beginning(tag: bytes, name: str, length: int) -> bytes:
    """Return what of a pair stands before its value, an ``AnyValue`` of *length* bytes."""
    key, size = _key(name), varint(length)
    return tag + varint(len(key) + len(size) + length) + key + size


#: The same for short values: names come again and again, and with them lengths.
_before: Final = lru_cache(maxsize=4096)(_beginning)


@lru_cache(maxsize=4096)
def _before_text(tag: bytes, name: str, length: int) -> bytes:
    """Return what of a pair stands before a text of *length* bytes."""
    own = b"\n" + varint(length)
    return _beginning(tag, name, len(own) + length) + own


@lru_cache(maxsize=1024)
def _key(name: str) -> bytes:
    """Return a pair's key, and the tag of the value behind it."""
    return _text(b"\n", name) + b"\x12"


def _value(value: Any) -> bytes:
    """Return *value* as an ``AnyValue``."""
    if value is None:
        return b""
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int) and value in _INT64:
        return b"\x18" + varint(value & 0xFFFF_FFFF_FFFF_FFFF)
    if isinstance(value, float):
        return _DOUBLE.pack(0x21, value)
    if isinstance(value, bytes):
        return sized(b":", value)
    if isinstance(value, Mapping):
        return sized(b"2", b"".join(_attributes(b"\n", {str(k): v for k, v in value.items()})))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return sized(b"*", b"".join(sized(b"\n", _value(one)) for one in value))
    return sized(b"\n", str(value).encode("utf-8", "replace"))


def _text(tag: bytes, text: str | None) -> bytes:
    return sized(tag, text.encode("utf-8", "replace")) if text else b""


def _count(tag: bytes, number: int) -> bytes:
    return tag + varint(number) if number else b""


#: Bytes of a value from which on it is rare that the length comes again.
_SHORT: Final = 128

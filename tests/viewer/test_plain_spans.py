"""The short way for JSON spans says what protobuf's own parser says, or leaves it to that."""

import base64
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tracebaton.viewer.plain_spans import plain_row
from tracebaton.viewer.rows import INDEXED, span_rows

#: Longer and shorter than what a length of one byte tells.
TEXTS = st.one_of(st.text(max_size=5), st.just("é" * 300))
SCALARS = st.one_of(
    st.fixed_dictionaries({"stringValue": TEXTS}),
    st.fixed_dictionaries({"intValue": st.integers(-(2**63), 2**63 - 1).map(str)}),
    st.fixed_dictionaries({"boolValue": st.booleans()}),
    st.fixed_dictionaries({"doubleValue": st.floats(allow_nan=False, allow_infinity=False)}),
    st.fixed_dictionaries({"doubleValue": st.integers(-5, 5)}),
)
KEYS = st.one_of(st.text(max_size=5), st.just("k" * 200), st.sampled_from(sorted(INDEXED)))
ATTRIBUTES = st.lists(st.fixed_dictionaries({"key": KEYS, "value": SCALARS}), max_size=4)
TIMES = st.integers(0, 2**64 - 1).flatmap(lambda number: st.sampled_from([number, str(number)]))
SPAN_IDS, TRACE_IDS = (
    st.binary(min_size=size, max_size=size).filter(any).map(bytes.hex) for size in (8, 16)
)
COUNTS = st.integers(0, 2**32 - 1)
EVENTS = st.fixed_dictionaries(
    {"name": st.text(max_size=5)},
    optional={"timeUnixNano": TIMES, "attributes": ATTRIBUTES, "droppedAttributesCount": COUNTS},
)
LINKS = st.fixed_dictionaries(
    {"traceId": TRACE_IDS, "spanId": SPAN_IDS},
    optional={"attributes": ATTRIBUTES, "flags": COUNTS, "traceState": st.just("a=b")},
)
SPANS = st.fixed_dictionaries(
    {"traceId": TRACE_IDS, "spanId": SPAN_IDS, "name": st.text(max_size=5)},
    optional={
        "parentSpanId": SPAN_IDS,
        "kind": st.integers(0, 5),
        "startTimeUnixNano": TIMES,
        "endTimeUnixNano": TIMES,
        "attributes": ATTRIBUTES,
        "events": st.lists(EVENTS, max_size=2),
        "links": st.lists(LINKS, max_size=2),
        "status": st.fixed_dictionaries(
            {}, optional={"code": st.integers(0, 2), "message": st.text(max_size=5)}
        ),
        "flags": COUNTS,
        "droppedEventsCount": COUNTS,
        "droppedLinksCount": COUNTS,
    },
)
PLAIN = {"traceId": "ab" * 16, "spanId": "cd" * 8, "name": "a"}


def parsed(span: dict[str, Any]) -> Span:
    """Return what protobuf's parser makes of *span*, whose ids it wants in base64."""
    return json_format.ParseDict(_in_base64(span), Span())


def _in_base64(node: Any) -> Any:
    if isinstance(node, list):
        return [_in_base64(one) for one in node]
    if not isinstance(node, dict):
        return node
    ids = ("traceId", "spanId", "parentSpanId")
    return {
        name: base64.b64encode(bytes.fromhex(value)).decode() if name in ids else _in_base64(value)
        for name, value in node.items()
    }


@given(span=SPANS)
def test_what_exporters_write_is_read_as_the_parser_reads_it(span: dict[str, Any]) -> None:
    """Every field of it, to the last digit."""
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.append(parsed(span))
    (wanted,), _ = span_rows(request)

    row = plain_row(span, wanted.service, wanted.origin)

    assert row is not None
    assert row._replace(body=b"") == wanted._replace(body=b"")
    assert Span.FromString(row.body) == Span.FromString(wanted.body)


@pytest.mark.parametrize(
    "odd",
    [
        {"some_future_field": 1},
        {"kind": "SPAN_KIND_SERVER"},
        {"kind": True},
        {"kind": 77},
        {"name": None},
        {"name": "\ud800"},
        {"traceState": 5},
        {"endTimeUnixNano": 2**64},
        {"startTimeUnixNano": 1.5},
        {"startTimeUnixNano": "1e3"},
        {"startTimeUnixNano": " 5"},
        {"startTimeUnixNano": -1},
        {"flags": 2**32},
        {"traceId": "xyz"},
        {"traceId": "ab"},
        {"spanId": "00" * 8},
        {"spanId": 5},
        {"status": {"code": 9}},
        {"attributes": {}} | {"events": 5},
        {"attributes": [{"key": "a", "value": {"arrayValue": {"values": []}}}]},
        {"attributes": [{"key": "a", "value": {"stringValue": 5}}]},
        {"attributes": [{"key": "a", "value": {"doubleValue": "NaN"}}]},
        {"attributes": [{"key": "a", "value": {"doubleValue": float("inf")}}]},
        {"attributes": [{"key": "a", "value": {"intValue": 2**70}}]},
        {"attributes": [{"key": 5, "value": {"stringValue": "a"}}]},
        {"attributes": [{"value": {"stringValue": "a"}}]},
    ],
)
def test_whatever_else_is_left_to_the_parser(odd: dict[str, Any]) -> None:
    """It knows what is allowed, and says what is not."""
    assert plain_row(PLAIN, "api", b"") is not None
    assert plain_row(PLAIN | odd, "api", b"") is None

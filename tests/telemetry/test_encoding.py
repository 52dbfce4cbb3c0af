"""
Spans on the wire are what the SDK's own encoder makes of them.
"""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceState
from opentelemetry.trace.span import TraceFlags

from tracebaton.telemetry.encoding import encoded
from tracebaton.telemetry.otlp import otlp_span_exporter

_TEXT = st.text(st.characters(codec="utf-8"), max_size=200)
_NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=200)
_INTEGERS = st.integers(-(2**63), 2**63 - 1)
_PLAIN = (
    _TEXT | st.booleans() | _INTEGERS | st.floats(allow_nan=False) | st.binary(max_size=20)
) | st.none()
_VALUES = st.recursive(
    _PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3),
    max_leaves=6,
)
_ATTRIBUTES = st.dictionaries(_NAMES, _VALUES, max_size=6)
_MOMENTS = st.integers(0, 2**64 - 1)
_CONTEXTS = st.builds(
    SpanContext,
    trace_id=st.integers(1, 2**128 - 1),
    span_id=st.integers(1, 2**64 - 1),
    is_remote=st.booleans(),
    trace_flags=st.sampled_from([TraceFlags(0), TraceFlags(1)]),
    trace_state=st.sampled_from([TraceState(), TraceState([("a", "1"), ("b", "2")])]),
)
_SCOPES = st.builds(
    InstrumentationScope,
    name=_NAMES,
    version=st.none() | _TEXT,
    schema_url=st.none() | _TEXT,
    attributes=st.none() | st.dictionaries(_NAMES, _TEXT, max_size=2),
)
_RESOURCES = st.sampled_from(
    [
        Resource({}),
        Resource({"service.name": "shop", "process.pid": 7}),
        Resource({"service.name": "till"}, "https://opentelemetry.io/schemas/1.37.0"),
    ]
)
_SPANS = st.builds(
    ReadableSpan,
    name=_TEXT,
    context=_CONTEXTS,
    parent=st.none() | _CONTEXTS,
    resource=_RESOURCES,
    attributes=_ATTRIBUTES,
    events=st.lists(
        st.builds(Event, name=_TEXT, attributes=_ATTRIBUTES, timestamp=_MOMENTS), max_size=2
    ),
    links=st.lists(st.builds(Link, context=_CONTEXTS, attributes=_ATTRIBUTES), max_size=2),
    kind=st.sampled_from(list(SpanKind)),
    status=st.one_of(
        st.just(Status()),
        st.just(Status(StatusCode.OK)),
        st.builds(Status, st.just(StatusCode.ERROR), st.none() | _TEXT),
    ),
    start_time=_MOMENTS,
    end_time=_MOMENTS,
    instrumentation_scope=st.none() | _SCOPES,
)


def _read(spans: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
    return ExportTraceServiceRequest.FromString(encoded(spans))


@given(st.lists(_SPANS, max_size=4))
def test_any_spans_are_encoded_as_by_the_sdk(spans: list[ReadableSpan]) -> None:
    """Whatever stands in them, another program reads the same."""
    assert _read(spans) == encode_spans(spans)


def test_many_equal_spans_share_resource_and_scope() -> None:
    """A batch names its process once, in the very bytes of the SDK's encoder."""
    resource, scope = Resource({"service.name": "shop"}), InstrumentationScope("tracebaton", "1")
    spans = [_span({"number": n}, resource=resource, scope=scope) for n in range(300)]

    assert encoded(spans) == encode_spans(spans).SerializeToString()


@pytest.mark.parametrize("length", [0, 1, 100, 124, *range(126, 131), 300, 1100, 20_000])
@pytest.mark.parametrize("name", ["n", "n" * 130])
def test_texts_of_any_length_are_encoded_as_by_the_sdk(length: int, name: str) -> None:
    """Around the lengths that take another byte to say, in a list too."""
    text = "a" * length
    attributes = {name: text, "list": (text, 1), "bytes": text.encode()}
    resource = Resource({})
    spans = [_span(attributes, resource=resource) for _ in range(2)]

    assert _read(spans) == encode_spans(spans)


def _span(
    attributes: dict[str, Any],
    *,
    name: str = "work",
    resource: Resource | None = None,
    scope: InstrumentationScope | None = None,
) -> ReadableSpan:
    return ReadableSpan(
        name=name,
        context=SpanContext(1, 2, is_remote=False),
        resource=resource or Resource({}),
        attributes=attributes,
        kind=SpanKind.INTERNAL,
        status=Status(),
        start_time=1,
        end_time=2,
        instrumentation_scope=scope,
    )


@pytest.mark.parametrize(
    ("value", "kind", "read"),
    [
        ("half \ud800", "string_value", "half ?"),
        (2**63, "string_value", "9223372036854775808"),
        (-(2**70), "string_value", "-1180591620717411303424"),
    ],
)
def test_what_the_protocol_has_no_form_for_becomes_text(value: Any, kind: str, read: str) -> None:
    """The SDK drops such an attribute, and for a name of that kind the whole batch."""
    request = _read([_span({"odd": value}, name="half \ud800")])
    span = request.resource_spans[0].scope_spans[0].spans[0]

    assert span.name == "half ?"
    assert getattr(span.attributes[0].value, kind) == read


def test_the_sdk_encodes_where_its_exporter_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exporter whose insides we do not know is used as it is."""
    exporter = otlp_span_exporter("http://127.0.0.1:1/v1/traces")
    seen: list[int] = []

    def export(self: OTLPSpanExporter, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        seen.append(len(spans))
        return SpanExportResult.SUCCESS

    with monkeypatch.context() as patched:
        patched.setattr(OTLPSpanExporter, "export", export)
        patched.delattr(exporter, "_client")
        result = exporter.export([_span({})])
    exporter.shutdown()

    assert (result, seen) == (SpanExportResult.SUCCESS, [1])

"""The OTLP intake: encodings, bounds, and answers in the encoding of the request."""

import base64
import gzip
import json
import zlib
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tracebaton.viewer import otlp_json
from tracebaton.viewer.ingest import MAX_BODY
from tracebaton.viewer.otlp_json import parsed
from tracebaton.viewer.plain_spans import json_span_rows
from tracebaton.viewer.rows import span_rows
from tracebaton.viewer.spans import Limits

PROTOBUF = {"content-type": "application/x-protobuf"}
JSON = {"content-type": "application/json"}

SPAN: dict[str, Any] = {
    "traceId": "5B8EFFF798038103D269B633813FC60C",
    "spanId": "eee19b7ec3c1b174",
    "parentSpanId": "eee19b7ec3c1b173",
    "name": "I'm a server span",
    "kind": 2,
    "startTimeUnixNano": "1544712660000000001",
    "endTimeUnixNano": 1544712661000000000,
    "attributes": [{"key": "my.span.attr", "value": {"intValue": "9007199254740993"}}],
    "links": [{"traceId": "5b8efff798038103d269b633813fc60d", "spanId": "eee19b7ec3c1b175"}],
    "someFutureField": {"a": 1},
}


def as_json(*spans: Any) -> bytes:
    """Return an OTLP JSON request."""
    scoped = {"scope": {"name": "my.library"}, "spans": spans}
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "my.service"}}]}
    return json.dumps({"resourceSpans": [{"resource": resource, "scopeSpans": [scoped]}]}).encode()


async def test_protobuf_is_stored_and_answered_in_protobuf(client, otlp):
    """The exporter's default encoding."""
    body = otlp.spans({"name": "GET /a"}).SerializeToString()

    response = await client.post("/v1/traces", content=body, headers=PROTOBUF)

    assert (response.status_code, response.headers["content-type"]) == (
        200,
        PROTOBUF["content-type"],
    )
    assert ExportTraceServiceResponse.FromString(response.content) == ExportTraceServiceResponse()
    assert [trace["name"] for trace in (await client.get("/api/traces")).json()["traces"]] == [
        "GET /a"
    ]


async def test_json_has_hex_ids_and_comes_back_as_it_was_sent(client):
    """The example of the OTLP specification survives, 64-bit numbers and all."""
    response = await client.post("/v1/traces", content=as_json(SPAN), headers=JSON)
    trace = (await client.get(f"/api/traces/{SPAN['traceId']}")).json()

    assert (response.status_code, response.json()) == (200, {})
    assert response.headers["content-type"] == "application/json"
    assert trace == {
        "resourceSpans": [
            {
                "resource": {
                    "attributes": [{"key": "service.name", "value": {"stringValue": "my.service"}}]
                },
                "scopeSpans": [
                    {
                        "scope": {"name": "my.library"},
                        "spans": [
                            {
                                "traceId": "5b8efff798038103d269b633813fc60c",
                                "spanId": "eee19b7ec3c1b174",
                                "parentSpanId": "eee19b7ec3c1b173",
                                "name": "I'm a server span",
                                "kind": 2,
                                "startTimeUnixNano": "1544712660000000001",
                                "endTimeUnixNano": "1544712661000000000",
                                "attributes": SPAN["attributes"],
                                "events": [],
                                "links": [SPAN["links"][0] | {"attributes": []}],
                                "status": {},
                            }
                        ],
                        "schemaUrl": "",
                    }
                ],
                "schemaUrl": "",
            }
        ]
    }


async def test_json_of_the_api_is_valid_protobuf_json(client, otlp):
    """What the API hands out can be posted back, whole."""
    request = otlp.spans({"name": "a"})
    span = request.resource_spans[0].scope_spans[0].spans[0]
    event = span.events.add(name="exception", time_unix_nano=5, dropped_attributes_count=1)
    for number in (float("inf"), float("-inf"), float("nan"), 1.5):
        event.attributes.add(key="d").value.double_value = number
    value = span.attributes.add(key="deep").value
    value.kvlist_value.values.add(key="raw").value.bytes_value = b"\x00\xff"
    value.kvlist_value.values.add(key="list").value.array_value.values.add().bool_value = True
    span.attributes.add(key="unset")
    span.trace_state, span.flags, span.dropped_links_count = "a=b", 257, 3
    await client.post("/v1/traces", content=request.SerializeToString(), headers=PROTOBUF)
    path = f"/api/traces/{otlp.trace_hex(1)}"
    first = await client.get(path)

    again = await client.post("/v1/traces", content=first.content, headers=JSON)

    assert again.status_code == 200
    assert (await client.get(path)).json() == first.json()
    deep = first.json()["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["attributes"][0]["value"]
    assert deep == {
        "kvlistValue": {
            "values": [
                {"key": "raw", "value": {"bytesValue": base64.b64encode(b"\x00\xff").decode()}},
                {"key": "list", "value": {"arrayValue": {"values": [{"boolValue": True}]}}},
            ]
        }
    }


@pytest.mark.parametrize("path", ["/v1/traces", "/v1/logs"])
async def test_gzip_is_accepted(client, otlp, path):
    """Both signals may come compressed."""
    request = otlp.spans({}) if path == "/v1/traces" else otlp.logs("hello")
    body = gzip.compress(request.SerializeToString())

    response = await client.post(
        path, content=body, headers=PROTOBUF | {"content-encoding": "gzip"}
    )

    assert response.status_code == 200
    assert (await client.get(f"/api/traces/{otlp.trace_hex(1)}/logs")).status_code == 200


async def test_a_span_without_valid_ids_is_rejected_and_counted(client, otlp):
    """The answer is a partial success; the rest of the batch is stored."""
    bad = [SPAN | {"traceId": "0" * 32}, SPAN | {"spanId": "abcd"}, SPAN]

    response = await client.post("/v1/traces", content=as_json(*bad), headers=JSON)

    assert response.json()["partialSuccess"]["rejectedSpans"] == "2"
    assert (await client.get("/api/traces")).json()["traces"][0]["spans"] == 1


async def test_a_batch_may_mix_what_is_plain_and_what_is_not(client):
    """Both kinds of span are in their trace, with their service and their scope."""
    plain = {name: value for name, value in SPAN.items() if name != "someFutureField"}

    await client.post(
        "/v1/traces", content=as_json(plain, SPAN | {"spanId": "ab" * 8}), headers=JSON
    )

    (listed,) = (await client.get("/api/traces")).json()["traces"]
    trace = (await client.get(f"/api/traces/{SPAN['traceId']}")).json()
    (scoped,) = trace["resourceSpans"][0]["scopeSpans"]
    assert (listed["spans"], listed["services"]) == (2, ["my.service"])
    assert scoped["scope"] == {"name": "my.library"}
    assert [span["spanId"] for span in scoped["spans"]] == ["ab" * 8, plain["spanId"]]


MALFORMED = [
    (b"\x0a\xff\xff\xff\xff\x0fxx", PROTOBUF, "truncated protobuf"),
    (b"\x0a\x05\x12\x03\x12\x01\xff", PROTOBUF, "nonsense inside"),
    (b"{", JSON, "no JSON"),
    (b"\xff\xfe\x00", JSON, "no text"),
    (b"[]", JSON, "an array"),
    (b"17", JSON, "a number"),
    (b'{"resourceSpans": 1}', JSON, "a number for a list"),
    (b'{"resourceSpans": ["a"]}', JSON, "a string for an object"),
    (as_json(SPAN | {"traceId": "xyz"}), JSON, "an id that is no hex"),
    (as_json(SPAN | {"traceId": "é" * 32}), JSON, "an id outside ASCII"),
    (as_json(SPAN | {"traceId": 5}), JSON, "an id that is a number"),
    (as_json(SPAN | {"name": "\ud800"}), JSON, "half a surrogate pair"),
    (as_json(SPAN | {"startTimeUnixNano": -1}), JSON, "a time before time"),
    (as_json(SPAN | {"startTimeUnixNano": "9" * 30}), JSON, "a time beyond 64 bits"),
    (b"[" * 100_000, JSON, "nested beyond every stack"),
    (as_json(SPAN | {"status": {"code": 1e400}}), JSON, "an endless status"),
    (b"nope", PROTOBUF | {"content-encoding": "gzip"}, "no gzip"),
    (gzip.compress(b"")[:-3], PROTOBUF | {"content-encoding": "gzip"}, "half a gzip"),
    (gzip.compress(b"") + b"rest", PROTOBUF | {"content-encoding": "gzip"}, "gzip and more"),
]


@pytest.mark.parametrize(
    ("body", "headers"), [case[:2] for case in MALFORMED], ids=[case[2] for case in MALFORMED]
)
@pytest.mark.parametrize("path", ["/v1/traces"])
async def test_a_malformed_body_is_a_400_and_harms_nothing(client, otlp, path, body, headers):
    """The refusal is a google.rpc.Status in the request's encoding; what was stored stays."""
    await client.post(
        path, content=otlp.spans({"name": "before"}).SerializeToString(), headers=PROTOBUF
    )

    response = await client.post(path, content=body, headers=headers)

    status = read_status(response)
    assert (response.status_code, status["code"]) == (400, 3)
    assert status["message"]
    assert [trace["name"] for trace in (await client.get("/api/traces")).json()["traces"]] == [
        "before"
    ]


def read_status(response: Any) -> dict[str, Any]:
    """Return the google.rpc.Status of *response*."""
    if response.headers["content-type"] == "application/json":
        return response.json()
    return MessageToDict(Status.FromString(response.content))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        PROTOBUF | {"content-encoding": "deflate"},
        JSON | {"content-encoding": "br"},
    ],
)
async def test_other_content_types_and_encodings_are_a_415(client, headers):
    """What a form could send is not read either."""
    response = await client.post("/v1/traces", content=b"x", headers=headers)

    assert (response.status_code, read_status(response)["code"]) == (415, 3)


async def test_a_content_type_may_have_parameters(client, otlp):
    """``application/json; charset=utf-8`` is JSON."""
    headers = {"content-type": "Application/JSON; charset=utf-8"}

    assert (await client.post("/v1/traces", content=b"{}", headers=headers)).status_code == 200


async def test_a_body_over_ten_megabytes_is_a_413(client):
    """Declared or not, it is not read to its end."""

    async def endless():
        while True:
            yield b"x" * 1_000_000

    declared = await client.post("/v1/traces", content=b"x" * (MAX_BODY + 1), headers=PROTOBUF)
    streamed = await client.post("/v1/traces", content=endless(), headers=JSON)

    assert (declared.status_code, read_status(declared)["code"]) == (413, 8)
    assert (streamed.status_code, read_status(streamed)["code"]) == (413, 8)


async def test_a_gzip_bomb_is_a_413(client):
    """A gigabyte of zeros is a megabyte on the wire, and is not unpacked further than the limit."""
    packer = zlib.compressobj(wbits=31, level=9)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(64)) + packer.flush()

    response = await client.post(
        "/v1/traces", content=bomb, headers=PROTOBUF | {"content-encoding": "gzip"}
    )

    assert (len(bomb) < 100_000, response.status_code) == (True, 413)


async def test_other_methods_are_refused(client):
    """The intake is for POST."""
    response = await client.get("/v1/traces")

    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert response.json()["code"] == "method_not_allowed"


async def test_a_store_that_does_not_keep_up_is_a_503_with_retry_after(client, store, otlp):
    """An exporter then tries again; a closed store is the plainest way to be unable to write."""
    store.close()

    response = await client.post(
        "/v1/logs", content=otlp.logs("a").SerializeToString(), headers=PROTOBUF
    )

    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert read_status(response)["code"] == 14


def test_limits_have_the_documented_defaults():
    """Ten thousand traces of ten thousand spans."""
    assert (Limits().traces, Limits().spans_per_trace) == (10_000, 10_000)


KEYS = st.sampled_from(
    [
        *("resourceSpans", "scopeSpans", "spans", "links", "events", "attributes", "key", "value"),
        *("stringValue", "intValue", "kvlistValue", "arrayValue", "values", "name", "kind"),
        *("traceId", "spanId", "parentSpanId", "status", "code", "startTimeUnixNano"),
    ]
)
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just("ab" * 16)
)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4)
)


@given(tree=TREES, wrapped=st.booleans())
def test_no_json_is_worse_than_a_refusal(tree, wrapped):
    """Whatever its shape, it is a request or a ValueError."""
    document = tree
    if wrapped:
        document = json.loads(as_json(SPAN | (tree if isinstance(tree, dict) else {})))
    try:
        rows, rejected = json_span_rows(document)
    except ValueError:
        return

    assert not wrapped or len(rows) + rejected == 1


@given(body=st.binary(max_size=200), cut=st.integers(0, 100))
def test_no_protobuf_is_worse_than_a_refusal(body, cut):
    """Random bytes, and a request with random bytes in its midst."""
    request = json.loads(as_json(SPAN))
    whole = parsed(request, ExportTraceServiceRequest()).SerializeToString()
    for candidate in (body, whole[:cut] + body + whole[cut:]):
        try:
            request = ExportTraceServiceRequest.FromString(candidate)
        except DecodeError:
            continue
        for row in span_rows(request)[0]:
            json.dumps(otlp_json.span(Span.FromString(row.body)), allow_nan=False)

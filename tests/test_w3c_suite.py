"""
The cases of the W3C's trace-context validation suite (levels 1 and 2), by their names there.

Each request goes through a real ASGI app with ``instrument()``, which makes outgoing calls with an
instrumented httpx; what is judged is what those calls carry. The rows are our own, and stricter:
the whole ``tracestate`` is compared, not one member of it.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest
from opentelemetry import propagate
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tracebaton.http.middleware import instrument
from tracebaton.propagation import Propagator
from tracebaton.telemetry.sampling import HeadSampler
from tracebaton.w3c import parse_traceparent

TRACE, SPAN = "12345678901234567890123456789012", "1234567890123456"
PARENT, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"

Headers = list[tuple[str, str]]


class Row(NamedTuple):
    """One request: its headers, whether its trace goes on, and the tracestate that does."""

    headers: Headers
    joined: bool
    state: str = ""


def joined(*values: str, name: str = "traceparent") -> Row:
    return Row([(name, value) for value in values], joined=True)


def fresh(*values: str, name: str = "traceparent") -> Row:
    return Row([(name, value) for value in values], joined=False)


def state(*values: str, name: str = "tracestate", expect: str) -> Row:
    headers = [("traceparent", UNSAMPLED), *((name, value) for value in values)]
    return Row(headers, joined=True, state=expect)


_KEY = "abcdefghijklmnopqrstuvwxyz0123456789_-*/"
_VALUE = "".join(map(chr, (*range(0x20, 0x2C), *range(0x2D, 0x3D), *range(0x3E, 0x7F))))
_MEMBERS = [f"bar{n:02}={n:02}" for n in range(1, 34)]
_ROWS = [",".join(_MEMBERS[first : first + 10]) for first in (0, 10, 20)]

SUITE: dict[str, list[Row]] = {
    "both_traceparent_and_tracestate_missing": [fresh()],
    "traceparent_included_tracestate_missing": [joined(PARENT)],
    "traceparent_duplicated": [fresh(f"00-{TRACE[:-1]}1-{SPAN}-01", PARENT)],
    "traceparent_header_name": [
        fresh(PARENT, name="trace-parent"),
        fresh(PARENT, name="trace.parent"),
    ],
    "traceparent_header_name_valid_casing": [
        joined(PARENT, name="TraceParent"),
        joined(PARENT, name="TrAcEpArEnT"),
        joined(PARENT, name="TRACEPARENT"),
    ],
    "traceparent_version_0x00": [
        fresh(f"{PARENT}."),
        fresh(f"{PARENT}-what-the-future-will-be-like"),
    ],
    "traceparent_version_0xcc": [
        joined(f"cc{PARENT[2:]}"),
        joined(f"cc{PARENT[2:]}-what-the-future-will-be-like"),
        fresh(f"cc{PARENT[2:]}.what-the-future-will-be-like"),
    ],
    "traceparent_version_0xff": [fresh(f"ff{PARENT[2:]}")],
    "traceparent_version_illegal_characters": [
        fresh(f".0{PARENT[2:]}"),
        fresh(f"0.{PARENT[2:]}"),
    ],
    "traceparent_version_too_long": [fresh(f"000{PARENT[2:]}"), fresh(f"0000{PARENT[2:]}")],
    "traceparent_version_too_short": [fresh(f"0{PARENT[2:]}")],
    "traceparent_trace_id_all_zero": [fresh(f"00-{'0' * 32}-{SPAN}-01")],
    "traceparent_trace_id_illegal_characters": [
        fresh(f"00-.{TRACE[1:]}-{SPAN}-01"),
        fresh(f"00-{TRACE[:-1]}.-{SPAN}-01"),
    ],
    "traceparent_trace_id_too_long": [fresh(f"00-{TRACE}3-{SPAN}-01")],
    "traceparent_trace_id_too_short": [fresh(f"00-{TRACE[:-1]}-{SPAN}-01")],
    "traceparent_parent_id_all_zero": [fresh(f"00-{TRACE}-{'0' * 16}-01")],
    "traceparent_parent_id_illegal_characters": [
        fresh(f"00-{TRACE}-.{SPAN[1:]}-01"),
        fresh(f"00-{TRACE}-{SPAN[:-1]}.-01"),
    ],
    "traceparent_parent_id_too_long": [fresh(f"00-{TRACE}-{SPAN}7-01")],
    "traceparent_parent_id_too_short": [fresh(f"00-{TRACE}-{SPAN[:-1]}-01")],
    "traceparent_trace_flags_illegal_characters": [
        fresh(f"00-{TRACE}-{SPAN}-.0"),
        fresh(f"00-{TRACE}-{SPAN}-0."),
    ],
    "traceparent_trace_flags_too_long": [fresh(f"00-{TRACE}-{SPAN}-001")],
    "traceparent_trace_flags_too_short": [fresh(f"00-{TRACE}-{SPAN}-1")],
    "traceparent_ows_handling": [
        joined(f" {PARENT}"),
        joined(f"\t{PARENT}"),
        joined(f"{PARENT} "),
        joined(f"{PARENT}\t"),
        joined(f"\t {PARENT} \t"),
    ],
    "tracestate_included_traceparent_missing": [
        fresh("foo=1", name="tracestate"),
        fresh("foo=1,bar=2", name="tracestate"),
    ],
    "tracestate_included_traceparent_included": [state("foo=1,bar=2", expect="foo=1,bar=2")],
    "tracestate_header_name": [
        state("foo=1", name="trace-state", expect=""),
        state("foo=1", name="trace.state", expect=""),
    ],
    "tracestate_header_name_valid_casing": [
        state("foo=1", name="TraceState", expect="foo=1"),
        state("foo=1", name="TrAcEsTaTe", expect="foo=1"),
        state("foo=1", name="TRACESTATE", expect="foo=1"),
    ],
    "tracestate_empty_header": [
        state("", expect=""),
        state("foo=1", "", expect="foo=1"),
        state("", "foo=1", expect="foo=1"),
    ],
    "tracestate_multiple_headers_different_keys": [
        state("foo=1,bar=2", "rojo=1,congo=2", "baz=3", expect="foo=1,bar=2,rojo=1,congo=2,baz=3")
    ],
    "tracestate_duplicated_keys": [
        state("foo=1,foo=1", expect="foo=1"),
        state("foo=1,foo=2", expect="foo=1"),
        state("foo=1", "foo=1", expect="foo=1"),
        state("foo=1", "foo=2", expect="foo=1"),
    ],
    "tracestate_all_allowed_characters": [
        state(f"{_KEY}={_VALUE}", expect=f"{_KEY}={_VALUE}"),
        state(f"{_KEY}@a-z0-9_-*/={_VALUE}", expect=f"{_KEY}@a-z0-9_-*/={_VALUE}"),
    ],
    "tracestate_ows_handling": [
        state("foo=1 \t , \t bar=2, \t baz=3", expect="foo=1,bar=2,baz=3"),
        state("foo=1\t \t,\t \tbar=2,\t \tbaz=3", expect="foo=1,bar=2,baz=3"),
        state(" foo=1", expect="foo=1"),
        state("\tfoo=1", expect="foo=1"),
        state("foo=1 ", expect="foo=1"),
        state("foo=1\t", expect="foo=1"),
        state("\t foo=1 \t", expect="foo=1"),
    ],
    "tracestate_key_illegal_characters": [
        state("foo =1", expect=""),
        state("FOO=1", expect=""),
        state("foo.bar=1", expect=""),
    ],
    "tracestate_key_illegal_vendor_format": [
        state("foo@=1,bar=2", expect="foo@=1,bar=2"),
        state("@foo=1,bar=2", expect=""),
        state("foo@@bar=1,bar=2", expect="foo@@bar=1,bar=2"),
        state("foo@bar@baz=1,bar=2", expect="foo@bar@baz=1,bar=2"),
    ],
    "tracestate_member_count_limit": [
        state(*_ROWS, ",".join(_MEMBERS[30:32]), expect=",".join(_MEMBERS[:32])),
        state(*_ROWS, ",".join(_MEMBERS[30:33]), expect=""),
    ],
    "tracestate_key_length_limit": [
        state("foo=1", f"{'z' * 256}=1", expect=f"foo=1,{'z' * 256}=1"),
        state("foo=1", f"{'z' * 257}=1", expect=""),
        state("foo=1", f"{'t' * 241}@{'v' * 14}=1", expect=f"foo=1,{'t' * 241}@{'v' * 14}=1"),
        state("foo=1", f"{'t' * 242}@v=1", expect=f"foo=1,{'t' * 242}@v=1"),
        state("foo=1", f"t@{'v' * 15}=1", expect=f"foo=1,t@{'v' * 15}=1"),
    ],
    "tracestate_value_illegal_characters": [
        state("foo=bar=baz", expect=""),
        state("foo=,bar=3", expect=""),
    ],
    "multiple_requests_with_valid_traceparent": [joined(PARENT)],
    "multiple_requests_without_traceparent": [fresh()],
    "multiple_requests_with_illegal_traceparent": [fresh(f"00-{'0' * 32}-{SPAN}-01")],
    "propagates_random_flag": [joined(f"00-{TRACE}-{SPAN}-02")],
}


class Service:
    """An app that calls another host for each request, and what that host was told."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._calls: list[httpx.Headers] = []
        app = Starlette(routes=[Route("/", self._serve)])
        self._app = instrument(app, tracer_provider=provider)

    async def told(self, headers: Headers, *, calls: int) -> list[httpx.Headers]:
        """Return the headers of the *calls* that one request with *headers* makes."""
        self._calls.clear()
        raw = [(key.encode(), value.encode()) for key, value in headers]
        transport = httpx.ASGITransport(self._app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            response = await client.get("/", params={"calls": calls}, headers=raw)

        assert response.status_code == 200
        return list(self._calls)

    async def _serve(self, request: Request) -> Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self._note)) as client:
            HTTPXClientInstrumentor.instrument_client(client, tracer_provider=self._provider)
            for _ in range(int(request.query_params["calls"])):
                await client.get("http://other.example/")
        return Response()

    async def _note(self, scope: Any, receive: Any, send: Any) -> None:
        self._calls.append(httpx.Headers(scope["headers"]))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def service() -> Iterator[Service]:
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(Propagator())
    provider = TracerProvider(sampler=HeadSampler(1.0), shutdown_on_exit=False)
    yield Service(provider)
    propagate.set_global_textmap(before)


def test_every_case_of_the_suite_is_here() -> None:
    """37 of traceparent and tracestate, three with several calls, one of level 2."""
    assert len(SUITE) == 41


@pytest.mark.parametrize("case", SUITE)
async def test_the_suites_case(service: Service, case: str) -> None:
    """A valid trace goes on with a parent of ours, anything else starts a new one."""
    calls = 3 if case.startswith("multiple_requests") else 1
    for row in SUITE[case]:
        found = await service.told(row.headers, calls=calls)
        parents = [parse_traceparent(told.get_list("traceparent")) for told in found]
        traces = {f"{parent.trace_id:032x}" for parent in parents if parent}
        spans = {f"{parent.span_id:016x}" for parent in parents if parent}
        offered = " ".join(value for _, value in row.headers)

        assert (len(found), len(traces), len(spans)) == (calls, 1, calls), row
        assert (traces == {TRACE}) == row.joined, row
        assert row.joined or traces.pop() not in offered, row
        assert SPAN not in spans, row
        assert [told.get("tracestate", "") for told in found] == [row.state] * calls, row


@pytest.mark.parametrize(("flags", "random"), [("02", True), ("03", True), ("00", False)])
async def test_the_random_flag_travels(service: Service, flags: str, random: bool) -> None:
    """Level 2: it says something about the trace id, so it is kept as it came."""
    (told,) = await service.told([("traceparent", f"00-{TRACE}-{SPAN}-{flags}")], calls=1)

    assert bool(int(told["traceparent"][-2:], 16) & 2) is random

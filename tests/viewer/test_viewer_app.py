"""The viewer's API, its page, and who may talk to it."""

import asyncio
import json
import re
from typing import Any

import httpx
import pytest
from opentelemetry.instrumentation.starlette import StarletteInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tracebaton.semconv import CORRELATION_ID, TASK_ID, TASK_STATUS, USER_ID
from tracebaton.viewer.app import create_viewer

PROTOBUF = {"content-type": "application/x-protobuf"}


async def found(client: httpx.AsyncClient, **query: Any) -> list[str]:
    """Return the names of the traces that *query* finds."""
    response = await client.get("/api/traces", params=query)
    assert response.status_code == 200
    return [trace["name"] for trace in response.json()["traces"]]


async def test_traces_are_found_by_each_parameter(client, store, otlp):
    """An empty parameter asks for everything."""
    otlp.feed(
        store,
        otlp.spans(
            {"id": 1, "trace": 1, "name": "a", CORRELATION_ID: "c", USER_ID: "u", TASK_ID: "t"}
            | {TASK_STATUS: "failed"},
            {"id": 2, "trace": 2, "name": "b", "error": True, "start": 1},
        ),
    )

    assert await found(client, correlation_id="", user_id="", task_id="", status="") == ["b", "a"]
    for query in (
        {"correlation_id": "c"},
        {"user_id": "u"},
        {"task_id": "t"},
        {"status": "Failed"},
    ):
        assert await found(client, **query) == ["a"]
    assert await found(client, status="error") == await found(client, q=" B ") == ["b"]
    assert await found(client, correlation_id="x") == []


async def test_a_cursor_walks_through_all_pages(client, store, otlp):
    """``next_cursor`` is null on the last page."""
    otlp.feed(
        store, otlp.spans(*({"id": n, "trace": n, "name": str(n), "start": n} for n in range(1, 6)))
    )
    walked, cursor = [], ""
    while cursor is not None:
        page = (await client.get("/api/traces", params={"limit": 2, "cursor": cursor})).json()
        walked.append([trace["name"] for trace in page["traces"]])
        cursor = page["next_cursor"]

    assert walked == [["5", "4"], ["3", "2"], ["1"]]


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=1001",
        "limit=99999999999",
        "limit=x",
        "limit=-1",
        "limit=²",
        "limit=1.5",
        "cursor=x",
        "cursor=1",
        "cursor=1-2-3",
        "status=banana",
    ],
)
async def test_a_bad_parameter_is_a_400_problem(client, query):
    """Nothing is guessed."""
    response = await client.get(f"/api/traces?{query}")

    assert (response.status_code, response.json()["code"]) == (400, "bad_request")
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["instance"] == "/api/traces"


async def test_a_forged_cursor_finds_the_end(client, store, otlp):
    """A number beyond SQLite's integers is no failure."""
    otlp.feed(store, otlp.spans({"name": "a"}))

    assert await found(client, cursor=f"{'9' * 19}-{'9' * 19}") == ["a"]


@pytest.mark.parametrize("trace_id", ["0" * 31 + "2", "xyz", "0" * 33, "%00", "é" * 32])
@pytest.mark.parametrize("suffix", ["", "/logs"])
async def test_an_unknown_trace_is_a_404_problem(client, trace_id, suffix):
    """Also one that is no trace id at all."""
    response = await client.get(f"/api/traces/{trace_id}{suffix}")

    assert (response.status_code, response.json()["code"]) == (404, "not_found")
    assert response.headers["content-type"] == "application/problem+json"


async def test_a_trace_and_its_lines_are_found_in_either_case(client, store, otlp):
    """Ids are handed out in lower case."""
    otlp.feed(store, otlp.spans({"trace": 0xAB, "name": "a"}), otlp.logs("hello", trace=0xAB))
    trace = (await client.get(f"/api/traces/{otlp.trace_hex(0xAB).upper()}")).json()
    lines = (await client.get(f"/api/traces/{otlp.trace_hex(0xAB)}/logs")).json()

    span = trace["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    assert (span["traceId"], span["name"]) == (otlp.trace_hex(0xAB), "a")
    assert [line["event"] for line in lines["logs"]] == ["hello"]


async def test_an_etag_answers_304_until_something_was_written(client, store, otlp):
    """That is what keeps the page live; a trace is not disturbed by another."""
    otlp.feed(store, otlp.spans({"id": 1, "trace": 1}), otlp.logs("a"))
    paths = (
        "/api/traces",
        f"/api/traces/{otlp.trace_hex(1)}",
        f"/api/traces/{otlp.trace_hex(1)}/logs",
    )
    tags = [(await client.get(path)).headers["etag"] for path in paths]

    async def ask() -> list[int]:
        return [
            (await client.get(path, headers={"if-none-match": tag})).status_code
            for path, tag in zip(paths, tags, strict=True)
        ]

    unchanged = await ask()
    otlp.feed(store, otlp.spans({"id": 2, "trace": 2}))
    other = await ask()
    otlp.feed(store, otlp.logs("b"))
    changed = await ask()

    assert (unchanged, other, changed) == ([304] * 3, [200, 304, 304], [200] * 3)


async def test_a_read_sees_every_post_before_it(client, otlp):
    """Fifty posts at once, each asked for as soon as it was answered."""

    async def post_and_read(number: int) -> int:
        body = otlp.spans({"trace": number}).SerializeToString()
        await client.post("/v1/traces", content=body, headers=PROTOBUF)
        return (await client.get(f"/api/traces/{otlp.trace_hex(number)}")).status_code

    statuses = await asyncio.gather(*(post_and_read(number) for number in range(1, 51)))

    assert statuses == [200] * 50


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:80", "127.0.0.1:4318", "[::1]", "[::1]:9"]
)
async def test_this_machine_is_answered(client, host):
    """By each of its three names, on any port."""
    response = await client.get("/", headers={"host": host, "origin": f"http://{host}"})

    assert response.status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "example.com",
        "127.0.0.1.example.com",
        "localhost.",
        "127.0.0.2",
        "0.0.0.0",
        "::1",
        "localhost:80:80",
        "localhost:x",
        "user@localhost",
        "[::1",
        "localhost\x00",
        "",
    ],
)
@pytest.mark.parametrize(
    "path", ["/", "/api/traces", "/api/tasks", "/v1/traces", "/static/viewer.js"]
)
async def test_a_foreign_host_is_refused(client, host, path):
    """DNS rebinding reaches the port, not the traces."""
    response = await client.get(path, headers={"host": host})

    assert (response.status_code, response.json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize(
    "origin", ["https://example.com", "null", "", "http://localhost.evil.test", "file://localhost"]
)
async def test_a_foreign_origin_is_refused(client, otlp, origin):
    """A web page elsewhere can neither read traces nor forge them."""
    body = otlp.spans({}).SerializeToString()
    response = await client.post("/v1/traces", content=body, headers=PROTOBUF | {"origin": origin})

    assert (response.status_code, await found(client)) == (403, [])


async def test_two_host_headers_are_refused(client):
    """Which one would count is anybody's guess."""
    headers = [("host", "localhost"), ("host", "example.com")]
    request = httpx.Request("GET", "http://localhost/", headers=headers)

    assert (await client.send(request)).status_code == 403


@pytest.mark.parametrize("path", ["/", "/static/viewer.css", "/api/traces", "/nowhere", "/v1/logs"])
async def test_every_answer_has_the_security_headers(client, path):
    """Errors included."""
    headers = (await client.get(path)).headers

    assert headers["content-security-policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


async def test_the_page_is_one_script_and_one_stylesheet(client):
    """Every file more is a request more before the first trace shows."""
    page = (await client.get("/")).text
    script, style = [(await client.get(f"/static/page.{kind}")) for kind in ("js", "css")]

    assert re.findall(r'(?:src|href)="(/static/page\.\w+)"', page) == [
        "/static/page.css",
        "/static/page.js",
    ]
    assert not re.search(r"^(import|export) ", script.text, re.MULTILINE)
    assert (script.headers["content-type"], style.headers["content-type"]) == (
        "text/javascript; charset=utf-8",
        "text/css; charset=utf-8",
    )


async def test_the_page_brings_the_list_that_it_shows_first(client, store, otlp):
    """As the API has it, and in a form that no name of a span ends."""
    otlp.feed(store, otlp.spans({"name": "</script><b>bold"}))

    page, listed = await client.get("/"), await client.get("/api/traces")
    first = re.findall(r'<script id="first" type="application/json">(.*)</script>', page.text)
    again = await client.get("/", headers={"if-none-match": page.headers["etag"]})
    otlp.feed(store, otlp.spans({"name": "next", "trace": 2}))
    later = await client.get("/", headers={"if-none-match": page.headers["etag"]})

    assert [json.loads(one) for one in first] == [
        {"tag": listed.headers["etag"], "page": listed.json()}
    ]
    assert listed.json()["traces"][0]["name"] == "</script><b>bold"
    assert "<b>" not in page.text
    assert (again.status_code, again.content, later.status_code) == (304, b"", 200)


async def test_a_file_that_the_browser_has_is_not_sent_again(client):
    """Its version is asked for each time, and no other file can be asked for."""
    first = await client.get("/static/page.js")
    again = await client.get("/static/page.js", headers={"if-none-match": first.headers["etag"]})
    other = await client.get("/static/..%2fapp.py")

    assert (again.status_code, again.content) == (304, b"")
    assert first.headers["cache-control"] == "no-cache"
    assert (other.status_code, other.json()["code"]) == (404, "not_found")


async def test_a_failure_of_our_own_is_a_generic_500(store, otlp):
    """A database that vanished tells the caller nothing of itself, and keeps the headers."""
    store.close()
    transport = httpx.ASGITransport(create_viewer(store), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        response = await client.get("/api/traces")

    assert (response.status_code, response.json()["code"]) == (500, "internal")
    assert "database" not in response.text
    assert "content-security-policy" in response.headers


async def test_the_page_names_only_files_of_its_own(client):
    """It works with the network cable unplugged."""
    page = await client.get("/")

    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "http:" not in page.text
    assert "https:" not in page.text


async def test_the_viewer_is_not_traced_by_a_global_instrumentation(store, otlp, monkeypatch):
    """Else each of its own spans would make it trace the request that brought it."""
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    StarletteInstrumentor().instrument(tracer_provider=provider)
    try:
        from starlette import applications

        monkeypatch.setattr("tracebaton.viewer.app.Starlette", applications.Starlette)
        transport = httpx.ASGITransport(create_viewer(store))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            response = await client.get("/api/traces")
    finally:
        StarletteInstrumentor().uninstrument()
        provider.shutdown()

    assert (response.status_code, exporter.get_finished_spans()) == (200, ())


async def test_lifespan_passes_the_guard(store):
    """A server may ask for it."""
    sent = []
    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await create_viewer(store)({"type": "lifespan"}, receive, send)

    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]

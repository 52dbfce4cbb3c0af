"""A trace is found by any of its ids: in the viewer, in Jaeger, in a file."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from command import running
from jaeger import Jaeger
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from tracebaton.errors import NotFound, TracebatonError
from tracebaton.processes import serving
from tracebaton.telemetry.otlp import otlp_span_exporter
from tracebaton.traces import FileSource, JaegerSource, ViewerSource, read_trace
from tracebaton.viewer.app import create_viewer
from tracebaton.viewer.spans import SpanStore


def send(endpoint: str) -> dict[str, str]:
    """Send one trace to *endpoint* and return its ids."""
    provider = TracerProvider(resource=Resource({"service.name": "api"}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(otlp_span_exporter(endpoint, local=True)))
    ids = {"tracebaton.correlation_id": "c-1", "tracebaton.task.id": "t-1"}
    with provider.get_tracer("tests").start_as_current_span("GET /", attributes=ids) as span:
        trace_id = f"{span.get_span_context().trace_id:032x}"
    provider.shutdown()
    return {"trace": trace_id, "correlation": "c-1", "task": "t-1", "upper": trace_id.upper()}


def names(found: Any) -> list[str]:
    """Return the names of the spans that a source found."""
    trace = read_trace(*found)
    assert trace is not None
    return [row.span.name for row in trace.rows]


async def test_the_viewer_knows_every_id() -> None:
    """Trace, task and correlation id; another one is not found."""
    with SpanStore() as store:
        async with serving(create_viewer(store), host="127.0.0.1", port=0) as (url, _):
            ids = await asyncio.to_thread(send, f"{url}/v1/traces")
            assert store.settle(10)
            source = ViewerSource(f"{url}/")
            found = [names(await asyncio.to_thread(source.find, one)) for one in ids.values()]
            with pytest.raises(NotFound, match="nobody"):
                await asyncio.to_thread(source.find, "nobody")
            with pytest.raises(NotFound):
                await asyncio.to_thread(source.find, "0" * 31 + "1")

    assert found == [["GET /"]] * 4


@pytest.mark.backends
def test_jaeger_knows_every_id(jaeger: Jaeger) -> None:
    """Its query API is asked by attribute, service by service."""
    ids = send(f"{jaeger.otlp}/v1/traces")
    jaeger.trace(ids["trace"])
    source = JaegerSource(jaeger.query)
    found = [names(source.find(one)) for one in ids.values()]

    with pytest.raises(NotFound, match="nobody"):
        source.find("nobody")

    assert found == [["GET /"]] * 4


def exported(trace_id: str, name: str, start: int, **labels: str) -> dict[str, Any]:
    """Return a line as the Collector's file exporter writes it."""
    attributes = [{"key": key, "value": {"stringValue": value}} for key, value in labels.items()]
    span = {"traceId": trace_id, "spanId": "1" * 16, "name": name, "attributes": attributes}
    span |= {"startTimeUnixNano": str(start), "endTimeUnixNano": str(start + 1)}
    return {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}


def test_a_file_of_lines_is_searched(tmp_path: Path) -> None:
    """The newest trace of an id, its lines with it; a torn or foreign file says what it is."""
    path = tmp_path / "traces.json"
    label = {"tracebaton.correlation_id": "c"}
    documents = [exported("a" * 32, "old", 1, **label), exported("b" * 32, "new", 2, **label)]
    documents[1]["logs"] = [{"trace_id": "b" * 32, "event": "x"}, {"trace_id": "a" * 32}]
    path.write_text("\n".join(map(json.dumps, documents)))

    document, logs = FileSource(path).find("c")

    assert names((document, logs)) == ["new"]
    assert [line["event"] for line in logs] == ["x"]
    assert names(FileSource(path).find("a" * 32)) == ["old"]
    with pytest.raises(NotFound):
        FileSource(path).find("d")


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"resourceSpans": [{"scopeSpans": [{"spans": [{}]}]}]}']
)
def test_a_file_that_is_something_else_is_refused(tmp_path: Path, text: str) -> None:
    """By its name and what is wrong."""
    path = tmp_path / "x.json"
    path.write_text(text)

    with pytest.raises(TracebatonError, match="is not OTLP JSON"):
        FileSource(path).find("c")


def test_the_command_draws_and_prints(tmp_path: Path) -> None:
    """A file's trace as a waterfall and as JSON that can be read again; unknown: 1, misuse: 2."""
    path = tmp_path / "t.json"
    path.write_text(json.dumps(exported("a" * 32, "GET /", 1, **{"tracebaton.task.id": "t-1"})))
    again = tmp_path / "again.json"

    def run(*arguments: str) -> tuple[int, list[str], list[str]]:
        with running("trace", *arguments, env={}, cwd=tmp_path) as command:
            return command.wait(), command.lines, command.errors

    drawn = run("t-1", "--file", str(path))
    printed = run("t-1", "--file", str(path), "--json")
    again.write_text("\n".join(printed[1]))

    assert (drawn[0], drawn[1][1].split()[0], drawn[2]) == (0, "GET", [])
    assert run("t-1", "--file", str(again)) == drawn
    unknown = run("t-2", "--file", str(path))
    assert (unknown[0], unknown[1]) == (1, [])
    assert "t-2 is known at" in unknown[2][0]
    assert run("t-1", "--file", str(path), "--viewer", "http://x")[0] == 2


def test_a_viewer_that_is_away_is_named(tmp_path: Path) -> None:
    """One line with the address and what to do, exit code 1."""
    with (
        httpx.Client() as _,
        running("trace", "x", "--viewer", "http://127.0.0.1:9", env={}, cwd=tmp_path) as command,
    ):
        code = command.wait()

    assert code == 1
    assert "the viewer at http://127.0.0.1:9" in command.errors[0]
    assert "is `tracebaton dev` running?" in command.errors[0]
    assert len(command.errors) == 1

"""A real Jaeger v2 on loopback, memory storage, free ports; scripts/jaeger builds it."""

import json
import os
import shutil
import subprocess
import time
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from beside import answer_of, free_ports, wait_until_up

ROOT = Path(__file__).parents[2]

_CONFIG = """
service:
  extensions: [jaeger_storage, jaeger_query, healthcheckv2]
  telemetry: {{logs: {{level: warn}}, metrics: {{level: none}}}}
  pipelines:
    traces: {{receivers: [otlp], processors: [batch], exporters: [jaeger_storage_exporter]}}
extensions:
  healthcheckv2: {{use_v2: true, http: {{endpoint: "127.0.0.1:{health}"}}}}
  jaeger_storage: {{backends: {{memory: {{memory: {{max_traces: 100000}}}}}}}}
  jaeger_query:
    storage: {{traces: memory}}
    http: {{endpoint: "127.0.0.1:{query}"}}
    ui: {{assets_path: "{page}"}}
    grpc: {{endpoint: "127.0.0.1:{grpc}"}}
receivers:
  otlp: {{protocols: {{http: {{endpoint: "127.0.0.1:{otlp}"}}}}}}
processors:
  batch: {{timeout: 50ms}}
exporters:
  jaeger_storage_exporter: {{trace_storage: memory}}
"""


def jaeger_binary() -> Path | None:
    """Return the Jaeger to run, None where there is none."""
    built = ROOT / ".tools" / "jaeger"
    found = str(built) if built.exists() else shutil.which("jaeger")
    return Path(found) if found else None


class Jaeger:
    """
    A running Jaeger.

    Attributes:
        otlp: What ``OTEL_EXPORTER_OTLP_ENDPOINT`` has to be.
        query: The base URL of its query API.
    """

    def __init__(self, *, otlp_port: int, query_port: int) -> None:
        self.otlp = f"http://127.0.0.1:{otlp_port}"
        self.query = f"http://127.0.0.1:{query_port}"

    def spans(self, trace_id: str) -> list[dict[str, Any]]:
        """
        Return the spans of a trace as OTLP JSON, none while Jaeger does not know it.

        Each has ``service`` beside OTLP's own fields, and ``attributes`` as a plain mapping.
        """
        try:
            answer = answer_of(f"{self.query}/api/v3/traces/{trace_id}")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return []
            raise
        return [
            span
            | {
                "service": _plain(resource["resource"]["attributes"])["service.name"],
                "attributes": _plain(span.get("attributes", ())),
            }
            for resource in answer["result"]["resourceSpans"]
            for scope in resource["scopeSpans"]
            for span in scope["spans"]
        ]

    def trace(
        self,
        trace_id: str,
        *,
        until: Callable[[list[dict[str, Any]]], bool] = bool,
        timeout: float = 10.0,
    ) -> list[dict[str, Any]]:
        """Return the spans of a trace as soon as *until* holds for them, oldest first."""
        deadline = time.monotonic() + timeout
        while not until(spans := self.spans(trace_id)):
            if time.monotonic() > deadline:
                names = [span["name"] for span in spans]
                raise AssertionError(f"trace {trace_id} not whole in {timeout} s, has {names}")
            time.sleep(0.05)  # a poll of another process, bounded by the deadline
        return sorted(spans, key=lambda span: int(span["startTimeUnixNano"]))


def _plain(attributes: Any) -> dict[str, Any]:
    return {item["key"]: _value(item["value"]) for item in attributes}


def _value(value: dict[str, Any]) -> Any:
    (kind, inner), *_ = value.items()
    if kind == "arrayValue":
        return [_value(item) for item in inner.get("values", ())]
    return int(inner) if kind == "intValue" else inner


@contextmanager
def running_jaeger(folder: Path, *, page: Path | None = None) -> Iterator[Jaeger]:
    """
    Run Jaeger for the length of a ``with`` block; its config and log go to *folder*.

    Args:
        page: A built ``jaeger-ui``, which the binary of scripts/jaeger has not in it.
    """
    binary = jaeger_binary()
    assert binary is not None
    otlp, query, grpc, health = free_ports(4)
    config = folder / "jaeger.yaml"
    ports = {"otlp": otlp, "query": query, "grpc": grpc, "health": health}
    config.write_text(_CONFIG.format(**ports, page=page or ""))
    log = folder / "jaeger.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(binary), "--config", str(config)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={"PATH": os.environ.get("PATH", ""), "HOME": str(folder)},
        )
    try:
        wait_until_up(
            process,
            f"http://127.0.0.1:{health}/status",
            log,
            good=lambda body: bool(json.loads(body)["healthy"]),
        )
        yield Jaeger(otlp_port=otlp, query_port=query)
    finally:
        process.kill()  # all is in memory, and a polite stop waits for idle connections
        process.wait()

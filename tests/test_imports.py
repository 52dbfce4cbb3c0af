"""What a process does not import because it has no use for it: each is memory of its own."""

import subprocess
import sys

#: Builds what `tracebaton worker` builds, and tells which of the modules named it has imported.
WORKER = """
import sys
from tracebaton import Tracebaton, cli, processes

Tracebaton().runtime("worker")
print([name for name in sys.argv[1:] if name in sys.modules])
"""
QUEUE = "http://127.0.0.1:9/000000000000/work"


def imported(*names: str, **variables: str) -> str:
    """Return which of *names* a worker with these *variables* has imported."""
    environment = {"TRACEBATON_QUEUE_URL": QUEUE, "TRACEBATON_STORE": "none", **variables}
    command = [sys.executable, "-c", WORKER, *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_worker_without_otlp_does_not_import_it() -> None:
    """A worker that sends to Sentry alone has no OTLP exporter, and nothing that fetches tokens."""
    names = ("google.protobuf", "requests", "opentelemetry.exporter.otlp.proto.http", "httpx")

    assert imported(*names, SENTRY_DSN="http://abc@127.0.0.1:9/1") == "[]"


def test_worker_with_otlp_imports_it() -> None:
    """The same names are there where spans leave over OTLP: the test above tells something."""
    names = ("google.protobuf", "requests")

    assert imported(*names, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9") == str([*names])

"""The real OpenTelemetry Collector on loopback, free ports; scripts/collector builds it."""

import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
BASE = ROOT / "otel-collector.yaml"
SENTRY = ROOT / "otel-collector.sentry.yaml"
TAIL = ROOT / "otel-collector.tail.yaml"


def collector_binary() -> Path | None:
    """Return the Collector to run, None where there is none."""
    built = ROOT / ".tools" / "otelcol"
    found = str(built) if built.exists() else shutil.which("otelcol")
    return Path(found) if found else None


@dataclass(frozen=True)
class Collector:
    """
    A running Collector.

    Attributes:
        otlp: What ``OTEL_EXPORTER_OTLP_ENDPOINT`` has to be.
        log: The file its own log goes to.
    """

    otlp: str
    log: Path


def validate(configs: Sequence[Path], env: Mapping[str, str]) -> str:
    """Return what the Collector says against *configs*: nothing."""
    command = _command("validate", *configs)
    run = subprocess.run(command, env=dict(env), capture_output=True, text=True, timeout=30)
    assert run.returncode == 0 or run.stderr, run
    return run.stderr


@contextmanager
def running_collector(
    folder: Path, configs: Sequence[Path], env: Mapping[str, str]
) -> Iterator[Collector]:
    """
    Run the Collector for the length of a ``with`` block, on ports of its own.

    Its end is part of the test: what it still holds leaves at SIGTERM, and it exits with 0.
    """
    grpc, http, health = _free_ports(3)
    ports = {
        "OTELCOL_GRPC_PORT": str(grpc),
        "OTELCOL_HTTP_PORT": str(http),
        "OTELCOL_HEALTH_PORT": str(health),
    }
    log = folder / "collector.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            _command(*configs), stdout=output, stderr=subprocess.STDOUT, env={**env, **ports}
        )
    try:
        _wait_until_healthy(process, health, log)
        yield Collector(f"http://127.0.0.1:{http}", log)
        process.terminate()
        assert process.wait(20) == 0, log.read_text()[-2000:]
    finally:
        process.kill()
        process.wait()


def _command(*arguments: str | Path) -> list[str]:
    binary = collector_binary()
    assert binary is not None
    return [str(binary), *(a if isinstance(a, str) else f"--config={a}" for a in arguments)]


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _wait_until_healthy(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5):
                return
        except OSError:
            time.sleep(0.05)  # a poll of another process, bounded by the deadline
    raise AssertionError(f"the Collector did not start: {log.read_text()[-2000:]}")


def settings_environment(**more: str) -> dict[str, str]:
    """Return an environment in which nothing but *more* configures the Collector."""
    return {"PATH": os.environ.get("PATH", os.defpath), **more}

"""The real OpenTelemetry Collector on loopback, free ports; scripts/collector builds it."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from beside import free_ports, wait_until_up

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
    grpc, http, health = free_ports(3)
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
        wait_until_up(process, f"http://127.0.0.1:{health}/", log)
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


def settings_environment(**more: str) -> dict[str, str]:
    """Return an environment in which nothing but *more* configures the Collector."""
    return {"PATH": os.environ.get("PATH", os.defpath), **more}

"""DynamoDB on loopback, by two emulators that know nothing of each other; scripts/dynamodb."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".tools" / "dynamodb" / "bin" / "python"

#: moto's tables are not safe under threads, DynamoDB's transactions are: one request at a time.
_MOTO = """
import sys
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple
run_simple("127.0.0.1", int(sys.argv[1]), DomainDispatcherApplication(create_backend_app))
"""


def command(name: str, port: int) -> tuple[list[str], dict[str, str]]:
    """Return what runs the emulator, and the environment it needs."""
    if name == "moto":
        return [str(PYTHON), "-c", _MOTO, str(port)], {}
    own = {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "SERVICES": "dynamodb"}
    return [str(PYTHON), "-m", "ministack"], own


@contextmanager
def running_dynamodb(name: str, folder: Path) -> Iterator[str]:
    """Run the emulator *name*, ``moto`` or ``ministack``, and yield its endpoint."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    arguments, environment = command(name, port)
    home = {"PATH": os.environ.get("PATH", ""), "HOME": str(folder)}
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            arguments, stdout=output, stderr=subprocess.STDOUT, env=home | environment, cwd=folder
        )
    try:
        yield _ready(process, f"http://127.0.0.1:{port}", log)
    finally:
        process.kill()
        process.wait()


def _ready(process: "subprocess.Popen[bytes]", url: str, log: Path) -> str:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            httpx.get(url, timeout=2)
        except httpx.HTTPError:
            time.sleep(0.05)  # a poll of another process, bounded by the deadline
        else:
            return url
    raise AssertionError(f"no DynamoDB: {log.read_text()[-2000:]}")

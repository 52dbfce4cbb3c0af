"""
Load on an application: its API, its worker and a loopback SQS as real processes, requests over a
number of connections, and how long it all takes.

Everything runs on this machine and shares its cores with what asks. Compare runs of one machine
with each other, not with another machine's.
"""

import asyncio
import io
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

from tracebaton.children import Out, start
from tracebaton.errors import TracebatonError
from tracebaton.settings import child_environment

__all__ = ["Load", "Measured", "measure"]

#: Seconds until everything is up, and until it is down.
_START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 40.0
#: Seconds between two looks at what is left to do.
_PAUSE: Final = 0.05
#: The most requests that are sent and not measured, to warm everything up.
_WARM_UP: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """
    What to measure.

    Attributes:
        app: ``module:attribute``.
        task_type: The type that is sent, with *data*.
        requests: How many are measured.
        connections: Over how many connections, each with one request at a time.
        traced: Whether traces are made; those that are go to the viewer's store.
        patience: Seconds until what is left to do is given up.
    """

    app: str
    task_type: str
    data: Mapping[str, Any]
    requests: int = 1_000
    connections: int = 16
    traced: bool = True
    patience: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """
    What was measured.

    Attributes:
        traced: As asked for.
        accepted: Requests that were answered with 202.
        failed: The others.
        requests_per_second: Accepted ones, from the first to the last answer.
        p50_ms: Milliseconds that half of the answers took at most; *p99_ms* likewise.
        tasks_per_second: Tasks that ended, from the first request until none was left.
        left: Tasks that had not ended when patience did, counted up to 400.
    """

    traced: bool
    accepted: int
    failed: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    tasks_per_second: float
    left: int

    def document(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


async def measure(load: Load) -> Measured:
    """
    Start everything, send the load, wait for the work, and stop everything.

    Raises:
        TracebatonError: The application did not start, or does not take the tasks.
    """
    with tempfile.TemporaryDirectory(prefix="tracebaton-bench-") as folder:
        arguments = [load.app, "--port", "0", "--sqs-port", "0", "--viewer-port", "0"]
        arguments += ["--data", folder, *([] if load.traced else ["--no-viewer"])]
        environment = child_environment(
            {
                "OTEL_SDK_DISABLED": "false" if load.traced else "true",
                "TRACEBATON_STOP_WITH_STDIN": "1",
                "TRACEBATON_STORE": f"sqlite:///{Path(folder) / 'tasks.db'}",
            }
        )
        lines = io.BytesIO()
        child = await start("dev", arguments, environment=environment, out=Out(lines))
        try:
            ready = await asyncio.wait_for(asyncio.shield(child.ready), _START_SECONDS)
            if ready is None:
                raise TracebatonError(_last(lines))
            return await _measured(load, str(ready["api"]))
        finally:
            await child.stop(_STOP_SECONDS)


async def _measured(load: Load, url: str) -> Measured:
    clients = [await _Client.connect(url) for _ in range(load.connections)]
    request = _request(f"/v1/tasks/{quote(load.task_type, safe='')}", load.data)
    try:
        first, body = await clients[0].ask(request)
        if first != 202:
            raise TracebatonError(f"The API answered {first}: {body.decode(errors='replace')}")
        warm = min(_WARM_UP, load.requests)
        await _send(clients, request, warm)
        await _drained(clients[0], load.patience)
        began = time.monotonic()
        took, failed = await _send(clients, request, load.requests)
        answered = time.monotonic() - began
        left = await _drained(clients[0], load.patience)
        worked = time.monotonic() - began
    finally:
        for client in clients:
            client.close()
    took.sort()
    return Measured(
        traced=load.traced,
        accepted=len(took),
        failed=failed,
        requests_per_second=len(took) / answered,
        p50_ms=_quantile(took, 0.5) * 1000,
        p99_ms=_quantile(took, 0.99) * 1000,
        tasks_per_second=(len(took) - left) / worked,
        left=left,
    )


async def _send(
    clients: Sequence["_Client"], request: bytes, count: int
) -> tuple[list[float], int]:
    """Send *count* requests; return the seconds of each accepted one, and the others' count."""
    left, took, failed = count, list[float](), 0

    async def asked(client: _Client) -> None:
        nonlocal left, failed
        while left > 0:
            left -= 1
            began = time.perf_counter()
            status, _ = await client.ask(request)
            if status == 202:
                took.append(time.perf_counter() - began)
            else:
                failed += 1

    await asyncio.gather(*map(asked, clients))
    return took, failed


async def _drained(client: "_Client", patience: float) -> int:
    """Wait until no task waits or runs; return how many still do when *patience* ends."""
    deadline = time.monotonic() + patience
    while True:
        left = 0
        for status in ("queued", "running"):
            code, body = await client.ask(_request(f"/v1/tasks?status={status}&limit=200", None))
            if code != 200:
                raise TracebatonError(f"The list of tasks was answered with {code}.")
            left += len(json.loads(body)["tasks"])
        if not left or time.monotonic() > deadline:
            return left
        await asyncio.sleep(_PAUSE)


def _request(path: str, data: Mapping[str, Any] | None) -> bytes:
    body = b"" if data is None else json.dumps(data).encode()
    method = "GET" if data is None else "POST"
    head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def _last(lines: io.BytesIO) -> str:
    said = lines.getvalue().decode(errors="replace").strip().splitlines()
    return f"The application did not start. {said[-1] if said else ''}".strip()


class _Client:
    """One connection; as little of HTTP as is needed, since it shares the CPU with the subject."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def connect(cls, url: str) -> "_Client":
        """Open a connection to *url*."""
        parts = urlsplit(url)
        return cls(*await asyncio.open_connection(parts.hostname, parts.port))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send *request* and return status and body of its answer."""
        self._writer.write(request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        _, _, rest = head.partition(b"\r\ncontent-length:")
        body = await self._reader.readexactly(int(rest.split(b"\r\n", 1)[0] or 0))
        return int(head[9:12]), body

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()

"""
Many requests, one after the other, all of them sent to Sentry: ``python many_requests.py COUNT``.

Prints how far the memory of the process grew after the first fifth of them.
"""

import asyncio
import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tracebaton import Settings, configure_telemetry, instrument

DSN = os.environ["BENCH_SINK"].replace("http://", "http://abc123@") + "/42"
#: Requests between two waits for the sink, so that what waits to be sent is not measured.
BATCH = 500


def resident_mb() -> float:
    """Return the memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


async def ask(app: Any, number: int) -> None:
    """Call *app* as a server does; every hundredth request fails."""
    path = f"/{'broken' if number % 100 == 0 else 'orders'}/{number}"
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"x-correlation-id", f"c-{number}".encode())],
        "client": ("127.0.0.1", 5000),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        """Drop the answer."""

    await app(scope, receive, send)


async def main(count: int) -> None:
    """Ask, and tell what the process grew by."""
    telemetry = configure_telemetry(Settings.load({"SENTRY_DSN": DSN}))

    async def order(request: Request) -> JSONResponse:
        with telemetry.tracer.start_as_current_span("price"):
            return JSONResponse(request.path_params["number"])

    async def broken(request: Request) -> JSONResponse:
        raise LookupError(request.path_params["number"])

    routes = [Route("/orders/{number}", order), Route("/broken/{number}", broken)]
    app = instrument(Starlette(routes=routes), reporter=telemetry.reporter)
    memory = []
    for number in range(count):
        await ask(app, number)
        if number % BATCH == BATCH - 1:
            await asyncio.to_thread(telemetry.force_flush, 60)
        if number % (count // 10) == count // 10 - 1:
            gc.collect()
            memory.append(resident_mb())
    assert telemetry.sentry is not None
    gc.collect()
    held = len(telemetry.sentry.processor)  # type: ignore[arg-type]
    report = telemetry.shutdown(60)
    told = {
        "requests": count,
        "rss_mb": round(memory[-1], 1),
        "grown_mb": round(memory[-1] - memory[1], 1),
        "spans_held": held,
        "spans_sent": report.spans_exported,
        "spans_dropped": report.spans_dropped,
    }
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))

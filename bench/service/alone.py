"""
Submit tasks to our application without a server: ``python alone.py REQUESTS [profile]``.

So many at once as `CONNECTIONS` says. `loop_us` is the CPU of the loop's thread a submit, the first
quartile of slices of 40: others on the machine only ever make it more. With ``profile`` it prints
where the time goes instead, by a function's own time, which makes calls two to three times as dear.
"""

import asyncio
import cProfile
import io
import json
import os
import pstats
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parent.parent))

import served
import uvloop
from asgi import answered, scope
from asked import BODY

from tracebaton.http.keys import create_key

CONNECTIONS = 16
SLICE = 40
WARM_UP = 200


async def submit(app: Any, key: str) -> None:
    """Submit one task."""
    headers = [
        (b"authorization", f"Bearer {key}".encode()),
        (b"content-type", b"application/json"),
        (b"content-length", str(len(BODY)).encode()),
    ]
    await answered(app, scope("POST", "/v1/tasks/chat", headers), BODY, status=202)


async def submits(app: Any, key: str, count: int) -> list[float]:
    """Submit *count* tasks and return the CPU of each slice."""
    started, slices = 0, []
    before = time.thread_time()

    async def user() -> None:
        nonlocal started, before
        while started < count:
            started += 1
            number = started
            await submit(app, key)
            if number % SLICE == 0:
                before, last = time.thread_time(), before
                slices.append(before - last)

    await asyncio.gather(*(user() for _ in range(CONNECTIONS)))
    return slices


async def measured(count: int, *, profile: cProfile.Profile | None) -> dict[str, float]:
    """Run the application, lifespan and all, and submit."""
    folder = Path(os.environ["BENCH_FOLDER"])
    key = create_key(folder / "keys.json", "alice")
    app, up, over = served.ours(folder), asyncio.Event(), asyncio.Event()

    async def receive() -> dict[str, Any]:
        if not up.is_set():
            return {"type": "lifespan.startup"}
        await over.wait()
        return {"type": "lifespan.shutdown"}

    async def send(message: dict[str, Any]) -> None:
        up.set()

    alive = asyncio.create_task(app({"type": "lifespan", "state": {}}, receive, send))
    await up.wait()
    await submits(app, key, WARM_UP)
    if profile is not None:
        profile.enable()
    slices = sorted(await submits(app, key, count))
    if profile is not None:
        profile.disable()
    over.set()
    await alive
    return {"loop_us": slices[len(slices) // 4] / SLICE * 1e6}


def main(count: int, *, profiled: bool) -> None:
    """Print the figure, or the profile."""
    out = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # log lines go nowhere, but they are written
    profile = cProfile.Profile(time.thread_time) if profiled else None
    text = json.dumps(uvloop.run(measured(count, profile=profile)))
    if profile is not None:
        printed = io.StringIO()
        pstats.Stats(profile, stream=printed).strip_dirs().sort_stats("tottime").print_stats(60)
        text = printed.getvalue()
    os.write(out, text.encode() + b"\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), profiled="profile" in sys.argv)

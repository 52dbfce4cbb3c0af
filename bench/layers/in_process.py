"""
Call a subject's ASGI app without a server: ``python in_process.py SUBJECT REQUESTS RATE``.

Requests come one after the other, RATE a second, each in a task of its own as a server makes one;
background threads work in between as they do in production. `thread_us` is the CPU of the loop's
own thread, `cpu_us` the whole process's until everything is flushed.
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parent.parent))

from asgi import answered, scope
from load import BODY
from subjects import SUBJECTS

WARM_UP = 100
HEADERS = (
    (b"accept", b"*/*"),
    (b"content-type", b"application/json"),
    (b"content-length", str(len(BODY)).encode()),
)


async def request(app: Any) -> float:
    """Ask once and return the seconds it took."""
    asked = scope("POST", "/orders/4711", HEADERS)
    started = time.perf_counter()
    await answered(app, asked, BODY, status=200)
    return time.perf_counter() - started


async def requests(app: Any, count: int, rate: float) -> list[float]:
    """Ask *count* times on a timetable."""
    spent, start = [], time.perf_counter()
    for number in range(count):
        await asyncio.sleep(max(0.0, start + number / rate - time.perf_counter()))
        spent.append(await asyncio.create_task(request(app)))
    return spent


async def measure(name: str, count: int, rate: float) -> dict[str, float]:
    app, flush = SUBJECTS[name]()
    await requests(app, WARM_UP, 1000)
    await asyncio.sleep(0.6)  # what the warm-up left to the background is done
    cpu, own = time.process_time(), time.thread_time()
    spent = sorted(await requests(app, count, rate))
    own = time.thread_time() - own
    await asyncio.to_thread(flush)
    return {
        "median_us": median(spent) * 1e6,
        "p95_us": spent[int(count * 0.95)] * 1e6,
        "thread_us": own / count * 1e6,
        "cpu_us": (time.process_time() - cpu) / count * 1e6,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))))

"""
A burst of transactions to a Sentry that takes its time: ``python burst.py ours|stock COUNT``.

Prints how many arrived, after how many seconds, and what the process grew by.
"""

import json
import os
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

SINK = os.environ["BENCH_SINK"]
DSN = SINK.replace("http://", "http://abc123@") + "/42"
#: Seconds in which everything has to be there.
DEADLINE = 15.0


def ours() -> tuple[Any, Callable[[float], object]]:
    """Return our tracer and what flushes it."""
    from tracebaton.settings import Settings
    from tracebaton.telemetry import build

    telemetry = build(Settings.load({"SENTRY_DSN": DSN}), role="api")
    return telemetry.tracer, telemetry.shutdown


def stock() -> tuple[Any, Callable[[float], object]]:
    """Return a tracer as sentry-sdk's documentation sets it up, and what flushes it."""
    import sentry_sdk
    from opentelemetry.sdk.trace import TracerProvider
    from sentry_sdk.integrations.opentelemetry import SentrySpanProcessor

    sentry_sdk.init(dsn=DSN, instrumenter="otel", traces_sample_rate=1.0)
    provider = TracerProvider()
    provider.add_span_processor(SentrySpanProcessor())
    return provider.get_tracer("bench"), lambda timeout: sentry_sdk.flush(timeout)


def arrived() -> int:
    """Return how many POSTs the sink has had."""
    with urllib.request.urlopen(SINK) as answer:
        return int(json.load(answer)["posts"])


def resident_mb() -> float:
    """Return the memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main(subject: str, count: int) -> None:
    """Send the burst and tell what became of it."""
    tracer, flush = {"ours": ours, "stock": stock}[subject]()
    before = peak = resident_mb()
    over = threading.Event()
    began = time.monotonic()
    for number in range(count):
        with tracer.start_as_current_span(f"request {number % 10}"):
            tracer.start_span("inner").end()
    made = time.monotonic() - began

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.1):
            peak = max(peak, resident_mb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    flush(DEADLINE - made)
    seconds = time.monotonic() - began
    over.set()
    watcher.join()
    told = {
        "arrived": min(count, arrived()),
        "seconds": round(seconds, 2),
        "made_seconds": round(made, 2),
        "grown_mb": round(peak - before, 1),
    }
    print(json.dumps(told), flush=True)
    os._exit(0)  # what the peer still wants to send counts no more


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

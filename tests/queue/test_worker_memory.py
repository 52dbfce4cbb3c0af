"""Memory over many messages: what a message takes it gives back."""

import gc
import logging
import resource
from collections import Counter
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider

from tracebaton.errors import Reject
from tracebaton.queue.lease import Lease
from tracebaton.telemetry.enrichment import SpanPipeline

from .conftest import Bench, Note, until, working

#: Messages that are sent at once.
CHUNK = 500


def resident() -> float:
    """Return this process's resident memory now, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


async def test_memory_is_flat(
    bench: Bench,
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """
    As many objects after many messages as after the first ones.

    The long form is ``--cases 200000``: it prints the resident memory on its way.
    """
    cases: int | None = request.config.getoption("--cases")
    chunks = (cases or 2_000) // CHUNK
    caplog.set_level(logging.CRITICAL, logger="tracebaton")  # pytest would keep every line
    provider = TracerProvider()
    provider.add_span_processor(SpanPipeline([]))
    tracer = provider.get_tracer("tracebaton")
    seen: Counter[str] = Counter()

    async def handler(note: Note) -> None:
        seen["runs"] += 1
        if note.number % 20 == 0:
            raise Reject("now and then")

    async def empty() -> bool:
        return bench.count() == 0 and worker.in_hand == 0

    bench.handle(handler)
    producer = bench.producer(store=None, tracer=tracer)
    worker = bench.worker(store=None, tracer=tracer, concurrency=50, wait_seconds=1)
    counts: list[tuple[int, float]] = []
    async with working(worker):
        for chunk in range(chunks):
            notes = [("note", Note(number=number)) for number in range(CHUNK)]
            await producer.enqueue_many(notes)
            await until(empty, bool, seconds=120)
            gc.collect()
            counts.append((len(gc.get_objects()), resident()))
            if cases and chunk % 20 == 0:
                line = f"{(chunk + 1) * CHUNK:>9,} messages  {resident():6.1f} MiB"
                with capsys.disabled():
                    request.config.pluginmanager.get_plugin("terminalreporter").write_line(line)
    provider.shutdown()
    warm, last = counts[len(counts) // 4], counts[-1]

    assert seen["runs"] >= chunks * CHUNK
    assert last[0] - warm[0] < 500, counts  # of 10 objects and more that each message makes
    assert last[1] <= warm[1] * 1.05 or not cases, counts


async def test_a_message_leaves_no_circle_behind(bench: Bench) -> None:
    """What it needed is freed at once: the collector of garbage has nothing to look for."""

    async def handler(note: Note) -> None:
        """Do nothing."""

    async def empty() -> bool:
        return bench.count() == 0 and worker.in_hand == 0

    bench.handle(handler)
    await bench.producer(store=None).enqueue_many([("note", Note(number=n)) for n in range(100)])
    worker = bench.worker(store=None, concurrency=20, wait_seconds=1)
    gc.collect()
    before = leases()
    gc.disable()
    try:
        async with working(worker):
            await until(empty, bool)
            left = [one for one in leases() if one not in before]
    finally:
        gc.enable()

    assert left == []


def leases() -> list[Lease]:
    """Every lease there is, those that other tests have left too."""
    return [one for one in gc.get_objects() if isinstance(one, Lease)]

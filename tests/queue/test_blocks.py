"""An event loop that is blocked: noticed while it is, with the stack and the message."""

import asyncio
import logging
import time
from typing import Any

import pytest
from opentelemetry import trace

from tracebaton.logs import log_fields
from tracebaton.queue.blocks import BlockWatch

from .conftest import Bench, Note, said, working


def told(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """Return the fields of the lines about blocks."""
    lines = said(caplog, "loop.blocked")
    return [vars(record)["fields"] for record in lines]


def block(seconds: float) -> None:
    """Do what must not be done on an event loop."""
    time.sleep(seconds)


class Lines(logging.Handler):
    """Keeps lines as the one schema writes them, in the context they are logged in."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.lines.append(log_fields(record, service="test"))


async def test_a_handler_that_blocks_is_named(bench: Bench) -> None:
    """Its line has the task and the trace of the message, its stack the function at fault."""
    kept = Lines()
    logger = logging.getLogger("tracebaton.worker")

    async def guilty(note: Note) -> None:
        deadline = time.monotonic() + 30
        while not any(line["event"] == "loop.blocked" for line in kept.lines):
            assert time.monotonic() < deadline
            block(0.01)

    bench.handle(guilty)
    task = await bench.producer().enqueue("note", Note())
    logger.addHandler(kept)
    try:
        async with working(bench.worker(block_seconds=0.2)):
            await bench.ended(task.id)
    finally:
        logger.removeHandler(kept)

    line = next(line for line in kept.lines if line["event"] == "loop.blocked")
    assert "guilty" in line["stack"]
    assert (line["task_id"], line["trace_id"]) == (task.id, task.trace_id)
    span = await bench.spanned("process tasks")
    assert "loop.blocked" in [event.name for event in span.events]


async def test_a_block_is_told_once_and_measured(caplog: pytest.LogCaptureFixture) -> None:
    """However long it lasts; the next one is one more."""
    measured: list[float] = []
    watch = BlockWatch(0.1, whose=lambda task: None, measure=measured.append)
    watch.start()
    with caplog.at_level(logging.WARNING):
        for blocks in (1, 2):
            while len(told(caplog)) < blocks:
                block(0.01)
            block(0.2)
            async with asyncio.timeout(10):
                while len(measured) < blocks:
                    await asyncio.sleep(0.01)
    watch.stop()

    assert [fields["seconds"] >= 0.1 for fields in told(caplog)][:2] == [True, True]
    assert all(seconds >= 0.1 for seconds in measured)
    assert watch.well
    assert not trace.get_current_span().get_span_context().is_valid


async def test_a_long_block_makes_the_worker_not_ready(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a while after it: nothing could be asked meanwhile."""
    monkeypatch.setattr("tracebaton.queue.blocks._LONG", 0.2)
    worker = bench.worker(block_seconds=0.1)
    async with working(worker):
        await asyncio.sleep(0)  # one turn of the loop, in which the worker starts
        block(0.5)
        async with asyncio.timeout(10):
            while worker.health()["event_loop"]:
                await asyncio.sleep(0.01)

    assert bench.worker().health()["event_loop"] is True

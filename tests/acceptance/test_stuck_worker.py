"""A worker of ``--processes N`` whose event loop does not turn any more."""

import asyncio
import logging
import os
import signal
from pathlib import Path

import pytest
from stage import Broker

from tracebaton import crew
from tracebaton.children import Out

pytestmark = pytest.mark.acceptance

HERE = Path(__file__).parent


async def test_a_worker_that_answers_nothing_is_replaced(
    broker: Broker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is stopped as a whole: /livez stays silent, the parent kills it and starts another."""
    monkeypatch.chdir(HERE)
    monkeypatch.setattr(crew, "_PROBE_SECONDS", 0.3)  # a minute otherwise
    monkeypatch.setattr(crew, "_PROBES", 6)
    caplog.set_level(logging.INFO)
    stopping = asyncio.Event()
    with (tmp_path / "lines").open("wb") as lines:
        place = crew._Place(0, "shop:app", {**os.environ, **broker.env}, Out(lines))
        keeping = asyncio.create_task(place.keep(stopping))
        first = await up(place, other_than=None)
        os.kill(first, signal.SIGSTOP)
        second = await up(place, other_than=first)
        stopping.set()
        assert place.child is not None
        place.child.terminate()
        code = await asyncio.wait_for(keeping, 30)

    told = [record.message for record in caplog.records if record.name == "tracebaton.crew"]
    assert told == ["child.started", "child.stuck", "child.ended", "child.started"]
    assert (code, second != first) == (0, True)


async def up(place: "crew._Place", *, other_than: int | None) -> int:
    """Wait until a worker is up, and return its process id."""
    async with asyncio.timeout(60):
        while place.child is None or place.child.process.pid == other_than or not place.said:
            await asyncio.sleep(0.02)
    return place.child.process.pid

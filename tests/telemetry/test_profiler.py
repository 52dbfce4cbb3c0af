"""The profiler's look at all threads: no collection of garbage falls into it."""

import gc
import sys

import pytest

from tracebaton.telemetry.sentry import profiler


@pytest.mark.parametrize("collecting", [True, False])
def test_no_collection_falls_into_a_look_at_all_threads(
    monkeypatch: pytest.MonkeyPatch, collecting: bool
) -> None:
    """It finds collections off, and leaves them as they were; a second guard changes nothing."""
    found: list[bool] = []
    real = sys._current_frames

    def look() -> object:
        found.append(gc.isenabled())
        return real()

    monkeypatch.setattr(sys, "_current_frames", look)
    profiler._guard()
    profiler._guard()
    try:
        (gc.enable if collecting else gc.disable)()
        frames = sys._current_frames()
        after = gc.isenabled()
    finally:
        gc.enable()

    assert len(frames) >= 1
    assert found == [False]
    assert after is collecting

"""
The continuous profiler of sentry-sdk, started so that it cannot stop the process for good.
"""

import gc
import sys
from types import FrameType
from typing import Any, Final

import sentry_sdk

__all__ = ["start_profiler"]

#: The first versions whose ``sys._current_frames()`` no collection interrupts.
_SOUND: Final = (3, 13)


def start_profiler() -> None:
    """
    Start it, which looks at the frames of all threads a hundred times a second.

    Before CPython 3.13 (and late patches of 3.11 and 3.12) a collection of garbage that falls into
    ``sys._current_frames()`` can let go of the GIL under the interpreter's own lock; a thread that
    starts at that moment then holds up every thread for ever (cpython#106883). So it looks without
    collections there.
    """
    if sys.version_info < _SOUND:
        _guard()
    sentry_sdk.profiler.start_profiler()


def _guard() -> None:
    frames: Any = sys._current_frames
    if getattr(frames, "guarded", False):
        return

    def current_frames() -> dict[int, FrameType]:
        was = gc.isenabled()
        gc.disable()
        try:
            return frames()  # type: ignore[no-any-return]  # as sys has it
        finally:
            if was:
                gc.enable()

    current_frames.guarded = True  # type: ignore[attr-defined]  # the mark above
    sys._current_frames = current_frames

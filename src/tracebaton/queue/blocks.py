"""
What blocks the event loop: noticed by a thread beside it, with the stack and the span it is in.

A handler that computes or sleeps in an ``async def`` holds up every other message, and the
heartbeat with them.
"""

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, Final

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.context import Context

from tracebaton.semconv import EVENT_LOOP_BLOCKED

__all__ = ["BlockWatch"]

#: Seconds of a block that endangers leases and probes.
_LONG: Final = 5.0
#: Seconds after such a block during which the worker is not ready.
_AFTER: Final = 10.0
#: Frames of the stack that are told, the innermost ones.
_FRAMES: Final = 12

_log = logging.getLogger("tracebaton.worker")

#: Returns where the span of a task is, None where nobody knows.
Whose = Callable[["asyncio.Task[Any]"], Context | None]


class BlockWatch:
    """Watches the loop that `start()` is called in."""

    def __init__(
        self,
        seconds: float,
        *,
        whose: Whose,
        measure: Callable[[float], object],
    ) -> None:
        """
        Set what counts as a block.

        Args:
            seconds: A loop that does not turn for longer is blocked.
            measure: Told how long a block was when it is over.
        """
        self._seconds = seconds
        self._whose = whose
        self._measure = measure
        self._turned = 0.0
        self._said = False
        self._stop = threading.Event()
        self._long_until = float("-inf")
        self._handle: asyncio.TimerHandle | None = None

    @property
    def well(self) -> bool:
        """Tell whether no long block has just been."""
        return time.monotonic() >= self._long_until

    def start(self) -> None:
        """Begin to watch the running loop."""
        loop = asyncio.get_running_loop()
        self._turned = time.monotonic()
        self._turn(loop)
        arguments = (loop, threading.get_ident())
        threading.Thread(
            target=self._watch, args=arguments, name="tracebaton-blocks", daemon=True
        ).start()

    def stop(self) -> None:
        """Watch no longer."""
        self._stop.set()
        if self._handle is not None:
            self._handle.cancel()

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """Note that the loop turns, a few times within what counts as a block."""
        now = time.monotonic()
        pause, late = self._seconds / 4, now - self._turned - self._seconds / 4
        if late >= self._seconds:
            self._measure(late)
        if late >= _LONG:
            self._long_until = now + _AFTER
        self._turned, self._said = now, False
        self._handle = loop.call_later(pause, self._turn, loop)

    def _watch(self, loop: asyncio.AbstractEventLoop, thread: int) -> None:
        while not self._stop.wait(self._seconds / 4):
            blocked = time.monotonic() - self._turned
            if blocked >= self._seconds and not self._said:
                self._said = True
                self._say(loop, sys._current_frames().get(thread), blocked)

    def _say(
        self, loop: asyncio.AbstractEventLoop, frame: FrameType | None, blocked: float
    ) -> None:
        task: asyncio.Task[Any] | None = None
        with suppress(RuntimeError):
            task = asyncio.current_task(loop)
        context = None if task is None else self._whose(task)
        stack = traceback.format_stack(frame)[-_FRAMES:]
        fields = {
            "seconds": round(blocked, 2),
            "task": None if task is None else task.get_name(),
            "stack": "".join(stack),
        }
        # The line is written in the context of the message whose handler blocks.
        token = otel.attach(context or Context())
        try:
            trace.get_current_span().add_event(EVENT_LOOP_BLOCKED)
            _log.warning(EVENT_LOOP_BLOCKED, extra={"fields": fields})
        finally:
            otel.detach(token)

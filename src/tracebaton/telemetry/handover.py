"""
Hand work from request threads to one background thread, bounded, with a deadline at the end.
"""

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Handover"]

_log = logging.getLogger("tracebaton.telemetry")
Item = TypeVar("Item")


class Handover(Generic[Item]):
    """
    A bounded queue with one daemon thread that starts with the first item.

    A forked child starts with an empty queue and its own thread, so nothing is handled twice.
    """

    def __init__(
        self,
        handle: Callable[[Item], None],
        *,
        name: str,
        limit: int,
        tick: Callable[[], float | None] = lambda: None,
    ) -> None:
        """
        Set what happens to an item.

        Args:
            handle: Called in the background thread; what it raises is logged and passed over.
            name: The thread's name.
            limit: Items that may wait; the next one is refused.
            tick: Called when the queue is empty; returns the seconds until it wants to be called
                again, None for never.
        """
        self._handle = handle
        self._name = name
        self._limit = limit
        self._tick = tick
        self._reset()

    def _reset(self) -> None:
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._busy = self._woken = False
        self._pid = os.getpid()

    def submit(self, item: Item) -> bool:
        """Queue *item*; return False where the queue is full."""
        self._ensure_thread()
        with self._changed:
            if len(self._items) >= self._limit:
                return False
            self._items.append(item)
            self._changed.notify_all()
        return True

    def wake(self) -> None:
        """Ask for a tick."""
        self._ensure_thread()
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def drain(self, timeout: float) -> bool:
        """Wait up to *timeout* seconds until all is handled, and tell whether it is."""
        if self._pid != os.getpid():
            self._reset()
        with self._changed:
            return self._changed.wait_for(lambda: not (self._items or self._busy), timeout)

    def __len__(self) -> int:
        """Return how many items wait or are just handled."""
        return len(self._items) + self._busy

    def _ensure_thread(self) -> None:
        if self._pid != os.getpid():
            self._reset()
        if self._thread is not None and self._thread.is_alive():
            return
        with self._changed:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            item = self._next()
            try:
                self._handle(item)
            except Exception:  # the thread outlives what one item does wrong
                _log.exception("telemetry.handover_failed", extra={"fields": {"name": self._name}})
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _next(self) -> Item:
        while True:
            with self._changed:
                if self._items:
                    self._busy = True
                    return self._items.popleft()
                self._woken = False
            delay = self._tick()
            with self._changed:
                if not self._items and not self._woken:
                    self._changed.wait(delay)

"""
Hand work from request threads to a few background threads, bounded, with a deadline at the end.
"""

import contextvars
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Generic, TypeVar

from tracebaton.telemetry.forks import in_child

__all__ = ["Handover"]

_log = logging.getLogger("tracebaton.telemetry")
Item = TypeVar("Item")
#: Seconds of the longest rest between two items.
_REST: Final = 0.005


class Handover(Generic[Item]):
    """
    A bounded queue with daemon threads that start as they are needed.

    A forked child starts with an empty queue and threads of its own, so nothing is handled twice.
    """

    def __init__(
        self,
        handle: Callable[[Item], object],
        *,
        name: str,
        limit: int,
        threads: int = 1,
        tick: Callable[[], float | None] = lambda: None,
        rests_below: int = 0,
        now: Callable[[], float] = time.monotonic,
        rest: Callable[[threading.Event, float], object] = threading.Event.wait,
    ) -> None:
        """
        Set what happens to an item.

        Args:
            handle: Called in a background thread; what it raises is logged and passed over.
            name: The threads' name.
            limit: Items that may wait; the next one is refused.
            threads: The most that may run.
            tick: Called when the queue is empty; returns the seconds until it wants to be called
                again, None for never.
            rests_below: A thread rests as long as an item took while fewer than these wait. It
                takes Python's lock from whoever serves requests, for 5 ms at a time: without a
                rest, a process that has enough to do answers half as often.
            rest: Waits so many seconds, or until somebody is in a hurry.
        """
        self._handle = handle
        self._name = name
        self._limit = limit
        self._most = threads
        self._tick = tick
        self._rests_below = rests_below
        self._now = now
        self._rest = rest
        self._start_empty()
        in_child(self._start_empty)

    def _start_empty(self) -> None:
        self._items: deque[Item] = deque()
        lock = threading.Lock()
        # Two conditions, so that an item wakes one thread and not every idle one.
        self._work, self._done = threading.Condition(lock), threading.Condition(lock)
        self._threads = self._busy = 0
        self._woken = False
        #: Set while somebody waits until all is handled.
        self._hurry = threading.Event()

    def submit(self, item: Item) -> bool:
        """Queue *item*; return False where the queue is full."""
        with self._work:
            if len(self._items) >= self._limit:
                return False
            self._items.append(item)
            self._notify()
        return True

    def wake(self) -> None:
        """Ask for a tick."""
        with self._work:
            self._woken = True
            self._notify()

    def drain(self, timeout: float) -> bool:
        """
        Wait up to *timeout* seconds until all is handled, and tell whether it is.

        What no thread could be started for is handled here.
        """
        deadline = time.monotonic() + timeout
        while not self._threads and time.monotonic() < deadline and (item := self._take()):
            self._settle(item[0])
        self._hurry.set()
        try:
            with self._done:
                left = max(0.0, deadline - time.monotonic())
                return self._done.wait_for(lambda: not len(self), left)
        finally:
            self._hurry.clear()

    def close(self) -> int:
        """Let go of what waits, take nothing more, and return how much that was."""
        with self._done:
            left = len(self)
            self._limit = 0
            self._items.clear()
            self._done.notify_all()
        return left

    def __len__(self) -> int:
        """Return how many items wait or are just handled."""
        return len(self._items) + self._busy

    def _notify(self) -> None:
        if self._threads == 0 or (self._threads < self._most and len(self) > self._threads):
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            # None can be started at the machine's limit, nor by an interpreter that ends (3.12).
            with suppress(RuntimeError):
                # From an empty context: an instrumented Thread would carry this request's into it.
                contextvars.Context().run(thread.start)
                self._threads += 1
        self._work.notify()

    def _run(self) -> None:
        while True:
            item, began = self._next(), self._now()
            self._settle(item)
            del item  # it would be kept until the next one comes
            if len(self._items) < self._rests_below:
                self._rest(self._hurry, min(_REST, self._now() - began))

    def _settle(self, item: Item) -> None:
        try:
            self._handle(item)
        except Exception:  # the thread outlives what one item does wrong
            _log.exception("telemetry.handover_failed", extra={"fields": {"name": self._name}})
        with self._done:
            self._busy -= 1
            self._done.notify_all()

    def _take(self) -> tuple[Item] | None:
        with self._work:
            if not self._items:
                return None
            self._busy += 1
            return (self._items.popleft(),)

    def _next(self) -> Item:
        while True:
            if (item := self._take()) is not None:
                return item[0]
            with self._work:
                self._woken = False
            delay = self._tick()
            with self._work:
                if not self._items and not self._woken:
                    self._work.wait(delay)

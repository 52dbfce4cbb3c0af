"""
A dependency that is away, reported once a code and minute, with the count.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["Outages"]

#: Seconds between two events of one code.
WINDOW: Final = 60.0
#: Seconds the event waits, so that its count is that of the burst and not 1.
GRACE: Final = 2.0


@dataclass(slots=True)
class _Window:
    opened: float
    event_id: str
    #: Sends the event; None once it is sent.
    send: Callable[[int], Any] | None
    count: int = 0


class Outages:
    """
    The open windows, one a code.

    The first failure of a window opens it and fixes the event's id, which the log lines of all the
    others name too. The event leaves `GRACE` seconds later with the count since the last one; what
    comes after it is counted into the next.
    """

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        """Start without an outage; *now* is the clock."""
        self._now = now
        self._lock = threading.Lock()
        self._windows: dict[str, _Window] = {}

    def add(self, code: str, opened: Callable[[], tuple[str, Callable[[int], Any]]]) -> str:
        """
        Count one failure and return the id of the event that tells of it.

        Args:
            code: The outcome's code.
            opened: Called if this failure opens a window; returns the event's id and what sends it
                with a count.
        """
        with self._lock:
            window, now = self._windows.get(code), self._now()
            if window is None or now - window.opened >= WINDOW:
                carried = 0 if window is None else window.count
                window = self._windows[code] = _Window(now, *opened(), carried)
            window.count += 1
            return window.event_id

    def send_due(self, *, all_of_them: bool = False) -> float | None:
        """
        Send the events whose time has come and return the seconds until the next one, if any.

        Args:
            all_of_them: Send the waiting ones too: the process stops.
        """
        with self._lock:
            now = self._now()
            waiting = [window for window in self._windows.values() if window.send is not None]
            due = [w for w in waiting if all_of_them or now - w.opened >= GRACE]
            calls = [(send, window.count) for window in due if (send := window.send)]
            for window in due:
                window.send, window.count = None, 0
            later = [GRACE - (now - w.opened) for w in waiting if w.send is not None]
        for send, count in calls:
            send(count)
        return min(later, default=None)

"""Time as the local SQS reads it, so that a test can move it."""

import time
from typing import Protocol

__all__ = ["Clock", "ManualClock", "SystemClock"]


class Clock(Protocol):
    """The two readings the queues need, both in seconds."""

    def monotonic(self) -> float:
        """Return a reading that never goes back: every timeout is counted in it."""
        ...

    def wall(self) -> float:
        """Return the time since 1970: only timestamps that a client sees come from it."""
        ...


class SystemClock:
    """The clock of this machine."""

    def monotonic(self) -> float:
        """Return the monotonic clock of this machine."""
        return time.monotonic()

    def wall(self) -> float:
        """Return the wall clock of this machine."""
        return time.time()


class ManualClock:
    """A clock that stands still until it is moved, for tests of what takes hours."""

    def __init__(self, *, wall: float = 1_700_000_000.0) -> None:
        self._elapsed = 0.0
        self._start = wall

    def monotonic(self) -> float:
        """Return the seconds by which the clock was moved."""
        return self._elapsed

    def wall(self) -> float:
        """Return the start time plus the seconds by which the clock was moved."""
        return self._start + self._elapsed

    def advance(self, seconds: float) -> None:
        """Move the clock forward by *seconds*."""
        if seconds < 0:
            raise ValueError(f"A clock only moves forward, not by {seconds} s.")
        self._elapsed += seconds

"""
What telemetry lost, counted always and said once an interval.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

__all__ = ["InFlight", "Losses"]

_log = logging.getLogger("tracebaton.telemetry")

#: Seconds between two lines about one destination.
INTERVAL: Final = 60.0


class Losses:
    """The losses at one destination."""

    def __init__(self, destination: str, *, now: Callable[[], float] = time.monotonic) -> None:
        """
        Start at zero.

        Args:
            destination: What the log line calls it.
            now: The clock of the interval.
        """
        self._destination = destination
        self._now = now
        self._lock = threading.Lock()
        self._count = self._said = 0
        self._moment = float("-inf")

    @property
    def count(self) -> int:
        """Return how many spans were lost so far."""
        return self._count

    def add(self, spans: int, reason: str | None) -> None:
        """Count *spans*; log the sum since the last line unless that was just now."""
        with self._lock:
            self._count += spans
            if self._now() - self._moment < INTERVAL:
                return
            fresh, self._said, self._moment = self._count - self._said, self._count, self._now()
        fields = {"destination": self._destination, "spans": fresh, "reason": reason}
        _log.warning("telemetry.spans_lost", extra={"fields": fields})


class InFlight:
    """The spans handed to a destination whose sending somebody else does."""

    def __init__(self, losses: Losses) -> None:
        """Start at zero; what is refused goes to *losses*."""
        self._losses = losses
        self._lock = threading.Lock()
        self._parcels = self._received = self._sent = 0

    @property
    def parcels(self) -> int:
        """Return how many parcels are on their way."""
        return self._parcels

    @property
    def sent(self) -> int:
        """Return how many spans arrived."""
        return self._sent

    @property
    def unsent(self) -> int:
        """Return how many spans did not arrive, lost and waiting ones."""
        return self._received - self._sent

    def receive(self, spans: int) -> None:
        """Count *spans* that have to be sent."""
        with self._lock:
            self._received += spans

    def dispatch(self) -> None:
        """Count a parcel that leaves."""
        with self._lock:
            self._parcels += 1

    def settle(self, spans: int, refused: str | None) -> None:
        """Count a parcel of *spans* that arrived, or that was refused and why."""
        with self._lock:
            self._parcels -= 1
            self._sent += 0 if refused else spans
        if refused:
            self._losses.add(spans, refused)

    def refuse(self, spans: int, reason: str) -> None:
        """Count *spans* that never became a parcel."""
        self._losses.add(spans, reason)

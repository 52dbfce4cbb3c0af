"""
What telemetry lost, counted always and said once an interval.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from tracebaton.telemetry.forks import in_child

__all__ = ["InFlight", "Losses"]

_log = logging.getLogger("tracebaton.telemetry")

#: Seconds between two lines about one destination.
INTERVAL: Final = 60.0


class Losses:
    """The losses at one destination."""

    def __init__(
        self,
        destination: str,
        *,
        signal: str = "spans",
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Start at zero.

        Args:
            destination: What the log line calls it.
            signal: What is counted, as the log line calls it.
            now: The clock of the interval.
        """
        self._destination = destination
        self._signal = signal
        self._now = now
        self._start_at_zero()
        in_child(self._start_at_zero)

    def _start_at_zero(self) -> None:
        self._lock = threading.Lock()
        self._count = self._said = 0
        self._moment = float("-inf")

    @property
    def count(self) -> int:
        """Return how many were lost so far."""
        return self._count

    def add(self, lost: int, reason: str | None) -> None:
        """Count *lost*; log the sum since the last line unless that was just now."""
        with self._lock:
            self._count += lost
            if self._now() - self._moment < INTERVAL:
                return
            fresh, self._said, self._moment = self._count - self._said, self._count, self._now()
        fields = {"destination": self._destination, self._signal: fresh, "reason": reason}
        _log.warning(f"telemetry.{self._signal}_lost", extra={"fields": fields})


class InFlight:
    """The spans handed to a destination whose sending somebody else does, in parcels."""

    def __init__(self, losses: Losses) -> None:
        """Start at zero; what is refused goes to *losses*."""
        self._losses = losses
        self._start_at_zero()
        in_child(self._start_at_zero)

    def _start_at_zero(self) -> None:
        self._lock = threading.Lock()
        self._contents: dict[str, int] = {}
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

    def pack(self, parcel: str, spans: int) -> None:
        """Note that *parcel* holds that many of them."""
        with self._lock:
            self._contents[parcel] = spans

    def dispatch(self) -> None:
        """Count a parcel that leaves."""
        with self._lock:
            self._parcels += 1

    def settle(self, parcel: str | None, refused: str | None) -> None:
        """Count *parcel* as arrived, or as lost because it was *refused*."""
        with self._lock:
            spans = self._contents.pop(parcel or "", 0)
            self._parcels -= 1
            self._sent += 0 if refused else spans
        if refused:
            self.lose(spans, refused)

    def lose(self, spans: int, reason: str) -> None:
        """Count *spans* that will not arrive."""
        self._losses.add(spans, reason)

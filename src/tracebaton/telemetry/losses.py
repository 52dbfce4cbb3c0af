"""
What telemetry lost, counted always and said once an interval.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from tracebaton.telemetry.forks import in_child

__all__ = ["InFlight", "Ledger", "Losses"]

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
        self._reason: str | None = None

    @property
    def count(self) -> int:
        """Return how many were lost so far."""
        return self._count

    def add(self, lost: int, reason: str | None) -> None:
        """Count *lost*; log the sum since the last line unless that was just now."""
        with self._lock:
            self._count += lost
            self._reason = reason
            if self._now() - self._moment < INTERVAL:
                return
            fresh = self._say()
        self._log(fresh, reason)

    def close(self, left: int) -> None:
        """Count what is *left* as lost, since the process stops, and log what is not yet said."""
        with self._lock:
            self._count += left
            fresh = self._say()
        if fresh:
            self._log(fresh, "the process stopped" if left else self._reason)

    def _say(self) -> int:
        fresh, self._said, self._moment = self._count - self._said, self._count, self._now()
        return fresh

    def _log(self, fresh: int, reason: str | None) -> None:
        fields = {"destination": self._destination, self._signal: fresh, "reason": reason}
        _log.warning(f"telemetry.{self._signal}_lost", extra={"fields": fields})


class Ledger:
    """
    What became of everything that was handed to one destination's queue.

    Each is counted as exported, as lost, or as still waiting.
    """

    def __init__(self, losses: Losses, *, size: int) -> None:
        """Start at zero; in a queue of *size* the oldest makes room, which is a loss."""
        self._losses = losses
        self._size = size
        self._start_at_zero()
        in_child(self._start_at_zero)

    def _start_at_zero(self) -> None:
        self._lock = threading.Lock()
        self._received = self._taken = self._exported = self._overflowed = 0
        self._closed = False

    @property
    def exported(self) -> int:
        """Return how many the destination took."""
        return self._exported

    @property
    def lost(self) -> int:
        """Return how many the destination refused or the queue could not hold."""
        return self._losses.count

    @property
    def waiting(self) -> int:
        """Return how many are neither exported nor lost."""
        # A batch that is just leaving the queue may have been counted as overflow too.
        return max(0, self._received - self._exported - self.lost)

    @property
    def unsent(self) -> int:
        """Return how many the destination did not take, lost and waiting ones."""
        return self._received - self._exported

    def enter(self) -> None:
        """Count one that is about to be queued."""
        with self._lock:
            self._received += 1
            full = self._received - self._taken - self._overflowed > self._size
            self._overflowed += full
        if full:
            self._losses.add(1, "the queue is full")

    def leave(self, number: int) -> None:
        """Count *number* as taken out of the queue."""
        with self._lock:
            self._taken += number

    def arrive(self, number: int) -> None:
        """Count *number* as exported."""
        with self._lock:
            self._exported += number

    def lose(self, number: int, reason: str | None) -> None:
        """Count *number* as lost."""
        if not self._closed:
            self._losses.add(number, reason)

    def close(self) -> None:
        """Count what waits as lost, what is just on its way too, and say what is not yet said."""
        self._closed = True
        self._losses.close(self.waiting)


class InFlight:
    """
    What was handed to a destination whose sending somebody else does, in parcels.

    A parcel holds spans, or is an event, which is one thing.
    """

    def __init__(self, spans: Losses, events: Losses) -> None:
        """Start at zero; what is refused goes to *spans* or to *events*."""
        self._losses = spans
        self._event_losses = events
        self._start_at_zero()
        in_child(self._start_at_zero)

    def _start_at_zero(self) -> None:
        self._lock = threading.Lock()
        self._contents: dict[str, int] = {}
        self._parcels = self._received = self._sent = self._events = 0
        self._closed = False

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

    @property
    def waiting(self) -> int:
        """Return how many spans neither arrived nor are lost."""
        return max(0, self.unsent - self._losses.count)

    def receive(self, spans: int) -> None:
        """Count *spans* that have to be sent."""
        with self._lock:
            self._received += spans

    def pack(self, parcel: str, spans: int) -> None:
        """Note that *parcel* holds that many of them."""
        with self._lock:
            self._contents[parcel] = spans

    def dispatch(self, parcel: str | None) -> None:
        """Count a *parcel* that leaves; what has no name is neither spans nor an event."""
        with self._lock:
            self._parcels += 1
            self._events += self._is_event(parcel)

    def settle(self, parcel: str | None, refused: str | None) -> None:
        """Count *parcel* as arrived, or as lost because it was *refused*."""
        with self._lock:
            is_event = self._is_event(parcel)
            spans = self._contents.pop(parcel or "", 0)
            self._parcels -= 1
            self._events -= is_event
            self._sent += 0 if refused else spans
        if refused and is_event and not self._closed:
            self._event_losses.add(1, refused)
        elif refused and spans:
            self.lose(spans, refused)

    def _is_event(self, parcel: str | None) -> bool:
        return parcel is not None and parcel not in self._contents

    def lose(self, spans: int, reason: str) -> None:
        """Count *spans* that will not arrive."""
        if not self._closed:
            self._losses.add(spans, reason)

    def close(self) -> None:
        """Count what is on its way as lost, and say what is not yet said."""
        self._closed = True
        self._losses.close(self.waiting)
        self._event_losses.close(self._events)

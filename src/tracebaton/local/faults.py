"""The faults of one local SQS, and how often each struck."""

import threading
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

from tracebaton.local.fault import Fault
from tracebaton.local.strike import Befallen, Strike

__all__ = ["Faults"]


class Faults:
    """
    The faults of one local SQS; every method may be called from any thread.

    Args:
        actions: The names of all actions there are.
    """

    def __init__(self, actions: Collection[str]) -> None:
        self._actions = actions
        self._lock = threading.Lock()
        self._last_id = 0
        # Replaced, never changed: the server reads it without the lock.
        self._befallen: tuple[Befallen, ...] = ()
        self._injected: Counter[str | None] = Counter()

    def add(self, fault: Fault) -> str:
        """Let *fault* strike from now on and return its id."""
        if fault.action is not None and fault.action not in self._actions:
            raise ValueError(f"There is no action {fault.action!r}.")
        with self._lock:
            self._last_id += 1
            fault_id = str(self._last_id)
            self._befallen += (Befallen(fault_id, fault, self._injected),)
        return fault_id

    def remove(self, fault_id: str) -> bool:
        """End a fault and return whether it was there; what it delays already goes on."""
        with self._lock:
            rest = tuple(befallen for befallen in self._befallen if befallen.id != fault_id)
            found = len(rest) < len(self._befallen)
            self._befallen = rest
        return found

    def clear(self) -> None:
        """End all faults."""
        with self._lock:
            self._befallen = ()

    def list(self) -> list[dict[str, Any]]:
        """Return each fault with its ``id``, the ``calls`` it saw and how many it ``injected``."""
        return [
            {
                "id": befallen.id,
                **asdict(befallen.fault),
                "calls": befallen.calls,
                "injected": befallen.injected,
            }
            for befallen in self._befallen
        ]

    def injected(self, queue: str) -> int:
        """Return how many faults struck calls on the queue of this name."""
        return self._injected[queue]

    def strike(self, action: str, request: Mapping[str, Any]) -> Strike | None:
        """Return what befalls a call, None if nothing can."""
        if not self._befallen:
            return None
        queue = _queue_name(request)
        matching = [one for one in self._befallen if one.fault.befalls(action, queue)]
        return Strike(matching, queue) if matching else None


def _queue_name(request: Mapping[str, Any]) -> str | None:
    for parameter, separator in (("QueueUrl", "/"), ("QueueName", "/"), ("SourceArn", ":")):
        if parameter in request:
            return str(request[parameter]).rpartition(separator)[2]
    return None

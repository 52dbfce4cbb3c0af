"""
What goes wrong in a chaos run, and how much of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tracebaton.local import Fault

__all__ = ["STORM", "Plan"]

#: Everything a network and SQS do, each often enough to be met in a few hundred calls.
STORM: Sequence[Fault] = (
    Fault(effect="delay", seconds=0.05, probability=0.2),
    Fault(effect="delay", seconds=1.5, probability=0.01),
    Fault(effect="error", status=500, probability=0.02),
    Fault(effect="error", status=503, probability=0.01, after=True),
    Fault(effect="throttle", probability=0.03),
    Fault(effect="reset", probability=0.01),
    Fault(effect="reset", probability=0.01, after=True),
    Fault(effect="black_hole", probability=0.003),
    Fault(effect="black_hole", probability=0.002, after=True),
    Fault(effect="fail_entries", probability=0.03),
    Fault(effect="fail_entries", probability=0.01, after=True),
    Fault(effect="fail_entries", probability=0.005, sender_fault=True),
    Fault(effect="duplicate", probability=0.05),
    Fault(effect="reorder", probability=0.2),
    Fault(effect="lose_handle", probability=0.02),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """
    One chaos run.

    Attributes:
        items: Task types with their data, to be sent during the storm.
        finale: The same, sent when the storm is over and its tasks have ended.
        workers: Processes.
        concurrency: Messages in hand of each.
        seed: Decides what befalls which call, as far as the calls come in the same order.
        faults: The storm.
        groups: Groups of a FIFO queue, over which the items are dealt out in turn; 0 for a standard
            queue.
        kill_seconds: Mean time between two kill -9 of a worker, None for none.
        outage_seconds: Mean time between two outages of the task store, None for none.
        lose: Share of the runs that return whose result is thrown away.
        storm_seconds: After so long the storm ends although tasks are open.
        patience: Seconds in which everything has to end when the storm is over.
        visibility_seconds: The lease.
        attempts: maxReceiveCount of the queue: faults use some up.
    """

    items: Sequence[tuple[str, Mapping[str, Any]]]
    finale: Sequence[tuple[str, Mapping[str, Any]]] = ()
    workers: int = 2
    concurrency: int = 10
    seed: int = 0
    faults: Sequence[Fault] = STORM
    groups: int = 0
    kill_seconds: float | None = 3.0
    outage_seconds: float | None = None
    lose: float = 0.0
    storm_seconds: float = 60.0
    patience: float = 90.0
    visibility_seconds: int = 6
    attempts: int = 10

    def seeded(self) -> list[Fault]:
        """Return the faults, each with a seed of its own."""
        return [
            replace(fault, seed=self.seed * 1000 + number)
            for number, fault in enumerate(self.faults)
        ]

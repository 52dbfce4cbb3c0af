"""What happened to the messages of a queue."""

from dataclasses import dataclass

__all__ = ["Counters"]


@dataclass(slots=True)
class Counters:
    """
    What happened to the messages of a queue, so that a test can account for each one.

    ``sent + moved_in`` always equals ``deleted + expired + purged + moved_out`` plus what the
    queue holds. ``deduplicated`` counts sends that a FIFO queue took without adding a message.
    """

    sent: int = 0
    deduplicated: int = 0
    received: int = 0
    redelivered: int = 0
    deleted: int = 0
    expired: int = 0
    purged: int = 0
    moved_in: int = 0
    moved_out: int = 0
    empty_receives: int = 0

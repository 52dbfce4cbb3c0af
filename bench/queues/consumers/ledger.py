"""What every Python consumer here does with a message: it marks its number, which is the work."""

import mmap
import os

#: About 300 bytes of JSON, the message's number among them.
TEXT = "lorem ipsum dolor sit amet " * 8


class Ledger:
    """A byte for each message, shared by the processes of a run."""

    def __init__(self) -> None:
        with open(os.environ["BENCH_LEDGER"], "r+b") as file:
            self._bytes = mmap.mmap(file.fileno(), 0)

    def mark(self, number: int) -> None:
        """Count one handling of the message."""
        self._bytes[number] += 1


def numbers() -> range:
    """Return the numbers of the run's messages."""
    return range(int(os.environ["BENCH_COUNT"]))

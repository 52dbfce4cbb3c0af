"""
Outages of a SQLite task store: another process holds its lock, for longer than anybody waits.
"""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random

__all__ = ["StoreOutages"]

#: Bounds of an outage in seconds. The store waits 5 s for the lock: most calls fail, some are late.
_SECONDS = (4.0, 8.0)


class StoreOutages:
    """
    Takes the store away now and then.

    Attributes:
        count: How many outages there were.
    """

    def __init__(self, path: Path, *, mean_seconds: float, random: Random) -> None:
        """
        Set which store.

        Args:
            mean_seconds: Between the end of an outage and the next one.
        """
        self.count: int = 0
        self._path = path
        self._mean = mean_seconds
        self._random = random

    async def run(self) -> None:
        """Take it away and give it back until cancelled."""
        while True:
            await asyncio.sleep(self._random.expovariate(1 / self._mean))
            await self._away(self._random.uniform(*_SECONDS))

    async def _away(self, seconds: float) -> None:
        with closing(sqlite3.connect(self._path, isolation_level=None, timeout=0)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:  # a worker is just writing: the next time, then
                return
            self.count += 1
            await asyncio.sleep(seconds)
            connection.execute("ROLLBACK")

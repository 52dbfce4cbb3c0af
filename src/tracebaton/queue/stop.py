"""
The word to stop, and waiting for something unless it comes first.
"""

import asyncio
from typing import Any

__all__ = ["Stop"]


class Stop:
    """A stop that is asked for once and seen by every loop of a worker."""

    def __init__(self) -> None:
        self._future: asyncio.Future[None] | None = None
        self._asked = False

    @property
    def asked(self) -> bool:
        """Tell whether the stop was asked for."""
        return self._asked

    def ask(self) -> None:
        """Ask for it."""
        self._asked = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def or_done(self, *work: "asyncio.Future[Any]", seconds: float | None = None) -> bool:
        """Wait for the first of *work*, for *seconds* or for the stop; True if it is the stop."""
        if not self._asked and not any(one.done() for one in work):
            # One future for all who wait, made in their loop: no task a wait.
            if self._future is None:
                self._future = asyncio.get_running_loop().create_future()
            waiting: set[asyncio.Future[Any]] = {*work, self._future}
            await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return self._asked

    async def sleep(self, seconds: float) -> bool:
        """Sleep; True if the stop comes first."""
        return await self.or_done(seconds=seconds)

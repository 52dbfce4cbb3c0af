"""
The worker processes of a chaos run.
"""

import asyncio
import os
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from tracebaton.children import Child, Out, start
from tracebaton.errors import TracebatonError
from tracebaton.testing.storm import Plan

__all__ = ["Workers"]

#: Seconds that a worker may take until it is up, and from SIGTERM to its end.
_START_SECONDS, _STOP_SECONDS = 60.0, 40.0


class Workers:
    """The worker processes of one run: what is killed is started again."""

    def __init__(
        self, plan: Plan, arguments: Sequence[str], *, environment: Mapping[str, str], out: Out
    ) -> None:
        """
        Set what they are.

        Args:
            arguments: Their command line, but for the seed.
            out: Where their lines go.
        """
        self._plan = plan
        self._arguments = arguments
        self._environment = environment
        self._out = out
        self._children: dict[int, Child] = {}
        self._places: list[asyncio.Task[None]] = []
        self._stopping = False
        #: Exit codes of those that were asked to stop.
        self.codes: list[int] = []
        #: Open files of each process, a number a second.
        self.files: dict[int, list[int]] = {}
        #: Moments, in seconds since the epoch, at which one ended that nobody had asked to.
        self.ended_at: list[float] = []
        self.started: int = 0

    async def start(self) -> None:
        """Start every worker and wait until all are up."""
        numbers = range(self._plan.workers)
        first = [await self._begin(number) for number in numbers]
        self._places = [asyncio.create_task(self._keep(number)) for number in numbers]
        self._places.append(asyncio.create_task(self._sample()))
        try:
            async with asyncio.timeout(_START_SECONDS):
                ready = await asyncio.gather(*(child.ready for child in first))
        except TimeoutError as exc:
            raise TracebatonError(f"A worker was not up after {_START_SECONDS:g} s.") from exc
        if None in ready:
            raise TracebatonError("A worker ended before it was up; see workers.jsonl.")

    def kill_one(self, random_: random.Random) -> int:
        """Kill a worker that is up; return how many that were."""
        up = [child for child in self._children.values() if child.ready.done()]
        if not up:
            return 0
        random_.choice(up).kill()
        return 1

    async def stop(self) -> None:
        """Ask every worker to drain, and keep the codes they end with."""
        self._stopping = True
        children = list(self._children.values())
        await asyncio.gather(*(child.stop(_STOP_SECONDS) for child in children))
        self.codes = [await child.wait() for child in children]

    async def end(self) -> None:
        """Leave no process behind."""
        self._stopping = True
        for child in self._children.values():
            child.kill()
        for place in self._places:
            place.cancel()
        await asyncio.wait(self._places)

    async def _begin(self, number: int) -> Child:
        seed = self._plan.seed * 1000 + self.started
        self.started += 1
        child = await start(
            "chaos-worker",
            [*self._arguments, "--seed", str(seed)],
            environment=self._environment,
            out=self._out,
            ready="worker.ready",
        )
        self._children[number] = child
        return child

    async def _keep(self, number: int) -> None:
        child = self._children[number]
        while True:
            await child.wait()
            if self._stopping:
                return
            self.ended_at.append(time.time())
            if not child.ready.result():
                await asyncio.sleep(0.5)  # it cannot start: do not spin
            child = await self._begin(number)

    async def _sample(self) -> None:
        while True:
            for child in list(self._children.values()):
                if not child.ready.done():
                    continue  # it has not opened yet what it needs
                with suppress(OSError):
                    count = len(os.listdir(f"/proc/{child.process.pid}/fd"))
                    self.files.setdefault(child.process.pid, []).append(count)
            await asyncio.sleep(1.0)

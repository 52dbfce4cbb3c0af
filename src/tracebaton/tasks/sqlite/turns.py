"""
One thread that does what is asked of a database, as much at once as waits for it.

While the thread works, more is asked; its next turn takes all of that together, and the event loop
is woken once for all the answers. So under load neither side pays a change of threads a question.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["Job", "Outcome", "Turns"]

#: Jobs of one turn at most: other processes want the lock too.
_MOST: Final = 64

#: What a job returned, or what it raised.
Outcome = tuple[Any, BaseException | None]


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """
    One question or change.

    Attributes:
        work: What to do; it may be done again where a turn that it was part of failed.
        writes: Whether it changes anything.
        answer: Where its outcome goes.
    """

    work: Callable[[], Any]
    writes: bool
    answer: asyncio.Future[Any]


class Turns:
    """The thread called *name*, which gives each turn's jobs to *do* and their outcomes back."""

    def __init__(self, name: str, do: Callable[[Sequence[Job]], Sequence[Outcome]]) -> None:
        self._do = do
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._waiting: deque[Job] = deque()
        self._scheduled = False

    async def run(self, work: Callable[[], Any], *, writes: bool) -> Any:
        """Return what *work* returns on the thread, or raise what it raises."""
        job = Job(work, writes, asyncio.get_running_loop().create_future())
        with self._lock:
            self._waiting.append(job)
            due, self._scheduled = not self._scheduled, True
        if due:
            self._thread.submit(self._turn)
        return await job.answer

    async def close(self, last: Callable[[], None]) -> None:
        """Do *last* when all is done, and end the thread."""
        await asyncio.get_running_loop().run_in_executor(self._thread, last)
        self._thread.shutdown()

    def _turn(self) -> None:
        with self._lock:
            jobs = [self._waiting.popleft() for _ in range(min(_MOST, len(self._waiting)))]
        # Whoever was cancelled before his turn came wanted nothing to happen.
        jobs = [job for job in jobs if not job.answer.cancelled()]
        try:
            outcomes = self._do(jobs)
        except BaseException as exc:  # whatever it is, nobody may wait for ever
            outcomes = [(None, exc)] * len(jobs)
        with self._lock:
            self._scheduled = bool(self._waiting)
            if self._scheduled:
                self._thread.submit(self._turn)
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Job, Outcome]]] = {}
        for job, outcome in zip(jobs, outcomes, strict=True):
            by_loop.setdefault(job.answer.get_loop(), []).append((job, outcome))
        for loop, told in by_loop.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(_tell, told)


def _tell(told: Sequence[tuple[Job, Outcome]]) -> None:
    for job, (result, exc) in told:
        if job.answer.done():
            continue
        if exc is None:
            job.answer.set_result(result)
        else:
            job.answer.set_exception(exc)

"""
One thread that does what is asked of a database, as much at once as waits for it.

While the thread works, more is asked; its next turn takes all of that together, and the event loop
is woken once for all the answers. So under load neither side pays a change of threads a question.
"""

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

__all__ = ["Job", "Outcome", "Turns"]

#: Jobs of one turn at most: other processes want the lock too.
_MOST: Final = 64

#: What a job returned, or what it raised.
Outcome = tuple[Any, BaseException | None]


class Job:
    """
    One question or change.

    Attributes:
        work: What to do; it may be done again where a turn that it was part of failed.
        writes: Whether it changes anything.
        answer: Where its outcome goes.
        joins: What does it for many at once, and its item; None where that is nobody.
    """

    __slots__ = ("answer", "joins", "work", "writes")

    def __init__(
        self,
        work: Callable[[], Any],
        answer: "asyncio.Future[Any]",
        *,
        writes: bool,
        joins: tuple[Any, Any] | None = None,
    ) -> None:
        self.work: Callable[[], Any] = work
        self.answer: asyncio.Future[Any] = answer
        self.writes: bool = writes
        self.joins: tuple[Any, Any] | None = joins


class Turns:
    """
    The thread called *name*, which gives each turn's jobs to *do* and their outcomes back.

    A daemon, and no executor: to hand it a turn is a tenth of the work, and whoever leaves without
    `close()` loses nothing that was answered.
    """

    def __init__(self, name: str, do: Callable[[Sequence[Job]], Sequence[Outcome]]) -> None:
        self._name = name
        self._do = do
        self._lock = threading.Lock()
        self._waiting: deque[Job] = deque()
        self._scheduled = self._closed = False
        #: What the thread does next, None to end.
        self._next: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def run(
        self, work: Callable[[], Any], *, writes: bool, joins: tuple[Any, Any] | None = None
    ) -> Any:
        """Return what *work* returns on the thread, or raise what it raises; see `Job`."""
        job = Job(work, asyncio.get_running_loop().create_future(), writes=writes, joins=joins)
        with self._lock:
            self._refuse_closed()
            self._waiting.append(job)
            due, self._scheduled = not self._scheduled, True
        if due:  # with whatever else is asked for in this turn of the loop
            job.answer.get_loop().call_soon(self._hand, self._turn)
        return await job.answer

    async def close(self, last: Callable[[], None]) -> None:
        """Do *last* when all is done, and end the thread."""
        answer = asyncio.get_running_loop().create_future()
        job = Job(last, answer, writes=False)
        with self._lock:
            self._refuse_closed()
            self._closed = True
        self._hand(lambda: _deliver([job], [_outcome(last)]))
        self._next.put(None)
        await answer

    def _refuse_closed(self) -> None:
        if self._closed:
            raise RuntimeError("The store is closed.")

    def _hand(self, work: Callable[[], None]) -> None:
        self._next.put(work)
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
            self._thread.start()

    def _serve(self) -> None:
        while (work := self._next.get()) is not None:
            work()

    def _turn(self) -> None:
        more = True
        while more:
            with self._lock:
                jobs = [self._waiting.popleft() for _ in range(min(_MOST, len(self._waiting)))]
            # Whoever was cancelled before his turn came wanted nothing to happen.
            jobs = [job for job in jobs if not job.answer.cancelled()]
            try:
                outcomes = self._do(jobs)
            except BaseException as exc:  # whatever it is, nobody may wait for ever
                outcomes = [(None, exc)] * len(jobs)
            with self._lock:
                more = self._scheduled = bool(self._waiting)
            _deliver(jobs, outcomes)


def _outcome(work: Callable[[], Any]) -> Outcome:
    try:
        return work(), None
    except BaseException as exc:  # as above
        return None, exc


def _deliver(jobs: Sequence[Job], outcomes: Sequence[Outcome]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Job, Outcome]]] = {}
    for job, outcome in zip(jobs, outcomes, strict=True):
        by_loop.setdefault(job.answer.get_loop(), []).append((job, outcome))
    for loop, told in by_loop.items():
        with suppress(RuntimeError):  # it is closed: nobody waits any more
            loop.call_soon_threadsafe(_tell, told)


def _tell(told: Sequence[tuple[Job, Outcome]]) -> None:
    for job, (result, exc) in told:
        if job.answer.done():
            continue
        if exc is None:
            job.answer.set_result(result)
        else:
            job.answer.set_exception(exc)

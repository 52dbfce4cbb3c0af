"""
Daemon threads for ``def`` handlers and for calls that may hang, with the caller's context.

``concurrent.futures`` joins its threads when the interpreter exits, so one job that hangs would
hold up the exit past every drain deadline (workers.md 34). These threads die with the process.
"""

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["DaemonThreads"]

_Job = tuple[Callable[[], Any], contextvars.Context, "asyncio.Future[Any]"]


class DaemonThreads:
    """A pool of at most *size* daemon threads, started as they are needed."""

    def __init__(self, size: int, *, name: str = "tracebaton-handler") -> None:
        #: How many jobs may run at once.
        self.size = size
        self._size = size
        self._name = name
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []

    async def run(self, work: Callable[[], Any]) -> Any:
        """Run *work* in a thread that sees the request store and span of the caller."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._jobs.put((work, contextvars.copy_context(), future))
        if not self._idle.acquire(blocking=False) and len(self._threads) < self._size:
            name = f"{self._name}-{len(self._threads)}"
            thread = threading.Thread(target=self._serve, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()
        try:
            return await future
        except asyncio.CancelledError:
            self._size += 1  # its thread is busy with a discarded job: let another take its place
            raise

    def close(self) -> None:
        """Let idle threads end; a busy one ends after its job."""
        for _ in self._threads:
            self._jobs.put(None)

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            work, context, future = job
            loop = future.get_loop()
            try:
                outcome, failure = context.run(work), None
            except (
                BaseException
            ) as exc:  # the thread is an edge: whatever it is belongs to the task
                outcome, failure = None, exc
            self._idle.release()
            _deliver(loop, future, outcome, failure)
            del job, work, context, future, outcome, failure


def _deliver(
    loop: asyncio.AbstractEventLoop,
    future: "asyncio.Future[Any]",
    outcome: Any,
    failure: BaseException | None,
) -> None:
    def settle() -> None:
        if future.done():  # the task was cancelled meanwhile: its result is discarded
            return
        if failure is None:
            future.set_result(outcome)
        elif isinstance(failure, StopIteration):  # a future refuses it, and would never be done
            future.set_exception(RuntimeError("The handler raised StopIteration."))
        else:
            future.set_exception(failure)

    try:
        loop.call_soon_threadsafe(settle)
    except RuntimeError:
        return  # the loop is closed: the process is leaving and the lease runs out by itself

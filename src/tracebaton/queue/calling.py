"""
Calling a handler: under its deadline, with progress, until it is done or its task is cancelled.
"""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final

from pydantic import BaseModel

from tracebaton.errors import HandlerTimeout, TaskCancelled, TracebatonError
from tracebaton.queue.threads import DaemonThreads
from tracebaton.semconv import EVENT_TASK_STORE_FAILED
from tracebaton.tasks import TaskStatus, TaskStore, TaskType
from tracebaton.tasks.progress import reporting

__all__ = ["HandlerCalls"]

#: Seconds between two looks at the store, where it does not ask for more.
_LOOK: Final = 0.5

_log = logging.getLogger("tracebaton.worker")


class _Call:
    """One running handler, which can be stopped from outside."""

    __slots__ = ("cancelled", "limit")

    def __init__(self, deadline: float | None) -> None:
        self.limit = asyncio.timeout(deadline)
        self.cancelled = False

    def cancel(self) -> None:
        """Stop the handler as its deadline would, unless that has done so already."""
        if not self.limit.expired():
            self.cancelled = True
            self.limit.reschedule(asyncio.get_running_loop().time())


class HandlerCalls:
    """Calls the handlers of one worker."""

    def __init__(self, threads: DaemonThreads, store: TaskStore | None) -> None:
        self._threads = threads
        self._store = store
        self._running: dict[str, _Call] = {}

    @property
    def most(self) -> int:
        """Return how many handlers may run at once."""
        return self._threads.size

    async def call(
        self,
        kind: TaskType,
        data: BaseModel,
        *,
        task_id: str,
        attempt: int,
        gather: Callable[[BaseModel], Awaitable[Any]] | None = None,
    ) -> Any:
        """
        Run the handler of *kind* and return what it returns.

        Args:
            gather: Takes the data to a call for many messages, which has the deadline.

        Raises:
            HandlerTimeout: It ran longer than its deadline.
            TaskCancelled: Its task was cancelled meanwhile.
        """
        work = self._run(kind, data) if gather is None else gather(data)
        deadline = kind.deadline if gather is None else None
        reports = reporting(self._writer(task_id, attempt))
        stoppable = deadline is not None or self._store is not None
        call = _Call(deadline) if stoppable else None
        try:
            if call is None:
                async with reports:
                    return await work
            with self._stoppable(task_id, call):
                async with call.limit, reports:
                    return await work
        except BaseException as exc:
            _tell(exc, kind, call)
            raise

    async def together(self, kind: TaskType, batch: Sequence[BaseModel]) -> Any:
        """Run the batch handler of *kind* and return what it returns; as `call()`."""
        call = _Call(kind.deadline)
        try:
            async with call.limit:
                return await self._run(kind, batch)
        except BaseException as exc:
            _tell(exc, kind, call)
            raise

    async def _run(self, kind: TaskType, argument: Any) -> Any:
        if _is_async(kind.handler):
            return await kind.handler(argument)
        return await self._threads.run(lambda: kind.handler(argument))

    async def watch(self) -> None:
        """Stop handlers whose task is cancelled in the store, until this is cancelled itself."""
        if self._store is None:
            return
        while True:
            await asyncio.sleep(max(_LOOK, self._store.poll_seconds))
            if not self._running:
                continue
            try:
                glimpses = await self._store.glimpse(list(self._running))
            except TracebatonError as exc:  # the store is away: nobody can cancel anything
                fields = {"code": exc.code, "reason": str(exc.__cause__ or exc)}
                _log.warning(EVENT_TASK_STORE_FAILED, extra={"fields": fields})
                continue
            for task_id, glimpse in glimpses.items():
                call = self._running.get(task_id)
                if call is not None and glimpse.status is TaskStatus.CANCELLED:
                    call.cancel()

    @contextmanager
    def _stoppable(self, task_id: str, call: _Call) -> Iterator[None]:
        self._running[task_id] = call
        try:
            yield
        finally:
            if self._running.get(task_id) is call:
                del self._running[task_id]

    def _writer(self, task_id: str, attempt: int) -> Any:
        async def write(percent: int, message: str | None) -> None:
            if self._store is not None:
                await self._store.progress(
                    task_id, attempt=attempt, percent=percent, message=message
                )

        return write


#: Asked of each message, and the answer takes several looks at the function.
_is_async = lru_cache(maxsize=256)(inspect.iscoroutinefunction)


def _tell(exc: BaseException, kind: TaskType, call: _Call | None) -> None:
    """
    Tell a handler that was stopped from one that failed by *exc*.

    Args:
        call: What may have stopped it, None where nothing could.

    Raises:
        HandlerTimeout, TaskCancelled: It was stopped.
        RuntimeError: It ended in a way that would end the worker.
    """
    if isinstance(exc, asyncio.CancelledError):
        task = asyncio.current_task()
        if task is not None and not task.cancelling():  # else the lease is gone or the worker stops
            raise RuntimeError(f"The handler of {kind.name!r} cancelled itself.") from exc
    elif isinstance(exc, TimeoutError):
        if call is None or not call.limit.expired():  # the handler's own
            return
        if call.cancelled:
            raise TaskCancelled from exc
        raise HandlerTimeout(
            f"The handler of {kind.name!r} ran longer than its deadline of {kind.deadline} s."
        ) from exc
    elif not isinstance(exc, Exception | GeneratorExit | KeyboardInterrupt):  # Ctrl-C is for us
        # A library's sys.exit() would end the worker with all it holds.
        said = f"The handler of {kind.name!r} raised {type(exc).__qualname__}."
        raise RuntimeError(said) from exc

"""
What every process does beside its work, so that no task stays where it cannot go on by itself.

The outbox is swept, running tasks whose worker is gone wait again, tasks whose message is lost end,
and what ended long ago is removed. Any number of processes may do it over one store.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from tracebaton import context, problems
from tracebaton.context import RequestStore
from tracebaton.errors import MessageLost, TracebatonError
from tracebaton.problems import NO_REPORTER, Reporter
from tracebaton.queue.resender import Resender
from tracebaton.semconv import EVENT_TASK_DEAD, EVENT_TASK_REAPED, EVENT_UPKEEP_FAILED
from tracebaton.tasks import Task, TaskStore

__all__ = ["Upkeep"]

#: Seconds between two rounds of each chore.
_SWEEP, _REAP, _PURGE, _ABANDON = 5.0, 15.0, 600.0, 3_600.0
#: Seconds beyond the end of a lease after which its worker is taken for gone: clocks differ.
_MARGIN: Final = 30.0
#: Seconds after which no message comes any more: SQS keeps one for 14 days at most.
_LOST: Final = 15 * 86_400.0
#: Rows removed at once by a store; as many again may be waiting.
_MANY: Final = 100

_log = logging.getLogger("tracebaton.upkeep")


class Upkeep:
    """The chores of one process."""

    def __init__(
        self,
        store: TaskStore,
        resender: Resender,
        *,
        retention_seconds: float,
        reporter: Reporter = NO_REPORTER,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._resender = resender
        self._retention = retention_seconds
        self._reporter = reporter
        self._now = now

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Do the chores for the length of a block."""
        chores: Mapping[Callable[[], Awaitable[Any]], float] = {
            self._resender.sweep: _SWEEP,
            self.reap: _REAP,
            self.purge: _PURGE,
            self.abandon: _ABANDON,
        }
        tasks = [
            asyncio.create_task(_every(seconds, chore), name=f"tracebaton-{chore.__name__}")
            for chore, seconds in chores.items()
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def reap(self) -> None:
        """Let tasks wait again whose worker is gone; their message comes again by itself."""
        for task in await self._store.reap(lease_before=self._now() - _MARGIN):
            with context.entered(_store_of(task)):
                _log.warning(EVENT_TASK_REAPED, extra={"fields": {"task_type": task.type}})

    async def purge(self) -> None:
        """Remove what ended longer ago than it is kept."""
        ended_before = self._now() - self._retention
        left = _MANY
        while left >= _MANY:
            left = await self._store.purge(ended_before=ended_before)

    async def abandon(self) -> None:
        """End tasks as ``dead`` whose message cannot be anywhere any more."""
        exc = MessageLost()
        outcome = problems.outcome_of(exc)
        error = problems.problem(outcome, instance=None, correlation_id=None, trace_id=None)
        since = self._now() - _LOST
        for task in await self._store.abandon(untouched_since=since, error=error):
            tags = {"task_type": task.type, "task_id": task.id}
            with self._reporter.isolated(), context.entered(_store_of(task)):
                event_id = self._reporter.report(
                    MessageLost(), outcome, mechanism="upkeep", tags=tags
                )
                fields = {
                    "task_type": task.type,
                    "code": outcome.code,
                    "error_type": outcome.error_type,
                    "detail": outcome.detail,
                    "sentry_event_id": event_id,
                }
                _log.error(EVENT_TASK_DEAD, extra={"fields": fields})


async def _every(seconds: float, chore: Callable[[], Awaitable[Any]]) -> None:
    """Do *chore* again and again; processes that start together do it at different times."""
    while True:
        try:
            await chore()
        except TracebatonError as exc:  # store or queue is away: the next round comes
            fields = {"chore": chore.__name__, "reason": str(exc.__cause__ or exc)}
            _log.warning(EVENT_UPKEEP_FAILED, extra={"fields": fields})
        except Exception:  # our own mistake costs a round, and not the process
            fields = {"chore": chore.__name__}
            _log.error(EVENT_UPKEEP_FAILED, extra={"fields": fields}, exc_info=True)
        await asyncio.sleep(seconds * random.uniform(0.8, 1.2))


def _store_of(task: Task) -> RequestStore:
    return RequestStore(
        correlation_id=task.correlation_id,
        user_id=task.user_id,
        task_id=task.id,
        attempt=task.attempt or None,
    )

"""
The records of running tasks, which live as long as their messages' leases (SPEC 4).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from tracebaton.errors import TracebatonError
from tracebaton.queue.lease import Lease
from tracebaton.tasks import TaskStore

__all__ = ["LeaseRecords"]

_log = logging.getLogger("tracebaton.worker")


class LeaseRecords:
    """Writes to the task store how long each lease holds now."""

    def __init__(self, store: TaskStore | None, *, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._now = now
        self._writes: set[asyncio.Task[None]] = set()

    def renew(self, leases: Sequence[Lease]) -> None:
        """Write that *leases* were extended; a slow store must not hold the heartbeat up."""
        if self._store is None:
            return
        owners = {lease.task_id: lease.message.message_id for lease in leases if lease.task_id}
        until = self._now() + min(lease.deadline for lease in leases) - time.monotonic()
        task = asyncio.create_task(self._write(self._store, owners, until))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def give_back(self, leases: Sequence[Lease]) -> None:
        """Write that nobody runs the tasks of *leases*; whoever has started one since, keeps it."""
        if self._store is None:
            return
        for lease in leases:
            if lease.task_id is None:
                continue
            try:
                attempt = lease.message.receive_count
                await self._store.retry(lease.task_id, attempt=attempt, failure=None)
            except TracebatonError as exc:
                _failed(exc)

    def close(self) -> None:
        """Leave off; what is not written runs out by itself."""
        for task in self._writes:
            task.cancel()

    async def _write(self, store: TaskStore, owners: Mapping[str, str], until: float) -> None:
        try:
            await store.renew(owners, lease_until=until)
        except TracebatonError as exc:
            _failed(exc)


def _failed(exc: TracebatonError) -> None:
    fields = {"code": exc.code, "reason": str(exc.__cause__ or exc)}
    _log.warning("task_store.failed", extra={"fields": fields})

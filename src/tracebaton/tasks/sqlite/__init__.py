"""
The task store in one SQLite file: one machine, local disk, any number of processes.
"""

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tracebaton.tasks.claiming import Claim, Claimed
from tracebaton.tasks.lists import Page, TaskQuery
from tracebaton.tasks.results import encoded_result
from tracebaton.tasks.sqlite import claims, outbox, reading, transitions
from tracebaton.tasks.sqlite.database import Database
from tracebaton.tasks.store import Change, Glimpse, TaskStore, Unsent
from tracebaton.tasks.task import Task, TaskStatus

__all__ = ["SqliteTaskStore"]


class SqliteTaskStore(TaskStore):
    """The store in the SQLite file at *path*; its folder is made where it is missing."""

    #: A glimpse at 2,000 tasks takes some 3 ms.
    poll_seconds: float = 0.2

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time) -> None:
        self._path = path
        self._database = Database(path)
        self._now = now

    @property
    def exists(self) -> bool:
        """Tell whether the file is there; the first call makes it."""
        return self._path.exists()

    async def create(
        self,
        task: Task,
        *,
        message: str | None = None,
        claim: Claim | None = None,
        exist_ok: bool = False,
    ) -> None:
        if claim is None and not exist_ok:
            return await self._database.add(outbox.create_all, (task, message, self._now()))
        return await self._database.write(
            outbox.create,
            task,
            message=message,
            claim=claim,
            exist_ok=exist_ok,
            now=self._now(),
        )

    async def sent(self, task_ids: Collection[str]) -> None:
        await self._database.write(outbox.sent, task_ids)

    async def forget(self, task_id: str) -> bool:
        return await self._database.write(outbox.forget, task_id, now=self._now())

    async def unsent(self, *, older_than: float, limit: int = 100) -> Sequence[Unsent]:
        return await self._database.write(
            outbox.unsent, older_than=older_than, limit=limit, now=self._now()
        )

    async def get(self, task_id: str) -> Task | None:
        return await self._database.read(reading.get, task_id)

    async def list(self, query: TaskQuery) -> Page:
        return await self._database.read(reading.page, query)

    async def glimpse(self, task_ids: Collection[str]) -> Mapping[str, Glimpse]:
        return await self._database.read(reading.glimpse, task_ids)

    async def history(self, task_id: str, *, after: int = 0, limit: int = 100) -> Sequence[Change]:
        return await self._database.read(reading.history, task_id, after=after, limit=limit)

    async def start(
        self,
        task_id: str,
        *,
        attempt: int,
        owner: str | None = None,
        lease_until: float | None = None,
        traceparent: str | None = None,
        sent_at: float | None = None,
    ) -> Task | None:
        return await self._database.write(
            transitions.start,
            task_id,
            attempt=attempt,
            owner=owner,
            lease_until=lease_until,
            traceparent=traceparent,
            sent_at=sent_at,
            now=self._now(),
        )

    async def reopen(self, task_id: str) -> bool:
        return await self._database.write(transitions.reopen, task_id, now=self._now())

    async def renew(self, owners: Mapping[str, str], *, lease_until: float) -> None:
        await self._database.write(transitions.renew, owners, lease_until=lease_until)

    async def progress(
        self, task_id: str, *, attempt: int, percent: int, message: str | None = None
    ) -> None:
        await self._database.write(
            transitions.progress,
            task_id,
            attempt=attempt,
            percent=percent,
            message=message,
            now=self._now(),
        )

    async def retry(self, task_id: str, *, attempt: int, failure: Mapping[str, Any] | None) -> bool:
        return await self._database.write(
            transitions.retry, task_id, attempt=attempt, failure=failure, now=self._now()
        )

    async def finish(
        self,
        task_id: str,
        status: TaskStatus,
        *,
        attempt: int,
        result: Any = None,
        error: Mapping[str, Any] | None = None,
    ) -> bool:
        return await self._database.write(
            transitions.finish,
            task_id,
            status,
            attempt=attempt,
            result=encoded_result(task_id, result),
            error=None if error is None else json.dumps(error),
            now=self._now(),
        )

    async def cancel(self, task_id: str) -> bool:
        return await self._database.write(transitions.cancel, task_id, now=self._now())

    async def reap(self, *, lease_before: float) -> Sequence[Task]:
        return await self._database.write(
            transitions.reap, lease_before=lease_before, now=self._now()
        )

    async def abandon(self, *, untouched_since: float, error: Mapping[str, Any]) -> Sequence[Task]:
        return await self._database.write(
            transitions.abandon,
            untouched_since=untouched_since,
            error=json.dumps(error),
            now=self._now(),
        )

    async def purge(self, *, ended_before: float) -> int:
        return await self._database.write(outbox.purge, ended_before=ended_before, now=self._now())

    async def claim(
        self, claim: Claim, *, fingerprint: str, lease_until: float, expires_at: float
    ) -> Claimed:
        return await self._database.write(
            claims.claim,
            claim,
            fingerprint=fingerprint,
            lease_until=lease_until,
            expires_at=expires_at,
            now=self._now(),
        )

    async def renew_claim(self, claim: Claim, *, lease_until: float) -> None:
        await self._database.write(claims.renew, claim, lease_until=lease_until)

    async def settle_claim(self, claim: Claim, *, response: str) -> None:
        await self._database.write(claims.settle, claim, response=response)

    async def release_claim(self, claim: Claim) -> None:
        await self._database.write(claims.release, claim)

    async def check(self) -> None:
        await self._database.read(reading.get, "")

    async def close(self) -> None:
        await self._database.close()

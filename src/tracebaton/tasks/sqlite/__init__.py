"""
The task store in one SQLite file: one machine, local disk, any number of processes.
"""

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tracebaton.errors import ResultTooLarge
from tracebaton.tasks.sqlite import claims, outbox, reading, transitions
from tracebaton.tasks.sqlite.database import Database
from tracebaton.tasks.store import (
    RESULT_LIMIT,
    Change,
    Claim,
    Claimed,
    Glimpse,
    Page,
    TaskQuery,
    Unsent,
)
from tracebaton.tasks.task import Task, TaskStatus

__all__ = ["SqliteTaskStore"]


class SqliteTaskStore:
    """A `TaskStore` in the SQLite file at *path*; its folder is made where it is missing."""

    #: A glimpse at 2,000 tasks takes some 3 ms.
    poll_seconds = 0.2

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time) -> None:
        self._database = Database(path)
        self._now = now

    async def create(
        self,
        task: Task,
        *,
        message: str | None = None,
        claim: Claim | None = None,
        exist_ok: bool = False,
    ) -> None:
        """Save a new task, with its message, in one transaction."""
        await self._database.write(
            outbox.create,
            task,
            message=message,
            claim=claim,
            exist_ok=exist_ok,
            now=self._now(),
        )

    async def sent(self, task_ids: Collection[str]) -> None:
        """Forget the messages of these tasks: the queue has them."""
        await self._database.write(outbox.sent, task_ids)

    async def forget(self, task_id: str) -> bool:
        """Take back a queued task whose send failed."""
        return await self._database.write(outbox.forget, task_id, now=self._now())

    async def unsent(self, *, older_than: float, limit: int = 100) -> Sequence[Unsent]:
        """Return messages that were not touched for *older_than* seconds, and touch them."""
        return await self._database.write(
            outbox.unsent, older_than=older_than, limit=limit, now=self._now()
        )

    async def get(self, task_id: str) -> Task | None:
        """Return the task, None if there is none."""
        return await self._database.read(reading.get, task_id)

    async def list(self, query: TaskQuery) -> Page:
        """Return a page of tasks, newest first."""
        return await self._database.read(reading.page, query)

    async def glimpse(self, task_ids: Collection[str]) -> Mapping[str, Glimpse]:
        """Return what of these tasks tells whether there is news."""
        return await self._database.read(reading.glimpse, task_ids)

    async def history(self, task_id: str, *, after: int = 0, limit: int = 100) -> Sequence[Change]:
        """Return the changes after number *after*, in order."""
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
        """Enter ``running``; an ended task, or one that another owner runs, stays unchanged."""
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
        """Let a ``failed`` or ``dead`` task wait for its message again; False for any other."""
        return await self._database.write(transitions.reopen, task_id, now=self._now())

    async def renew(self, owners: Mapping[str, str], *, lease_until: float) -> None:
        """Let the leases of running tasks, each with its owner, end at *lease_until*."""
        await self._database.write(transitions.renew, owners, lease_until=lease_until)

    async def progress(
        self, task_id: str, *, attempt: int, percent: int, message: str | None = None
    ) -> None:
        """Raise the progress of the running *attempt*; a lower value is ignored."""
        await self._database.write(
            transitions.progress,
            task_id,
            attempt=attempt,
            percent=percent,
            message=message,
            now=self._now(),
        )

    async def retry(self, task_id: str, *, attempt: int, failure: Mapping[str, Any] | None) -> bool:
        """Go back to ``queued`` after *attempt* failed; False if it is no longer ours."""
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
        """End the task, once; False if it had ended or a newer attempt runs it."""
        encoded = None if result is None else json.dumps(result, allow_nan=False)
        if encoded is not None and len(encoded) > RESULT_LIMIT:
            raise ResultTooLarge(
                f"The result of task {task_id} has {len(encoded)} bytes, the limit is"
                f" {RESULT_LIMIT}. Return a reference instead."
            )
        return await self._database.write(
            transitions.finish,
            task_id,
            status,
            attempt=attempt,
            result=encoded,
            error=None if error is None else json.dumps(error),
            now=self._now(),
        )

    async def cancel(self, task_id: str) -> bool:
        """End a queued or running task as ``cancelled``; False if there is none to cancel."""
        return await self._database.write(transitions.cancel, task_id, now=self._now())

    async def reap(self, *, lease_before: float) -> Sequence[Task]:
        """Let running tasks whose lease ended before that moment wait again, and return them."""
        return await self._database.write(
            transitions.reap, lease_before=lease_before, now=self._now()
        )

    async def abandon(self, *, untouched_since: float, error: Mapping[str, Any]) -> Sequence[Task]:
        """End queued tasks that nothing happened to since then as ``dead``, and return them."""
        return await self._database.write(
            transitions.abandon,
            untouched_since=untouched_since,
            error=json.dumps(error),
            now=self._now(),
        )

    async def purge(self, *, ended_before: float) -> int:
        """Remove what ended before that moment, and expired idempotency keys; return how many."""
        return await self._database.write(outbox.purge, ended_before=ended_before, now=self._now())

    async def claim(
        self, claim: Claim, *, fingerprint: str, lease_until: float, expires_at: float
    ) -> Claimed:
        """Try to take an idempotency key for one request."""
        return await self._database.write(
            claims.claim,
            claim,
            fingerprint=fingerprint,
            lease_until=lease_until,
            expires_at=expires_at,
            now=self._now(),
        )

    async def renew_claim(self, claim: Claim, *, lease_until: float) -> None:
        """Say that the request is still being handled."""
        await self._database.write(claims.renew, claim, lease_until=lease_until)

    async def settle_claim(self, claim: Claim, *, response: str) -> None:
        """Keep the answer for those who ask again."""
        await self._database.write(claims.settle, claim, response=response)

    async def release_claim(self, claim: Claim) -> None:
        """Let go of a claim without an answer."""
        await self._database.write(claims.release, claim)

    async def check(self) -> None:
        """Raise ``StoreUnavailable`` unless a read works."""
        await self._database.read(reading.get, "")

    async def close(self) -> None:
        """Close the connection and end the thread."""
        await self._database.close()

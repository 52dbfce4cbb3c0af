"""
The task store in one DynamoDB table: any number of machines.

Every change reads the task, decides, and writes on condition that nobody else has written since, in
one transaction with what the history gets. `get()` and all decisions are strongly consistent; lists
are a moment behind, as DynamoDB's global indexes are.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Final

from tracebaton.tasks.claiming import Claim, Claimed
from tracebaton.tasks.dynamodb import claims, outbox, reading, transitions
from tracebaton.tasks.dynamodb.items import Stored, number, task_key, text
from tracebaton.tasks.dynamodb.table import DynamoAccess, Table
from tracebaton.tasks.dynamodb.transitions import Step
from tracebaton.tasks.dynamodb.writing import change, read
from tracebaton.tasks.lists import Page, TaskQuery
from tracebaton.tasks.results import encoded_result
from tracebaton.tasks.store import Change, Glimpse, TaskStore, Unsent
from tracebaton.tasks.task import Task, TaskStatus

__all__ = ["DynamoAccess", "DynamoTaskStore"]

#: Tasks that one call of the reaper changes at most.
_BATCH: Final = 500


class DynamoTaskStore(TaskStore):
    """The store in the DynamoDB table called *table*."""

    #: Each glimpse is paid for: half a read unit a task.
    poll_seconds: float = 1.0

    def __init__(
        self,
        table: str,
        *,
        access: DynamoAccess | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._table = Table(table, access or DynamoAccess())
        self._now = now

    async def create(
        self,
        task: Task,
        *,
        message: str | None = None,
        claim: Claim | None = None,
        exist_ok: bool = False,
    ) -> None:
        await outbox.create(
            self._table, task, message=message, claim=claim, exist_ok=exist_ok, now=self._now()
        )

    async def sent(self, task_ids: Collection[str]) -> None:
        await outbox.sent(self._table, task_ids)

    async def forget(self, task_id: str) -> bool:
        return await outbox.forget(self._table, task_id, now=self._now())

    async def unsent(self, *, older_than: float, limit: int = 100) -> Sequence[Unsent]:
        return await outbox.unsent(self._table, older_than=older_than, limit=limit, now=self._now())

    async def get(self, task_id: str) -> Task | None:
        return await reading.get(self._table, task_id)

    async def list(self, query: TaskQuery) -> Page:
        return await reading.page(self._table, query)

    async def glimpse(self, task_ids: Collection[str]) -> Mapping[str, Glimpse]:
        return await reading.glimpse(self._table, task_ids)

    async def history(self, task_id: str, *, after: int = 0, limit: int = 100) -> Sequence[Change]:
        return await reading.history(self._table, task_id, after=after, limit=limit)

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
        started = await self._change(
            task_id,
            transitions.start,
            attempt=attempt,
            owner=owner,
            lease_until=lease_until,
            traceparent=traceparent,
            sent_at=sent_at,
        )
        if started is not None:
            return started
        stored = await read(self._table, task_id)
        return None if stored is None else stored.task

    async def reopen(self, task_id: str) -> bool:
        return await self._change(task_id, transitions.reopen) is not None

    async def renew(self, owners: Mapping[str, str], *, lease_until: float) -> None:
        await asyncio.gather(
            *(self._renew(task_id, owner, lease_until) for task_id, owner in owners.items())
        )

    async def progress(
        self, task_id: str, *, attempt: int, percent: int, message: str | None = None
    ) -> None:
        await self._change(
            task_id, transitions.progress, attempt=attempt, percent=percent, message=message
        )

    async def retry(self, task_id: str, *, attempt: int, failure: Mapping[str, Any] | None) -> bool:
        back = await self._change(task_id, transitions.retry, attempt=attempt, failure=failure)
        return back is not None

    async def finish(
        self,
        task_id: str,
        status: TaskStatus,
        *,
        attempt: int,
        result: Any = None,
        error: Mapping[str, Any] | None = None,
    ) -> bool:
        encoded_result(task_id, result)  # refuses what is too large
        ended = await self._change(
            task_id,
            transitions.finish,
            status=status,
            attempt=attempt,
            result=result,
            error=error,
        )
        return ended is not None

    async def cancel(self, task_id: str) -> bool:
        return await self._change(task_id, transitions.cancel) is not None

    async def reap(self, *, lease_before: float) -> Sequence[Task]:
        return await self._sweep(
            await reading.due_before(self._table, "running", lease_before, limit=_BATCH),
            transitions.reap,
            lease_before=lease_before,
        )

    async def abandon(self, *, untouched_since: float, error: Mapping[str, Any]) -> Sequence[Task]:
        return await self._sweep(
            await reading.due_before(self._table, "queued", untouched_since, limit=_BATCH),
            transitions.abandon,
            untouched_since=untouched_since,
            error=error,
        )

    async def purge(self, *, ended_before: float) -> int:
        return await outbox.purge(self._table, ended_before=ended_before, now=self._now())

    async def claim(
        self, claim: Claim, *, fingerprint: str, lease_until: float, expires_at: float
    ) -> Claimed:
        return await claims.claim(
            self._table,
            claim,
            fingerprint=fingerprint,
            lease_until=lease_until,
            expires_at=expires_at,
            now=self._now(),
        )

    async def renew_claim(self, claim: Claim, *, lease_until: float) -> None:
        await claims.renew(self._table, claim, lease_until=lease_until)

    async def settle_claim(self, claim: Claim, *, response: str) -> None:
        await claims.settle(self._table, claim, response=response)

    async def release_claim(self, claim: Claim) -> None:
        await claims.release(self._table, claim)

    async def check(self) -> None:
        await self._table.check()

    async def close(self) -> None:
        await self._table.close()

    async def _change(
        self, task_id: str, transition: Callable[..., Step | None], **options: Any
    ) -> Task | None:
        decide = partial(transition, now=self._now(), **options)
        stored = await change(self._table, task_id, decide)
        return None if stored is None else stored.task

    async def _sweep(
        self,
        due: Sequence[Mapping[str, Any]],
        transition: Callable[..., Step | None],
        **options: Any,
    ) -> Sequence[Task]:
        items = await self._table.get_many([{"pk": one["pk"], "sk": one["sk"]} for one in due])
        ids = [Stored.of(item).task.id for item in items]
        swept = await asyncio.gather(*(self._change(one, transition, **options) for one in ids))
        return [task for task in swept if task is not None]

    async def _renew(self, task_id: str, owner: str, lease_until: float) -> None:
        await self._table.update(
            task_key(task_id),
            # The version too: a change that was decided before must not bring the old lease back.
            UpdateExpression="SET lease_until = :until, due = :until ADD version :one",
            ConditionExpression="#owner = :owner AND #status = :running AND"
            " attribute_exists(due_pk)",
            ExpressionAttributeNames={"#owner": "owner", "#status": "status"},
            ExpressionAttributeValues={
                ":until": number(lease_until),
                ":owner": text(owner),
                ":running": text(TaskStatus.RUNNING.value),
                ":one": number(1),
            },
        )

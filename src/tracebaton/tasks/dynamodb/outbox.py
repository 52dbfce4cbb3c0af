"""
Tasks from their creation until their message is known to be sent, and what is left of them at last.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, Final

from tracebaton.errors import Conflict, StoreUnavailable
from tracebaton.tasks.claiming import Claim
from tracebaton.tasks.dynamodb import claims, transitions
from tracebaton.tasks.dynamodb.items import (
    Item,
    Stored,
    change_items,
    message_items,
    number,
    task_item,
    task_key,
    text,
)
from tracebaton.tasks.dynamodb.reading import due_before
from tracebaton.tasks.dynamodb.table import Cancelled, Table
from tracebaton.tasks.dynamodb.writing import TRIES, change, paused
from tracebaton.tasks.store import Unsent
from tracebaton.tasks.task import Task, TaskStatus

__all__ = ["create", "forget", "purge", "sent", "unsent"]

#: Tasks that one call removes at most.
_BATCH: Final = 500
#: Looks for messages of one call, where others touch them at the same time.
_ROUNDS: Final = 4
_NEW: Final = "attribute_not_exists(pk)"
#: Why DynamoDB cancels a transaction whose condition does not hold.
_FAILED: Final = "ConditionalCheckFailed"


async def create(
    table: Table,
    task: Task,
    *,
    message: str | None,
    claim: Claim | None,
    exist_ok: bool,
    now: float,
) -> None:
    """Save *task*, its message, and whose idempotency key led to it."""
    first = Stored(_counted(task), 1, False, claims.key_of(claim))
    actions: list[tuple[str, dict[str, Any]]] = [
        ("Put", {"Item": task_item(first), "ConditionExpression": _NEW})
    ]
    actions += [("Put", {"Item": item}) for item in change_items(first.task, ("status",))]
    if message is not None:
        pieces = message_items(task.id, message, touched=now)
        actions += [("Put", {"Item": item}) for item in pieces]
    if claim is not None:
        actions.append(("Update", claims.binding(claim, task.id)))
    for tried in range(TRIES):
        try:
            await table.transact(actions)
            return
        except Cancelled as exc:
            there = exc.reasons[0] == _FAILED
            if there and exist_ok:
                return
            if there:
                raise StoreUnavailable(f"Task {task.id} exists already.") from exc
            if claim is not None and exc.reasons[-1] == _FAILED:
                raise Conflict(
                    "Another request with this Idempotency-Key took over. Ask again."
                ) from exc
        await paused(tried)
    raise StoreUnavailable("The task store is busy. Try again in a moment.")


def _counted(task: Task) -> Task:
    """Return *task* as it is saved: new, whatever else the caller had filled in."""
    return Task(
        id=task.id,
        type=task.type,
        status=task.status,
        user_id=task.user_id,
        correlation_id=task.correlation_id,
        trace_id=task.trace_id,
        parent_task_id=task.parent_task_id,
        created_at=task.created_at,
        updated_at=task.updated_at,
        changes=1,
    )


async def sent(table: Table, task_ids: Collection[str]) -> None:
    """Forget the messages of these tasks."""
    await asyncio.gather(*(_drop(table, task_key(task_id)["pk"]) for task_id in task_ids))


async def _drop(table: Table, pk: Mapping[str, Any]) -> None:
    """Remove a message, the first piece first: without it nobody finds the others."""
    first = await table.delete(_piece(pk, 0), ReturnValues="ALL_OLD") or {}
    pieces = int(first.get("Attributes", {}).get("pieces", {"N": "0"})["N"])
    await table.delete_many([_piece(pk, index) for index in range(1, pieces)])


async def forget(table: Table, task_id: str, *, now: float) -> bool:
    """Hide a task that never ran; its item answers a message that comes all the same."""
    hidden = await change(table, task_id, partial(transitions.forget, now=now), forget=True)
    if hidden is None:
        return False
    await _drop(table, task_key(task_id)["pk"])
    if hidden.claim is not None:
        await claims.unbind(table, hidden.claim, task_id)
    return True


async def unsent(table: Table, *, older_than: float, limit: int, now: float) -> Sequence[Unsent]:
    """Touch and return the messages that wait longest; drop those that are not needed any more."""
    found: list[Unsent] = []
    for _ in range(_ROUNDS):
        left = limit - len(found)
        waiting = await due_before(table, "outbox", now - older_than, limit=left, inclusive=True)
        touched = await asyncio.gather(
            *(_touched(table, entry, before=now - older_than, now=now) for entry in waiting)
        )
        found += filter(None, touched)
        if not waiting or len(found) >= limit:
            break  # where others were faster, there may be more for us
    return sorted(found, key=lambda one: (one.task.created_at, one.task.id))


async def _touched(
    table: Table, entry: Mapping[str, Any], *, before: float, now: float
) -> Unsent | None:
    first = await table.get({"pk": entry["pk"], "sk": entry["sk"]})
    task = await table.get({"pk": entry["pk"], "sk": text("task")})
    if first is None or float(first["due"]["N"]) > before:  # the index is a moment behind
        return None
    stored = None if task is None else Stored.of(task)
    if stored is None or stored.task.status is not TaskStatus.QUEUED or stored.task.attempt:
        await _drop(table, entry["pk"])
        return None
    ours = await table.update(
        {"pk": entry["pk"], "sk": entry["sk"]},
        UpdateExpression="SET due = :now",
        ConditionExpression="due = :seen",
        ExpressionAttributeValues={":now": number(now), ":seen": first["due"]},
    )
    if ours is None:  # somebody else touched it, or it was sent
        return None
    rest = await table.get_many(
        [_piece(entry["pk"], index) for index in range(1, int(first["pieces"]["N"]))]
    )
    pieces = sorted([first, *rest], key=lambda item: item["sk"]["S"])
    return Unsent(stored.task, b"".join(item["piece"]["B"] for item in pieces).decode())


async def purge(table: Table, *, ended_before: float, now: float) -> int:
    """Remove what ended before, all that belongs to it, and keys that have expired."""
    ended = await due_before(table, "ended", ended_before, limit=_BATCH)
    removed = await asyncio.gather(*(_remove(table, entry, ended_before) for entry in ended))
    expired = await due_before(table, "claim", now, limit=_BATCH, inclusive=True)
    gone = await asyncio.gather(*(claims.expire(table, entry, now) for entry in expired))
    return sum(removed) + sum(gone)


async def _remove(table: Table, entry: Mapping[str, Any], ended_before: float) -> bool:
    """Remove one task with its history; the task last, so that a crash leaves nothing behind."""
    stored = await table.get({"pk": entry["pk"], "sk": text("task")})
    ended_at = None if stored is None else Stored.of(stored).task.ended_at
    if ended_at is None or ended_at >= ended_before:  # it was opened again
        return False
    parts = await table.query(
        KeyConditionExpression="pk = :pk",
        ExpressionAttributeValues={":pk": entry["pk"]},
        ProjectionExpression="pk, sk",
    )
    keys: list[Item] = [{"pk": one["pk"], "sk": one["sk"]} for one in parts]
    last = {"pk": entry["pk"], "sk": text("task")}
    await table.delete_many([key for key in keys if key["sk"] != last["sk"]])
    return await table.delete(last) is not None


def _piece(pk: Mapping[str, Any], index: int) -> Item:
    return {"pk": dict(pk), "sk": text(f"message#{index}")}

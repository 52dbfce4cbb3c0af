"""
What is read without being changed: a task, pages of tasks, what is new, the history.
"""

import asyncio
import heapq
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from tracebaton.tasks.dynamodb.items import (
    SHARDS,
    Due,
    Stored,
    created_key,
    due_key,
    number,
    task_key,
    text,
    user_key,
)
from tracebaton.tasks.dynamodb.table import Table
from tracebaton.tasks.dynamodb.writing import read
from tracebaton.tasks.history import change_of
from tracebaton.tasks.lists import Page, TaskQuery, decode_cursor, encode_cursor
from tracebaton.tasks.store import Change, Glimpse
from tracebaton.tasks.task import Task

__all__ = ["due_before", "get", "glimpse", "history", "page"]

#: Bytes of results from which on a page ends although there is room for more tasks.
_PAGE_BYTES: Final = 4 * 1024 * 1024
_NAMES: Final = {"#status": "status", "#type": "type"}


async def get(table: Table, task_id: str) -> Task | None:
    """Return a task, None if there is none or it was taken back."""
    stored = await read(table, task_id)
    return None if stored is None or stored.forgotten else stored.task


async def page(table: Table, query: TaskQuery) -> Page:
    """Return a page of tasks, newest first, as the index has them: a moment behind the writes."""
    before = None if query.cursor is None else created_key(*decode_cursor(query.cursor))
    partitions = (
        [f"tasks#{shard}" for shard in range(SHARDS)]
        if query.user_id is None
        else [user_key(query.user_id)]
    )
    found = await asyncio.gather(*(_newest(table, query, one, before) for one in partitions))
    merged = heapq.merge(*found, key=lambda item: item["created"]["S"], reverse=True)
    keys = [{"pk": item["pk"], "sk": item["sk"]} for item in islice(merged, query.limit + 1)]
    stored = {
        item["pk"]["S"]: item for item in await table.get_many(keys) if "forgotten" not in item
    }
    return _page([stored[key["pk"]["S"]] for key in keys if key["pk"]["S"] in stored], query.limit)


def _page(items: Sequence[Mapping[str, Any]], limit: int) -> Page:
    tasks: list[Task] = []
    size = 0
    for item in items:
        if len(tasks) == limit or size > _PAGE_BYTES:
            return Page(tasks, encode_cursor(tasks[-1].created_at, tasks[-1].id))
        tasks.append(Stored.of(item).task)
        size += len(item["document"]["S"])
    return Page(tasks)


async def _newest(
    table: Table, query: TaskQuery, partition: str, before: str | None
) -> list[Mapping[str, Any]]:
    """Return the newest entries of one partition of an index, enough for a page."""
    listed = "created_pk" if query.user_id is None else "user_pk"
    condition, values = f"{listed} = :partition", {":partition": text(partition)}
    if before is not None:
        condition += " AND created < :before"
        values[":before"] = text(before)
    filters = []
    for name, value in (("status", query.status), ("type", query.type)):
        if value is not None:
            filters.append(f"#{name} = :{name}")
            values[f":{name}"] = text(value)
    options: dict[str, Any] = {
        "KeyConditionExpression": condition,
        "ExpressionAttributeValues": values,
        "ScanIndexForward": False,
    }
    if filters:
        names = {f"#{part[1:].split()[0]}": _NAMES[part.split()[0]] for part in filters}
        options |= {
            "FilterExpression": " AND ".join(filters),
            "ExpressionAttributeNames": names,
        }
    index = "by_age" if query.user_id is None else "by_user"
    return await table.query(index=index, limit=query.limit + 1, **options)


async def glimpse(table: Table, task_ids: Collection[str]) -> Mapping[str, Glimpse]:
    """Return status and newest change of each task that is there."""
    items = await table.get_many([task_key(task_id) for task_id in dict.fromkeys(task_ids)])
    tasks = [Stored.of(item).task for item in items if "forgotten" not in item]
    return {task.id: Glimpse(task.status, task.changes) for task in tasks}


async def history(table: Table, task_id: str, *, after: int, limit: int) -> Sequence[Change]:
    """Return the changes after number *after*, in order."""
    task = await get(table, task_id)
    if task is None:
        return ()
    items = await table.query(
        limit=limit,
        KeyConditionExpression="pk = :pk AND sk BETWEEN :first AND :last",
        ExpressionAttributeValues={
            ":pk": task_key(task_id)["pk"],
            ":first": text(f"change#{after + 1:06}"),
            ":last": text("change#999999"),
        },
    )
    return [
        change_of(task, int(item["sk"]["S"][7:]), item["kind"]["S"], item["snapshot"]["S"])
        for item in items
    ]


async def due_before(
    table: Table, what: Due, moment: float, *, limit: int, inclusive: bool = False
) -> list[Mapping[str, Any]]:
    """Return the keys of what is due before *moment*, the oldest first."""
    found = await asyncio.gather(
        *(
            table.query(
                index="by_due",
                limit=limit,
                KeyConditionExpression=f"due_pk = :due AND due {'<=' if inclusive else '<'} :at",
                ExpressionAttributeValues={
                    ":due": text(due_key(what, shard)),
                    ":at": number(moment),
                },
            )
            for shard in range(SHARDS)
        )
    )
    merged = heapq.merge(*found, key=lambda item: float(item["due"]["N"]))
    return list(islice(merged, limit))

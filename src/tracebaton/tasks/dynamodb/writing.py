"""
One way to change a task: read it, decide, and write only if it is still what was read.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Final

from tracebaton.errors import StoreUnavailable
from tracebaton.tasks.dynamodb.items import Stored, change_items, number, task_item, task_key
from tracebaton.tasks.dynamodb.table import Cancelled, Table
from tracebaton.tasks.dynamodb.transitions import Step
from tracebaton.tasks.task import Task

__all__ = ["UNCHANGED", "change", "paused", "read"]

#: Tries against others that write the same item at the same time.
TRIES: Final = 12
#: Goes through only if nobody has written the item since it was read.
UNCHANGED: Final = "version = :version"


async def read(table: Table, task_id: str) -> Stored | None:
    """Return the task as it is now, forgotten or not."""
    item = await table.get(task_key(task_id))
    return None if item is None else Stored.of(item)


async def change(
    table: Table,
    task_id: str,
    decide: Callable[[Task], Step | None],
    *,
    forget: bool = False,
) -> Stored | None:
    """
    Write what *decide* makes of a task, with its history, and return it; None if it declines.

    Args:
        forget: Take the task out of everybody's sight.
    """
    for tried in range(TRIES):
        stored = await read(table, task_id)
        step = None if stored is None or stored.forgotten else decide(stored.task)
        if stored is None or step is None:
            return None
        after = Stored(step.task, stored.version + 1, forget, stored.claim)
        put = {
            "Item": task_item(after),
            "ConditionExpression": UNCHANGED,
            "ExpressionAttributeValues": {":version": number(stored.version)},
        }
        entries = [("Put", {"Item": item}) for item in change_items(step.task, step.kinds)]
        try:
            await table.transact([("Put", put), *entries])
        except Cancelled:
            await paused(tried)
        else:
            return after
    raise StoreUnavailable("The task is written by too many at once. Try again in a moment.")


async def paused(tried: int) -> None:
    """Wait a little, longer each time, before the next try."""
    await asyncio.sleep(random.random() * min(0.5, 0.01 * 2**tried))

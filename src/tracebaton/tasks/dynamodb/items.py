"""
What stands in the table, item by item.

    pk           sk               what it is
    task#ID      task             a task as JSON, and what is asked for of it as attributes
    task#ID      change#000001    an entry of its history
    task#ID      message#0        its message until it is sent, in pieces where it is large
    claim#HASH   claim            an idempotency key
    schema       schema           the version of all this

Three sparse indexes: ``by_age`` and ``by_user`` list tasks, ``by_due`` finds what waits for
somebody to look at it. The ones that everybody writes to are spread over `SHARDS`, because one
partition takes 1,000 writes a second
(https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/bp-partition-key-design.html).
"""

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from tracebaton.tasks.history import snapshot_of
from tracebaton.tasks.store import ChangeKind
from tracebaton.tasks.task import ENDED, Task, TaskStatus

__all__ = [
    "SCHEMA",
    "SHARDS",
    "Item",
    "Stored",
    "change_items",
    "claim_key",
    "created_key",
    "due",
    "due_key",
    "message_items",
    "number",
    "task_item",
    "task_key",
    "text",
    "user_key",
]

#: The version of the items; a table with a higher one is of a later release.
SCHEMA: Final = 1
SHARDS: Final = 8
#: Bytes of one piece of a message: an item may have 400 KB.
_PIECE: Final = 350_000
#: Bytes from which an id stands in a key by its hash: a key may have 2,048.
_LONG: Final = 1_000

Item = dict[str, dict[str, Any]]
Due = Literal["queued", "running", "ended", "outbox", "claim"]


@dataclass(frozen=True, slots=True)
class Stored:
    """
    A task as it was read.

    Attributes:
        version: Counts every write; the next one goes through only if it is still the same.
        claim: The key of the idempotency claim that led to it.
    """

    task: Task
    version: int
    forgotten: bool
    claim: str | None

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> "Stored":
        """Return what *item* says."""
        fields = json.loads(item["document"]["S"])
        fields["status"] = TaskStatus(fields["status"])
        fields["failures"] = tuple(fields["failures"])
        # Beside the document, because a heartbeat writes nothing else.
        fields["lease_until"] = float(item["lease_until"]["N"]) if "lease_until" in item else None
        return cls(
            Task(**fields),
            int(item["version"]["N"]),
            "forgotten" in item,
            item.get("claim", {}).get("S"),
        )


def text(value: str) -> dict[str, str]:
    """Return *value* as DynamoDB's JSON has it."""
    return {"S": value}


def number(value: float) -> dict[str, str]:
    """Return *value* as DynamoDB's JSON has it."""
    return {"N": repr(value)}


def task_item(stored: Stored) -> Item:
    """Return the item of a task."""
    task = stored.task
    fields = {name: getattr(task, name) for name in Task.__dataclass_fields__}
    lease = fields.pop("lease_until")
    item: Item = {
        **task_key(task.id),
        "document": text(json.dumps(fields, allow_nan=False)),
        "version": number(stored.version),
        "status": text(task.status.value),
        "type": text(_plain(task.type)),
        "changes": number(task.changes),
    }
    if task.owner is not None:
        item["owner"] = text(_plain(task.owner))
    if lease is not None:
        item["lease_until"] = number(lease)
    if stored.claim is not None:
        item["claim"] = text(stored.claim)
    if stored.forgotten:
        item["forgotten"] = {"BOOL": True}
    else:
        item["created"] = text(created_key(task.created_at, task.id))
        item["created_pk"] = text(f"tasks#{_shard(task.id)}")
        if task.user_id is not None:
            item["user_pk"] = text(user_key(task.user_id))
    return item | _task_due(task)


def change_items(task: Task, kinds: tuple[ChangeKind, ...]) -> Iterator[Item]:
    """Yield the newest entries of the history of *task*."""
    first = task.changes - len(kinds) + 1
    for count, kind in enumerate(kinds, start=first):
        yield {
            "pk": task_key(task.id)["pk"],
            "sk": text(f"change#{count:06}"),
            "kind": text(kind),
            "snapshot": text(snapshot_of(task)),
        }


def message_items(task_id: str, message: str, *, touched: float) -> Iterator[Item]:
    """Yield the pieces of a message; the first one is due, and knows how many there are."""
    whole = message.encode()
    pieces = [whole[at : at + _PIECE] for at in range(0, len(whole), _PIECE)] or [b""]
    for index, piece in enumerate(pieces):
        item: Item = {
            "pk": task_key(task_id)["pk"],
            "sk": text(f"message#{index}"),
            "piece": {"B": piece},
        }
        if index == 0:
            item |= {"pieces": number(len(pieces)), "task": text(_plain(task_id))}
            item |= due("outbox", task_id, touched)
        yield item


def task_key(task_id: str) -> Item:
    """Return the key of a task."""
    return {"pk": text(f"task#{_short(task_id)}"), "sk": text("task")}


def claim_key(scope: str, key: str) -> Item:
    """Return the key of an idempotency claim; both parts are a caller's, so neither is readable."""
    digest = hashlib.sha256(json.dumps([scope, key]).encode()).hexdigest()
    return {"pk": text(f"claim#{digest}"), "sk": text("claim")}


def created_key(created_at: float, task_id: str) -> str:
    """Return what sorts as the creation time does, and within one moment as the id."""
    return f"{created_at:021.6f}#{_short(task_id)}"


def user_key(user_id: str) -> str:
    """Return under what the tasks of a user are listed."""
    return f"user#{_short(user_id)}"


def due(what: Due, of: str, moment: float) -> Item:
    """Return the attributes that put an item into ``by_due``."""
    return {"due_pk": text(due_key(what, _shard(of))), "due": number(moment)}


def due_key(what: Due, shard: int) -> str:
    """Return one partition of ``by_due``."""
    return f"{what}#{shard}"


def _task_due(task: Task) -> Item:
    if task.status in ENDED:
        return due("ended", task.id, task.ended_at or task.updated_at)
    if task.status is TaskStatus.QUEUED:
        return due("queued", task.id, task.updated_at)
    return {} if task.lease_until is None else due("running", task.id, task.lease_until)


def _shard(name: str) -> int:
    return zlib.crc32(name.encode("utf-8", "surrogatepass")) % SHARDS


def _plain(value: str) -> str:
    """Return *value* as UTF-8 can have it; half a surrogate pair becomes text."""
    return value.encode("utf-8", "backslashreplace").decode()


def _short(name: str) -> str:
    encoded = name.encode("utf-8", "surrogatepass")
    if len(encoded) < _LONG and _plain(name) == name:
        return name
    return f"sha256:{hashlib.sha256(encoded).hexdigest()}"

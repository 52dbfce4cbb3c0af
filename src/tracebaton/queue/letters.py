"""
Letters: the messages that lie in the DLQ or in quarantine, and what is known of each.

The DLQ's know nothing of why they are there: the task store does. Those in quarantine say it
themselves.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tracebaton.queue.event import TaskEvent
from tracebaton.queue.incoming import Incoming, Reader
from tracebaton.queue.message import Attribute, Received
from tracebaton.queue.quarantine import quarantined
from tracebaton.queue.walk import Walk
from tracebaton.tasks import Task, TaskStore
from tracebaton.tasks.task import rfc3339

__all__ = ["Choice", "Kind", "Letter", "Letters"]

Kind = Literal["dlq", "quarantine"]

#: SQS's attribute of a message in a DLQ: the queue it came from.
_SOURCE_ARN = "DeadLetterQueueSourceArn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """
    One message and what is known of it.

    Attributes:
        incoming: The message as its own queue would have handed it out.
        origin: Name of the queue it came from, None where nobody says.
        reason: Code of the problem that brought it here; its class is *error_type*.
        since: When the message was sent here, or first sent, in seconds since the epoch.
        task: Its task, None where the store has none or there is no store.
    """

    incoming: Incoming
    origin: str | None = None
    reason: str | None = None
    error_type: str | None = None
    detail: str | None = None
    since: float | None = None
    group_id: str | None = None
    trace_id: str | None = None
    task: Task | None = None

    @property
    def message(self) -> Received:
        """Return the message."""
        return self.incoming.message

    @property
    def task_id(self) -> str | None:
        """Return the id of the task that it asks for."""
        return self.incoming.event.id if self.incoming.event else None

    @property
    def type(self) -> str | None:
        """Return the task type."""
        if self.incoming.event is not None:
            return self.incoming.event.type
        return self.task.type if self.task else None

    def summary(self) -> dict[str, Any]:
        """Return what a list shows of it."""
        task = self.task
        return {
            "message_id": self.message.message_id,
            "task_id": self.task_id,
            "type": self.type,
            "status": task.status.value if task else None,
            "reason": self.reason,
            "error_type": self.error_type,
            "detail": self.detail,
            "attempts": task.attempt if task else None,
            "since": rfc3339(self.since),
            "origin": self.origin,
            "correlation_id": task.correlation_id if task else None,
            "user_id": task.user_id if task else None,
            "trace_id": self.trace_id,
        }

    def document(self) -> dict[str, Any]:
        """Return all there is."""
        message = self.message
        return self.summary() | {
            "failures": [dict(one) for one in self.task.failures] if self.task else [],
            "group_id": self.group_id,
            "attributes": {name: _shown(value) for name, value in message.every.items()},
            "body": message.body,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """
    Which letters are meant; what is not given does not matter.

    Attributes:
        ids: Task or message ids.
        reasons: Codes or error classes.
        older_than: Seconds that a letter has lain here at least; likewise *newer_than*, at most.
    """

    types: frozenset[str] = field(default_factory=frozenset)
    ids: frozenset[str] = field(default_factory=frozenset)
    reasons: frozenset[str] = field(default_factory=frozenset)
    older_than: float | None = None
    newer_than: float | None = None

    def matches(self, letter: Letter, *, now: float) -> bool:
        """Tell whether *letter* is meant."""
        age = None if letter.since is None else now - letter.since
        return (
            (not self.types or letter.type in self.types)
            and (not self.ids or bool({letter.task_id, letter.message.message_id} & self.ids))
            and (not self.reasons or bool({letter.reason, letter.error_type} & self.reasons))
            and (self.older_than is None or (age is not None and age >= self.older_than))
            and (self.newer_than is None or (age is not None and age <= self.newer_than))
        )


class Letters:
    """Reads the messages of a DLQ, or of a quarantine queue."""

    def __init__(self, kind: Kind, *, queue_name: str, store: TaskStore | None) -> None:
        """
        Set what is read.

        Args:
            queue_name: Name of the task queue: foreign messages get their task ids from it.
        """
        self._kind = kind
        self._reader = Reader(queue_name=queue_name)
        self._store = store

    async def of(self, walk: Walk) -> AsyncIterator[list[Letter]]:
        """Yield what *walk* meets, batch by batch."""
        async for batch in walk:
            yield [await self.read(message) for message in batch]

    async def read(self, message: Received) -> Letter:
        """
        Return *message* with what is known of it.

        Raises:
            StoreUnavailable: The task store is away.
        """
        return await (self._dead(message) if self._kind == "dlq" else self._quarantined(message))

    async def _dead(self, message: Received) -> Letter:
        incoming = self._reader.read(message)
        task = await self._task(incoming.event)
        error: Mapping[str, Any] = (task.error if task else None) or {}
        last: Mapping[str, Any] = task.failures[-1] if task and task.failures else {}
        return Letter(
            incoming=incoming,
            origin=message.system.get(_SOURCE_ARN, "").rpartition(":")[2] or None,
            reason=_text(error.get("code", last.get("code"))),
            error_type=_text(last.get("error_type")),
            detail=_text(error.get("detail")),
            since=incoming.sent_at,
            group_id=message.system.get("MessageGroupId"),
            trace_id=task.trace_id if task else _trace_id(incoming),
            task=task,
        )

    async def _quarantined(self, message: Received) -> Letter:
        told = quarantined(message)
        original = Received(
            message_id=message.message_id,
            receipt_handle=message.receipt_handle,
            body=message.body,
            attributes={n: v.value for n, v in told.attributes.items() if isinstance(v.value, str)},
            every=told.attributes,
            system=message.system,
        )
        incoming = self._reader.read(original)
        return Letter(
            incoming=incoming,
            origin=_text(told.story.get("queue")),
            reason=told.reason or None,
            detail=told.detail or None,
            since=incoming.sent_at,
            group_id=_text(told.story.get("group_id")),
            trace_id=_text(told.story.get("trace_id")) or _trace_id(incoming),
            task=await self._task(incoming.event),
        )

    async def _task(self, event: TaskEvent | None) -> Task | None:
        return await self._store.get(event.id) if event and self._store else None


def _trace_id(incoming: Incoming) -> str | None:
    parts = incoming.carrier.get("traceparent", "").split("-")
    return parts[1] if len(parts) > 3 else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _shown(attribute: Attribute) -> str | dict[str, str]:
    value = attribute.value
    if isinstance(value, bytes):
        return {"type": attribute.type, "hex": value.hex()}
    return value if attribute.type == "String" else {"type": attribute.type, "value": value}

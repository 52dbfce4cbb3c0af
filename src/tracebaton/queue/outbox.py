"""
The outbox: a task is saved together with its message, which stays until the queue has it.

Three things can come between: the process dies, so that nobody knows whether the message was sent;
the send fails, and the task is taken back; or it only seemed to fail, and a worker has the task
already. `Upkeep` sends what was left.
"""

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from opentelemetry.trace import SpanContext

from tracebaton.errors import TracebatonError
from tracebaton.queue.event import TaskEvent, event_of, parse
from tracebaton.queue.outgoing import Item
from tracebaton.semconv import EVENT_TASK_STORE_FAILED
from tracebaton.tasks import Task, TaskStore
from tracebaton.tasks.claiming import current_claim
from tracebaton.w3c import format_traceparent

__all__ = ["Outbox", "Parcel", "packed", "unpacked"]

#: Seconds in which sent messages are collected, to forget them by one write.
_LINGER: Final = 0.05

_log = logging.getLogger("tracebaton.producer")


@dataclass(frozen=True, slots=True)
class Parcel:
    """
    A message as the outbox keeps it.

    Attributes:
        body: What the queue gets, byte by byte.
        event: The same, read.
        item: How it is to be sent.
        parent: ``traceparent`` of the span that asked for it: the request's, or the parent task's.
    """

    body: str
    event: TaskEvent
    item: Item
    parent: str | None


def packed(body: str, item: Item, parent: SpanContext) -> str:
    """Return as text what `unpacked()` needs to send the message again."""
    how = _how(
        *(item.delay_seconds, item.group_id, item.deduplication_id, item.propagate),
        tuple(item.attributes.items()),
    )
    named = f'"{format_traceparent(parent)}"' if parent.is_valid else "null"
    return f'{{"parent": {named}, "how": {how}}}\n{body}'


@lru_cache(maxsize=64)
def _how(
    delay_seconds: int,
    group_id: str | None,
    deduplication_id: str | None,
    propagate: str,
    attributes: tuple[tuple[str, str], ...],
) -> str:
    """Return how a message is to be sent, as most messages are."""
    return json.dumps(
        {
            "delay_seconds": delay_seconds,
            "group_id": group_id,
            "deduplication_id": deduplication_id,
            "propagate": propagate,
            "attributes": dict(attributes),
        }
    )


def unpacked(text: str) -> Parcel:
    """Return what `packed()` made."""
    head, _, body = text.partition("\n")
    known: Mapping[str, Any] = json.loads(head)
    event = event_of(parse(body))
    return Parcel(body, event, Item(event.type, {}, **known["how"]), known["parent"])


class Outbox:
    """The outbox of one producer; without a store there is none."""

    def __init__(self, store: TaskStore | None) -> None:
        self._store = store
        self._sent: list[str] = []
        self._lingering: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()

    async def save(self, task: Task, body: str, item: Item, parent: SpanContext) -> None:
        """
        Save *task* and its message, as `packed()` takes it.

        Raises:
            StoreUnavailable: Nothing was saved.
            Conflict: The request's idempotency key is another request's by now.
        """
        if self._store is not None:
            message = packed(body, item, parent)
            await self._store.create(task, message=message, claim=current_claim())

    def confirm(self, task: Task) -> None:
        """Note that the queue has the message; the store hears of it in a moment."""
        if self._store is None:
            return
        self._sent.append(task.id)
        if self._lingering is None or self._lingering.done():
            # A task from its start, and no timer that begins one: a loop that closes cancels it.
            self._lingering = asyncio.create_task(self._linger(), name="outbox")

    async def take_back(self, task: Task) -> Task | None:
        """
        Take back a task whose send failed; return it as it is if a worker has it all the same.

        Where the store is away the task and its message stay, and `Upkeep` sends it later.
        """
        if self._store is None:
            return None
        try:
            return None if await self._store.forget(task.id) else await self._store.get(task.id)
        except TracebatonError as exc:  # the caller has to hear of something else
            _failed(exc)
            return None

    async def flush(self) -> None:
        """Let the store hear of everything that was sent; wait for a write that is under way."""
        if self._store is None:
            return
        if self._lingering is not None:  # it would find nothing left
            self._lingering.cancel()
            self._lingering = None
        async with self._writing:
            sent, self._sent = self._sent, []
            if not sent:
                return
            try:
                await self._store.sent(sent)
            except TracebatonError as exc:  # they will be sent twice, and run once
                _failed(exc)

    async def _linger(self) -> None:
        await asyncio.sleep(_LINGER)
        self._lingering = None
        await self.flush()


def _failed(exc: TracebatonError) -> None:
    fields = {"code": exc.code, "reason": str(exc.__cause__ or exc)}
    _log.warning(EVENT_TASK_STORE_FAILED, extra={"fields": fields})

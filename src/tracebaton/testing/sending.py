"""
The sender of a chaos run: it sends until everything was accepted, and sees what has ended.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from opentelemetry.trace import NoOpTracer

from tracebaton.propagation import Propagator
from tracebaton.queue.producer import Item, Producer
from tracebaton.queue.sqs import Queue, Sqs, SqsAccess
from tracebaton.tasks import ENDED, Registry, Task, TaskStore

__all__ = ["Items", "Sender"]

#: Tasks that are sent at once.
_CHUNK = 50
#: Seconds between two looks at what has ended.
_LOOK = 0.25
#: Tasks that are looked at in one call.
_SEEN = 500

Items = Sequence[tuple[str, Mapping[str, Any]]]


class Sender:
    """
    Sends the tasks of one run.

    Attributes:
        tasks: The ids of those that were accepted, in the order in which they were.
        groups: The same by group, where the queue is a FIFO queue.
    """

    def __init__(
        self,
        store: TaskStore,
        registry: Registry,
        *,
        endpoint: str,
        queue_url: str,
        groups: int,
        tell: Callable[["Sender"], None],
    ) -> None:
        """
        Set where to.

        Args:
            groups: Of a FIFO queue, 0 for a standard one.
            tell: Called as it goes on.
        """
        self.tasks: list[str] = []
        self.groups: dict[str, list[str]] = defaultdict(list)
        self._store = store
        self._registry = registry
        self._endpoint = endpoint
        self._queue_url = queue_url
        self._count = groups
        self._tell = tell
        self._sent = 0
        self._open: set[str] = set()

    @property
    def ended(self) -> int:
        """Return how many tasks are known to have ended."""
        return len(self.tasks) - len(self._open)

    async def send(self, items: Items) -> None:
        """Send *items*, of each group of a FIFO queue one at a time: so they keep their order."""
        sqs = Sqs(SqsAccess(endpoint=self._endpoint, region="us-east-1", anonymous=True))
        producer = Producer(
            sqs,
            Queue(sqs, url=self._queue_url),
            registry=self._registry,
            store=self._store,
            tracer=NoOpTracer(),
            propagator=Propagator(),
            source="/chaos",
        )
        try:
            for chunk in _chunks(items, min(_CHUNK, self._count or _CHUNK)):
                await self._accepted(producer, [self._item(*one) for one in chunk])
                await self._look()
        finally:
            await sqs.close()

    async def all_ended(self) -> None:
        """Wait until every task that was accepted has ended."""
        while self._open:
            await self._look()
            await asyncio.sleep(_LOOK)

    def _item(self, kind: str, data: Mapping[str, Any]) -> Item:
        group = f"group-{self._sent % self._count}" if self._count else None
        self._sent += 1
        return Item(kind, data, group_id=group)

    async def _accepted(self, producer: Producer, items: Sequence[Item]) -> None:
        """Send *items* until each was accepted: what the caller was told has failed, he sends."""
        left = list(items)
        while left:
            answers = await producer.enqueue_many(left)
            failed = []
            for item, answer in zip(left, answers, strict=True):
                if isinstance(answer, Task):
                    self._note(item, answer.id)
                else:
                    failed.append(item)
            left = failed

    def _note(self, item: Item, task_id: str) -> None:
        self.tasks.append(task_id)
        self._open.add(task_id)
        if item.group_id is not None:
            self.groups[item.group_id].append(task_id)

    async def _look(self) -> None:
        """Take note of what has ended."""
        for chunk in _chunks(sorted(self._open), _SEEN):
            seen = await self._store.glimpse(chunk)
            self._open -= {task_id for task_id, one in seen.items() if one.status in ENDED}
        self._tell(self)


def _chunks(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]

"""
Who waits for news of which task: any number of listeners, one look at the store for all of them.

A listener reads the history of its task from the number it has, waits until there is a higher one,
and reads on. So it misses nothing and sees nothing twice, wherever the change was made and however
slow it is itself; what it has not read yet waits in the store and not here.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from tracebaton.errors import TracebatonError
from tracebaton.semconv import EVENT_TASK_STORE_FAILED
from tracebaton.tasks import ENDED, Change, Glimpse, TaskStore

__all__ = ["TaskWatch"]

#: Entries of a history that are read at once; a slow listener holds as many.
_BATCH: Final = 50
#: Seconds that the store may be away before listeners are told.
PATIENCE: Final = 10.0

_log = logging.getLogger("tracebaton.http")


class _Topic:
    """One task that somebody listens to."""

    def __init__(self) -> None:
        self.listeners = 0
        #: The newest change known of it.
        self.newest = 0
        #: Why nobody has to wait any longer: the store is away, or None where the watch ends.
        self.over: list[TracebatonError | None] = []
        self._news = asyncio.Event()
        self._reads: dict[int, asyncio.Future[Sequence[Change]]] = {}

    def advance(self, newest: int) -> None:
        """Wake those who wait, because there is something new."""
        if newest > self.newest:
            self.newest = newest
            self._wake()

    def end(self, reason: TracebatonError | None) -> None:
        """Wake those who wait for the last time."""
        self.over.append(reason)
        self._wake()

    async def wait(self, after: int, *, seconds: float) -> bool:
        """Wait for a change after *after*, at most *seconds*; tell whether there is one."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.newest <= after and not self.over:
                    await self._news.wait()  # for those who had read ahead it may be no news
        return self.newest > after

    async def read(self, store: TaskStore, task_id: str, after: int) -> Sequence[Change]:
        """Return the changes after *after*; listeners that ask at once share one read."""
        reading = self._reads.get(after)
        if reading is None:
            reading = asyncio.ensure_future(store.history(task_id, after=after, limit=_BATCH))
            self._reads[after] = reading
            reading.add_done_callback(lambda done: self._forget(after, done))
        return await asyncio.shield(reading)

    def _forget(self, after: int, done: "asyncio.Future[Sequence[Change]]") -> None:
        del self._reads[after]
        if not done.cancelled():
            done.exception()  # whoever waited has it; nobody may have

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


class TaskWatch:
    """The listeners of one process."""

    def __init__(self, store: Callable[[], TaskStore | None]) -> None:
        """Look into what *store* returns, as long as anybody listens."""
        self._store = store
        self._topics: dict[str, _Topic] = {}
        self._poller: asyncio.Task[None] | None = None
        self._closed = False

    async def changes(
        self, task_id: str, *, after: int, heartbeat: float
    ) -> AsyncGenerator[Sequence[Change] | None, None]:
        """
        Yield the changes of a task after number *after*, up to the one that ends it.

        First those that are there, if only none; then as many at once as have come meanwhile. None
        is yielded whenever nothing happened for *heartbeat* seconds.

        Raises:
            StoreUnavailable: The task store is away, and stays away.
        """
        store = self._store()
        if store is None:
            return
        ended = False
        with self._listening(task_id) as topic:
            while True:
                found = await topic.read(store, task_id, after)
                yield found
                if found:
                    after, ended = found[-1].number, found[-1].task.status in ENDED
                if len(found) == _BATCH:  # there may be more
                    continue
                if ended:
                    return
                if not self._closed and await topic.wait(after, seconds=heartbeat):
                    continue
                if topic.over or self._closed:
                    _raise(topic.over[0] if topic.over else None)
                    return
                yield None

    def close(self) -> None:
        """End every stream where it is: a listener that asks again goes on from there."""
        self._closed = True
        for topic in self._topics.values():
            topic.end(None)

    def reopen(self) -> None:
        """Let streams wait for news again."""
        self._closed = False

    @contextmanager
    def _listening(self, task_id: str) -> Iterator[_Topic]:
        topic = self._topics.setdefault(task_id, _Topic())
        topic.listeners += 1
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll(), name="tracebaton-watch")
        try:
            yield topic
        finally:
            topic.listeners -= 1
            if not topic.listeners and self._topics.get(task_id) is topic:
                del self._topics[task_id]
            if not self._topics and self._poller is not None:
                self._poller.cancel()
                self._poller = None  # who comes before it has ended needs another one

    async def _poll(self) -> None:
        store = self._store()
        assert store is not None  # nobody listens without one
        loop = asyncio.get_running_loop()
        good = loop.time()
        while self._topics:
            try:
                self._tell(await store.glimpse(list(self._topics)))
                good = loop.time()
            except TracebatonError as exc:
                fields = {"code": exc.code, "reason": str(exc.__cause__ or exc)}
                _log.warning(EVENT_TASK_STORE_FAILED, extra={"fields": fields})
                if loop.time() - good > PATIENCE:
                    self._give_up(exc)
                    return
            await asyncio.sleep(store.poll_seconds)

    def _tell(self, glimpses: Mapping[str, Glimpse]) -> None:
        for task_id, topic in self._topics.items():
            glimpse = glimpses.get(task_id)
            if glimpse is not None:
                topic.advance(glimpse.changes)

    def _give_up(self, exc: TracebatonError) -> None:
        topics, self._topics = self._topics, {}
        for topic in topics.values():
            topic.end(exc)


def _raise(reason: TracebatonError | None) -> None:
    if reason is not None:
        # Each listener fails by itself: one exception object is recorded on one span.
        raise type(reason)(reason.detail) from reason.__cause__

"""
A walk through a queue: every visible message is looked at once and given back.

SQS has no way to look without a receive. What was looked at stays invisible for a short time, so
that the walk does not meet it again, and is made visible when the walk is over.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import Future
from types import TracebackType
from typing import Self

from tracebaton.errors import TracebatonError
from tracebaton.queue.sqs import BATCH, Queue, Received, Sqs

__all__ = ["Walk"]

#: Receives in a row that bring nothing new until the walk is over: on AWS each is a random sample.
_STALE = 20
#: Seconds that giving back may take when the walk is over or broken off.
_GIVE_BACK_SECONDS = 5.0

_log = logging.getLogger("tracebaton.queue")


class Walk:
    """
    The messages of one queue, in batches, each message once.

        async with Walk(sqs, queue) as walk:
            async for batch in walk:
                ...

    Leaving the block makes visible what was not `taken()`. A process that is killed meanwhile hides
    it for *visibility_seconds* at most. Of each group of a FIFO queue a walk sees the first ten:
    SQS hands out no others before those are gone.
    """

    def __init__(
        self,
        sqs: Sqs,
        queue: Queue,
        *,
        visibility_seconds: int = 30,
        wait_seconds: int = 1,
        most: int = BATCH,
    ) -> None:
        """
        Set where to go.

        Args:
            wait_seconds: How long SQS waits for a message before the queue counts as walked; at
                least 1 on AWS, where a shorter receive asks some of its servers only.
            most: Messages in a batch.
        """
        self._sqs = sqs
        self._queue = queue
        self._visibility = visibility_seconds
        self._wait = wait_seconds
        self._most = most
        self._seen: set[str] = set()
        self._held: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Shielded: who breaks the walk off must not hide the messages from the next one.
        await asyncio.shield(self._give_back())

    async def __aiter__(self) -> AsyncIterator[list[Received]]:
        url, stale = await self._queue.url(), 0
        while stale < _STALE:
            batch = await self._receive(url)
            if not batch:
                return
            fresh = [message for message in batch if message.message_id not in self._seen]
            self._held |= {message.message_id: message.receipt_handle for message in batch}
            self._seen |= self._held.keys()
            stale = 0 if fresh else stale + 1
            if fresh:
                yield fresh

    def taken(self, messages: Iterable[Received]) -> None:
        """Take note that *messages* were deleted and are not to be given back."""
        for message in messages:
            self._held.pop(message.message_id, None)

    async def _receive(self, url: str) -> list[Received]:
        arrived: Future[list[Received] | TracebatonError] = Future()

        def deliver(outcome: list[Received] | TracebatonError) -> bool:
            if not arrived.set_running_or_notify_cancel():
                return False  # nobody waits any more: the messages are made visible again
            arrived.set_result(outcome)
            return True

        self._sqs.poll(
            url,
            most=self._most,
            wait_seconds=self._wait,
            visibility_seconds=self._visibility,
            deliver=deliver,
        )
        outcome = await asyncio.wrap_future(arrived)
        if isinstance(outcome, TracebatonError):
            raise outcome
        return outcome

    async def _give_back(self) -> None:
        handles, self._held = list(self._held.values()), {}
        try:
            async with asyncio.timeout(_GIVE_BACK_SECONDS):
                url = await self._queue.url()
                for start in range(0, len(handles), BATCH):
                    changes = [(handle, 0) for handle in handles[start : start + BATCH]]
                    await self._sqs.change_visibility(url, changes)
        except (TracebatonError, TimeoutError) as exc:
            # They come back by themselves when their visibility timeout ends.
            fields = {"queue": self._queue.name, "reason": str(exc.__cause__ or exc)}
            _log.warning("visibility.failed", extra={"fields": fields})

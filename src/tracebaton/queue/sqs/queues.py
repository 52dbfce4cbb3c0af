"""
One queue, by URL or by name.
"""

import asyncio
from collections.abc import Mapping

from tracebaton.queue.sqs.calls import Sqs

__all__ = ["MESSAGE_LIMIT", "Queue"]

#: SQS's own limit on a message, body and attributes together, unless the queue says less.
MESSAGE_LIMIT = 1024 * 1024


class Queue:
    """One queue, by URL or by name; what SQS knows of it is asked when it is first needed."""

    def __init__(self, sqs: Sqs, *, url: str | None = None, name: str | None = None) -> None:
        self._sqs = sqs
        self._url = url
        self.name: str = name or (url or "").rstrip("/").rsplit("/", 1)[-1]
        self._limit: int | None = None
        self._asking: asyncio.Future[Mapping[str, str]] | None = None

    @property
    def fifo(self) -> bool:
        """Tell whether the queue is a FIFO queue, which SQS knows by its name."""
        return self.name.endswith(".fifo")

    async def url(self) -> str:
        """Return the queue's URL, looked up by name where only that was given."""
        if self._url is None:
            self._url = await self._sqs.queue_url(self.name)
        return self._url

    async def attributes(self) -> Mapping[str, str]:
        """Return the queue's attributes as they are now."""
        return await self._sqs.queue_attributes(await self.url())

    async def message_limit(self) -> int:
        """Return the bytes a message may have, body and attributes together."""
        if self._limit is None:
            attributes = await self._asked_once()
            self._limit = int(attributes.get("MaximumMessageSize", MESSAGE_LIMIT))
        return self._limit

    async def _asked_once(self) -> Mapping[str, str]:
        """Return the attributes by one call for all who wait: at a start that may be hundreds."""
        asking = self._asking
        if asking is None or asking.done() or asking.get_loop() is not asyncio.get_running_loop():
            asking = self._asking = asyncio.ensure_future(self.attributes())
        return await asyncio.shield(asking)

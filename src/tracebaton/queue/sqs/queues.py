"""
One queue, by URL or by name.
"""

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
        self.name = name or (url or "").rstrip("/").rsplit("/", 1)[-1]
        self._limit: int | None = None

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
            attributes = await self.attributes()
            self._limit = int(attributes.get("MaximumMessageSize", MESSAGE_LIMIT))
        return self._limit

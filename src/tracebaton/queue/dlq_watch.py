"""
The DLQ watcher: it reads the dead-letter queue, never deletes, and ends the tasks that killed
workers left there.

The task store is its memory: what has ended was told before, by whichever worker, in whichever run.
It stays out of the way of whoever works on the DLQ: it asks for the number of messages first, walks
through them only when that has changed and nobody holds any, and hides none for longer than a walk.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping

from tracebaton.errors import TracebatonError
from tracebaton.queue.dead import DeadLetters, Finding
from tracebaton.queue.sqs import Queue, Sqs
from tracebaton.queue.walk import Walk
from tracebaton.semconv import EVENT_DLQ_UNWATCHED

__all__ = ["DlqWatch"]

#: Seconds a message of the DLQ is invisible if the watcher is killed in the middle of a walk.
_VISIBILITY_SECONDS = 30
#: Seconds after which it walks although the number of messages is the same.
_ANYWAY_SECONDS = 300.0
#: Looks that are left out at most while somebody else holds messages of the DLQ.
_POLITE = 20
#: A walk is followed by a pause of so many times its length, so that operators find the messages.
_REST = 10
#: Seconds the watcher gets to give back what it holds when the worker stops.
_STOP_SECONDS = 2.0

_log = logging.getLogger("tracebaton.worker")


class DlqWatch:
    """Watches one dead-letter queue beside a worker."""

    def __init__(
        self,
        sqs: Sqs,
        queue: Queue,
        *,
        letters: DeadLetters,
        interval: float = 15.0,
        wait_seconds: int = 1,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Set what to watch.

        Args:
            queue: The dead-letter queue.
            interval: Seconds between two looks, give or take half of it: workers that were started
                together do not look together.
        """
        self._sqs = sqs
        self._queue = queue
        self._letters = letters
        self._interval = interval
        self._wait = wait_seconds
        self._now = now
        #: How many messages there were at the start of the last walk.
        self._known: int | None = None
        self._walk_by = 0.0
        self._polite = 0
        self._refused: str | None = None

    async def run(self, stopping: asyncio.Event) -> None:
        """Look until the worker stops; a failing call never ends the watch."""
        watching = asyncio.create_task(self._watch(), name="tracebaton-dlq-watch")
        stopped = asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait({watching, stopped}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            watching.cancel()
            await asyncio.wait({watching}, timeout=_STOP_SECONDS)

    async def look(self) -> int:
        """
        Look once and return how many tasks were ended.

        Raises:
            TracebatonError: The queue or the task store is away.
        """
        attributes = await self._queue.attributes()
        if not self._due(attributes):
            return 0
        findings = await self._walk()
        self._walk_by = self._now() + _ANYWAY_SECONDS
        if "leased" not in findings:  # that one is over soon
            self._known = int(attributes.get("ApproximateNumberOfMessages", 0))
        return findings.count("marked")

    async def _watch(self) -> None:
        while True:
            pause = self._interval * random.uniform(0.5, 1.5)
            started = self._now()
            try:
                await self.look()
            except TracebatonError as exc:
                self._tell(str(exc.__cause__ or exc))
                pause *= _REST
            except Exception:  # the worker's edge: our own mistake must not end the watch unseen
                _log.exception("dlq.failure")
                pause *= _REST
            await asyncio.sleep(max(pause, _REST * (self._now() - started)))

    async def _walk(self) -> list[Finding]:
        findings: list[Finding] = []
        walk = Walk(
            self._sqs,
            self._queue,
            visibility_seconds=_VISIBILITY_SECONDS,
            wait_seconds=self._wait,
        )
        async with walk:
            async for batch in walk:
                findings += [await self._letters.bury(message) for message in batch]
        return findings

    def _due(self, attributes: Mapping[str, str]) -> bool:
        if "RedrivePolicy" in attributes:
            # Each receive counts: looking would push the messages on to the next queue.
            self._tell("the DLQ has a redrive policy of its own")
            return False
        self._refused = None
        visible = int(attributes.get("ApproximateNumberOfMessages", 0))
        held = int(attributes.get("ApproximateNumberOfMessagesNotVisible", 0))
        if held and self._polite < _POLITE:
            self._polite += 1
            return False
        self._polite = 0
        return visible > 0 and (visible != self._known or self._now() >= self._walk_by)

    def _tell(self, reason: str) -> None:
        """Say once why tasks in the DLQ are not ended."""
        if reason != self._refused:
            self._refused = reason
            fields = {"queue": self._queue.name, "reason": reason}
            _log.warning(EVENT_DLQ_UNWATCHED, extra={"fields": fields})

"""
What becomes of a task by what SQS said of its message: accepted, dropped as a copy, or refused.
"""

import logging
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from opentelemetry import context as otel

from tracebaton import problems
from tracebaton.errors import QueueUnavailable, TracebatonError
from tracebaton.events import say
from tracebaton.metrics import MessagingMetrics
from tracebaton.queue.message import Sent
from tracebaton.queue.outbox import Outbox
from tracebaton.queue.sending import Sending, ended
from tracebaton.semconv import (
    EVENT_TASK_DEDUPLICATED,
    EVENT_TASK_ENQUEUED,
    MESSAGING_MESSAGE_ID,
)
from tracebaton.tasks import Task

__all__ = ["Acceptance"]

#: Messages with a deduplication id of the caller's that are remembered, to notice a dropped one.
_REMEMBERED: Final = 1000

_log = logging.getLogger("tracebaton.producer")


class Acceptance:
    """Ends the sends of one producer: span, metrics, log line, and the task in its store."""

    def __init__(self, outbox: Outbox, *, queue_name: str, metrics: MessagingMetrics) -> None:
        """Settle what *outbox* saved and the queue called *queue_name* was sent."""
        self._outbox = outbox
        self._queue_name = queue_name
        self._metrics = metrics
        self._remembered: OrderedDict[str, Task] = OrderedDict()

    def measure(
        self, sent: Iterable[tuple[Sending, BaseException | None]], seconds: float | None
    ) -> None:
        """Count each message and, with the first one, the call it left with."""
        for sending, exc in sent:
            if exc is None or isinstance(exc, Exception):  # a cancellation is no failure
                error_type = None if exc is None else problems.outcome_of(exc).error_type
                self._metrics.sent(
                    self._queue_name, seconds, error_type=error_type, context=sending.context
                )
                seconds = None

    async def settled(self, sending: Sending, sent: Sent) -> Task | TracebatonError:
        """Return the task, that of an earlier message it is a copy of, or why there is none."""
        if sent.message_id is not None:
            return await self._accepted(sending, sent.message_id)
        error = sent.error or QueueUnavailable()
        return await self.refused(sending, error) or error

    async def refused(self, sending: Sending, exc: BaseException) -> Task | None:
        """Take the task back, unless a worker has it: then the send only seemed to fail."""
        ended(sending.span, exc)
        return await self._outbox.take_back(sending.task)

    async def _accepted(self, sending: Sending, message_id: str) -> Task:
        fields = {"task_type": sending.task.type, "message_id": message_id}
        token = otel.attach(sending.context)
        sending.span.set_attribute(MESSAGING_MESSAGE_ID, message_id)
        try:
            earlier = self._earlier(sending, message_id)
            if earlier is None:
                self._outbox.confirm(sending.task)
                say(_log, EVENT_TASK_ENQUEUED, fields, clean=True)
                return sending.task
            _log.warning(
                EVENT_TASK_DEDUPLICATED, extra={"fields": fields | {"earlier_task_id": earlier.id}}
            )
        finally:
            ended(sending.span)
            otel.detach(token)
        await self._outbox.take_back(sending.task)
        return earlier

    def _earlier(self, sending: Sending, message_id: str) -> Task | None:
        """Return the task that SQS took this one for: it answers with that one's message id."""
        if sending.item.deduplication_id is None:
            return None
        earlier = self._remembered.setdefault(message_id, sending.task)
        if len(self._remembered) > _REMEMBERED:
            self._remembered.popitem(last=False)
        return None if earlier is sending.task else earlier

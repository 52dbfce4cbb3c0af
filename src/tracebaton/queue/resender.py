"""
The sweep of the outbox: messages of tasks that were saved, and that nobody is known to have sent.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from opentelemetry import context as otel
from opentelemetry.trace import Tracer

from tracebaton.errors import TracebatonError
from tracebaton.propagation import Propagator
from tracebaton.queue.message import Outgoing
from tracebaton.queue.outbox import Parcel, unpacked
from tracebaton.queue.outgoing import addressed
from tracebaton.queue.sending import ended, reopened
from tracebaton.queue.signature import MessageKeys
from tracebaton.queue.sqs import Queue, Sqs
from tracebaton.semconv import (
    BAGGAGE,
    EVENT_TASK_NOT_RESENT,
    EVENT_TASK_RESENT,
    MESSAGING_MESSAGE_ID,
)
from tracebaton.tasks import Task, TaskStore, Unsent

__all__ = ["GRACE", "Resender"]

#: Seconds a message is left to whoever saved it: boto3 has given up by then.
GRACE: Final = 30.0

_log = logging.getLogger("tracebaton.producer")


class Resender:
    """Sends what a process left when it died, or when the store was away as its send failed."""

    def __init__(
        self,
        sqs: Sqs,
        queue: Queue,
        *,
        store: TaskStore,
        tracer: Tracer,
        propagator: Propagator,
        keys: MessageKeys | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._sqs = sqs
        self._queue = queue
        self._store = store
        self._tracer = tracer
        self._propagator = propagator
        self._keys = keys
        self._now = now

    async def sweep(self, *, older_than: float = GRACE) -> int:
        """
        Send what waits for longer than *older_than* seconds and return how many were sent.

        A message that did arrive the first time is a copy, which runs nothing. One that cannot be
        sent waits for the next sweep.
        """
        sent = [
            unsent.task.id
            for unsent in await self._store.unsent(older_than=older_than)
            if await self.resend(unsent)
        ]
        if sent:
            await self._store.sent(sent)
        return len(sent)

    async def resend(self, unsent: Unsent) -> bool:
        """
        Send one message; False if that failed.

        The body is the first one's, byte by byte. The attributes name the new span, so that the
        trace is whole although the first one's process died before it told of its span.
        """
        parcel = unpacked(unsent.message)
        here, span = reopened(self._tracer, self._propagator, parcel, queue_name=self._queue.name)
        token = otel.attach(here)
        failed = None
        try:
            message_id = await self._send(parcel, unsent.task)
            span.set_attribute(MESSAGING_MESSAGE_ID, message_id)
            fields = {"task_type": unsent.task.type, "message_id": message_id}
            _log.warning(EVENT_TASK_RESENT, extra={"fields": fields})
        except TracebatonError as exc:
            failed = exc
            fields = {"task_type": unsent.task.type, "reason": str(exc.__cause__ or exc)}
            _log.warning(EVENT_TASK_NOT_RESENT, extra={"fields": fields})
        finally:
            ended(span, failed)
            otel.detach(token)
        return failed is None

    async def _send(self, parcel: Parcel, task: Task) -> str:
        message = await self._message(parcel, waited=self._now() - task.created_at)
        return await self._sqs.send(
            await self._queue.url(),
            message.body,
            attributes=message.attributes,
            delay_seconds=message.delay_seconds,
            group_id=message.group_id,
            deduplication_id=message.deduplication_id,
        )

    async def _message(self, parcel: Parcel, *, waited: float) -> Outgoing:
        carrier = dict(parcel.event.carrier)
        if parcel.event.propagate != "none":
            now = self._propagator.inject_message()
            now.pop(BAGGAGE, None)  # it is about the request, and the first one's says it all
            carrier |= now
        left = max(0, round(parcel.item.delay_seconds - waited))
        return addressed(
            parcel.body,
            replace(parcel.event, carrier=carrier),
            replace(parcel.item, delay_seconds=left),
            queue=self._queue,
            limit=await self._queue.message_limit(),
            keys=self._keys,
        )

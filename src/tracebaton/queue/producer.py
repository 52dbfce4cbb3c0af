"""
The producer: a task is saved, its message carries the request's trace and store, and one answer
says whether both happened.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.trace import Tracer
from pydantic import BaseModel

from tracebaton import context
from tracebaton.errors import TracebatonError
from tracebaton.metrics import MessagingMetrics
from tracebaton.propagation import Propagator, installed
from tracebaton.queue.acceptance import Acceptance
from tracebaton.queue.batches import send_all
from tracebaton.queue.coalescing import Coalescer, Departure
from tracebaton.queue.event import Propagate, TaskEvent
from tracebaton.queue.incoming import identity_only
from tracebaton.queue.message import Outgoing, Sent, byte_size
from tracebaton.queue.outbox import Outbox
from tracebaton.queue.outgoing import Item, checked, compose, model_of
from tracebaton.queue.sending import Sending, ended, new_task, opened
from tracebaton.queue.signature import MessageKeys
from tracebaton.queue.sqs import Queue, Sqs
from tracebaton.semconv import (
    MESSAGING_BODY_SIZE,
    MESSAGING_CONVERSATION_ID,
    SCOPE,
)
from tracebaton.tasks import Registry, Task, TaskStore, TaskType
from tracebaton.tasks.task import rfc3339

__all__ = ["Item", "Producer"]

#: Seconds that what is on its way gets when the process stops.
_CLOSE_SECONDS = 3.0


class Producer:
    """Sends tasks to one queue."""

    def __init__(
        self,
        sqs: Sqs,
        queue: Queue,
        *,
        registry: Registry,
        store: TaskStore | None = None,
        tracer: Tracer | None = None,
        propagator: Propagator | None = None,
        source: str = "/tracebaton",
        keys: MessageKeys | None = None,
        metrics: MessagingMetrics | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Set where to and for whom.

        Args:
            store: Where the tasks are saved, None to send messages only.
            tracer: Of the process's provider by default.
            propagator: The process's by default, see `configure_telemetry()`.
            source: The sender as a URI reference, such as ``/tracebaton-api``.
            keys: The first one signs every message.
        """
        self._sqs = sqs
        self._queue = queue
        self._registry = registry
        #: To be flushed before the store closes.
        self.outbox: Outbox = Outbox(store)
        self._tracer = tracer or trace.get_tracer(SCOPE)
        self._propagator = propagator or installed()
        self._source = source
        self._keys = keys
        self._now = now
        self._acceptance = Acceptance(
            self.outbox, queue_name=queue.name, metrics=metrics or MessagingMetrics()
        )
        self._coalescer = Coalescer(sqs, queue)

    async def enqueue(
        self,
        task_type: str,
        data: BaseModel | Mapping[str, Any],
        *,
        delay_seconds: int = 0,
        group_id: str | None = None,
        deduplication_id: str | None = None,
        propagate: Propagate = "parent",
        attributes: Mapping[str, str] | None = None,
    ) -> Task:
        """
        Save a task and send its message, in a route and in a handler alike.

        The arguments are those of `Item`.

        Raises:
            UnknownTaskType: Nothing is registered under *task_type*.
            InvalidTaskData: *data* does not fit the model.
            RequestError: SQS knows no such delay, group, deduplication id or attribute here.
            MessageTooLarge: The message is over the queue's limit; nothing was saved.
            QueueUnavailable: The send failed; the task was not kept.
            StoreUnavailable: The task could not be saved; nothing was sent.
        """
        item = Item(
            task_type,
            data,
            delay_seconds,
            group_id,
            deduplication_id,
            propagate,
            attributes or {},
        )
        sending = await self._prepared(item)
        departure = self._coalescer.post(sending.message)
        try:
            with suppress(Exception):  # a mistake of ours: it is raised again below
                await asyncio.shield(departure.done)
        except asyncio.CancelledError as exc:
            if departure.withdraw():
                await self._acceptance.refused(sending, exc)
            else:  # a call has the message: the task stays if it arrives
                self._coalescer.keep(self._arrived(sending, departure))
            raise
        task = await self._arrived(sending, departure)
        if isinstance(task, TracebatonError):
            raise task
        return task

    async def close(self) -> None:
        """Send what still waits, and settle the tasks whose callers did not stay to see it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._coalescer.flush()

    async def enqueue_many(
        self,
        items: Iterable[Item | tuple[str, BaseModel | Mapping[str, Any]]],
        *,
        delay_seconds: int = 0,
        group_id: str | None = None,
        propagate: Propagate = "parent",
    ) -> list[Task | TracebatonError]:
        """
        Save many tasks and send their messages in batches.

        Returns a task, or the error that its `enqueue()` would have raised, for each item in order;
        one that fails takes no other along. On a FIFO queue the order of *items* is kept, except
        behind a message that SQS failed and took at a second try.

        Args:
            items: An `Item`, or a type with its data, which the other arguments are for.
        """
        given = [
            one
            if isinstance(one, Item)
            else Item(*one, delay_seconds=delay_seconds, group_id=group_id, propagate=propagate)
            for one in items
        ]
        prepared: list[Sending | TracebatonError] = []
        try:
            for item in given:  # one by one: what is open when it is cancelled has to be known
                prepared.append(await self._attempted(item))  # noqa: PERF401
            sendings = [one for one in prepared if isinstance(one, Sending)]
            started = time.perf_counter()
            outcomes = await self._send_all([sending.message for sending in sendings])
            errors = [sent.error if sent.message_id is None else None for sent in outcomes]
            if sendings:
                self._acceptance.measure(
                    zip(sendings, errors, strict=True), time.perf_counter() - started
                )
        except BaseException as exc:
            for sending in prepared:
                if isinstance(sending, Sending):
                    await self._acceptance.refused(sending, exc)
            raise
        settled = zip(sendings, outcomes, strict=True)
        tasks = iter([await self._acceptance.settled(sending, sent) for sending, sent in settled])
        return [next(tasks) if isinstance(one, Sending) else one for one in prepared]

    async def _arrived(self, sending: Sending, departure: Departure) -> Task | TracebatonError:
        """Return what becomes of the task now that its message has arrived, or has not."""
        try:
            sent = await departure.done
        except BaseException as exc:  # a mistake of ours, or the end of the loop
            await self._acceptance.refused(sending, exc)
            raise
        error = None if sent.message_id is not None else sent.error
        self._acceptance.measure([(sending, error)], departure.seconds)
        return await self._acceptance.settled(sending, sent)

    async def _attempted(self, item: Item) -> Sending | TracebatonError:
        try:
            return await self._prepared(item)
        except TracebatonError as exc:
            return exc

    async def _prepared(self, item: Item) -> Sending:
        """Check, compose and save: a worker may be faster than the line after the send."""
        kind = self._registry[item.type]
        model = model_of(kind, item)
        item = checked(item, kind, model, self._queue)
        here, span = opened(self._tracer, queue_name=self._queue.name, task_type=kind.name)
        parent_task_id = context.current().task_id
        asking = trace.get_current_span().get_span_context()
        token = otel.attach(here)
        try:
            task = new_task(span, kind.name, parent_task_id=parent_task_id, now=self._now())
            message = await self._composed(task, kind, model.model_dump(mode="json"), item)
            span.set_attributes(
                {
                    MESSAGING_BODY_SIZE: byte_size(message.body),
                    MESSAGING_CONVERSATION_ID: task.correlation_id or "",
                }
            )
            await self.outbox.save(task, message.body, item, asking)
        except BaseException as exc:
            ended(span, exc)
            raise
        finally:
            otel.detach(token)
        return Sending(item, here, span, task, message)

    async def _composed(self, task: Task, kind: TaskType, payload: Any, item: Item) -> Outgoing:
        carrier = self._propagator.inject_message()
        event = TaskEvent(
            id=task.id,
            source=self._source,
            type=kind.name,
            time=rfc3339(task.created_at) or "",
            data=payload,
            correlation_id=task.correlation_id,
            user_id=task.user_id,
            schema_version=kind.version,
            delay_seconds=item.delay_seconds,
            propagate=item.propagate,
            carrier=identity_only(carrier) if item.propagate == "none" else carrier,
        )
        limit = await self._queue.message_limit()
        return compose(event, item, queue=self._queue, limit=limit, keys=self._keys)

    async def _send_all(self, messages: Sequence[Outgoing]) -> list[Sent]:
        if not messages:
            return []
        url = await self._queue.url()
        return await send_all(self._sqs, url, messages, ordered=self._queue.fifo)

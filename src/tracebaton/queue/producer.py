"""
The producer: a task is saved, its message carries the request's trace and store, and one answer
says whether both happened.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import uuid_utils
from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Tracer
from pydantic import BaseModel, ValidationError

from tracebaton import context, problems
from tracebaton.errors import InvalidTaskData, MessageTooLarge, RequestError
from tracebaton.propagation import Propagator
from tracebaton.queue.event import TaskEvent, encode
from tracebaton.queue.sqs import Queue, Sqs
from tracebaton.semconv import (
    AWS_SQS,
    EVENT_TASK_ENQUEUED,
    MESSAGING_BODY_SIZE,
    MESSAGING_CONVERSATION_ID,
    MESSAGING_DESTINATION,
    MESSAGING_MESSAGE_ID,
    MESSAGING_OPERATION_NAME,
    MESSAGING_OPERATION_TYPE,
    MESSAGING_SYSTEM,
    TASK_ID,
    TASK_TYPE,
)
from tracebaton.tasks import Registry, Task, TaskStore, TaskType
from tracebaton.tasks.task import rfc3339

__all__ = ["Producer"]

#: The longest delay SQS knows, in seconds.
MAX_DELAY = 900

_log = logging.getLogger("tracebaton.producer")


class Producer:
    """Sends tasks to one queue."""

    def __init__(
        self,
        sqs: Sqs,
        queue: Queue,
        *,
        registry: Registry,
        store: TaskStore | None,
        tracer: Tracer,
        propagator: Propagator,
        source: str,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._sqs = sqs
        self._queue = queue
        self._registry = registry
        self._store = store
        self._tracer = tracer
        self._propagator = propagator
        self._source = source
        self._now = now

    async def enqueue(
        self,
        task_type: str,
        data: BaseModel | Mapping[str, Any],
        *,
        delay_seconds: int = 0,
    ) -> Task:
        """
        Save a task and send its message, in a route and in a handler alike.

        Args:
            task_type: Name of a registered type.
            data: The model of that type, or what it validates.
            delay_seconds: Seconds until the message becomes visible, at most 900.

        Raises:
            UnknownTaskType: Nothing is registered under *task_type*.
            InvalidTaskData: *data* does not fit the model.
            MessageTooLarge: The message is over the queue's limit; nothing was saved.
            QueueUnavailable: The send failed; the task was not kept.
            StoreUnavailable: The task could not be saved; nothing was sent.
        """
        kind = self._registry[task_type]
        payload = _payload(kind, data)
        _check_delay(delay_seconds)
        outer = context.current()
        task_id = str(uuid_utils.uuid7())
        # The new task's id goes into the cell before the span starts, so that the span, the baggage
        # and the log line of this send are the new task's and not its parent's.
        store = replace(outer, task_id=task_id, attempt=None)
        with (
            context.entered(store, otel.get_current()),
            self._tracer.start_as_current_span(
                f"send {self._queue.name}",
                kind=SpanKind.PRODUCER,
                attributes={
                    MESSAGING_SYSTEM: AWS_SQS,
                    MESSAGING_DESTINATION: self._queue.name,
                    MESSAGING_OPERATION_NAME: "send",
                    MESSAGING_OPERATION_TYPE: "send",
                    TASK_TYPE: kind.name,
                    TASK_ID: task_id,
                },
                record_exception=False,
                set_status_on_exception=False,
            ) as span,
        ):
            try:
                return await self._send(span, kind, payload, delay_seconds, outer.task_id)
            except Exception as exc:
                problems.record(exc, problems.outcome_of(exc), span)
                raise

    async def _send(
        self,
        span: trace.Span,
        kind: TaskType,
        payload: Any,
        delay_seconds: int,
        parent_task_id: str | None,
    ) -> Task:
        ids = span.get_span_context()
        trace_id = trace.format_trace_id(ids.trace_id) if ids.is_valid else None
        store = context.bind_trace(trace_id)
        now = self._now()
        task = Task(
            id=store.task_id or "",
            type=kind.name,
            user_id=store.user_id,
            correlation_id=store.correlation_id,
            trace_id=trace_id,
            parent_task_id=parent_task_id,
            created_at=now,
            updated_at=now,
        )
        carrier = self._propagator.inject_message()
        event = TaskEvent(
            id=task.id,
            source=self._source,
            type=kind.name,
            time=rfc3339(now) or "",
            data=payload,
            correlation_id=store.correlation_id,
            user_id=store.user_id,
            schema_version=kind.version,
            delay_seconds=delay_seconds,
            carrier=carrier,
        )
        body = encode(event)
        attributes = _fitting(body, carrier, await self._queue.message_limit())
        span.set_attribute(MESSAGING_BODY_SIZE, len(body))
        if store.correlation_id:
            span.set_attribute(MESSAGING_CONVERSATION_ID, store.correlation_id)
        message_id = await self._deliver(task, body, attributes, delay_seconds)
        span.set_attribute(MESSAGING_MESSAGE_ID, message_id)
        _log.info(
            EVENT_TASK_ENQUEUED,
            extra={"fields": {"task_type": kind.name, "message_id": message_id}},
        )
        return task

    async def _deliver(
        self, task: Task, body: str, attributes: Mapping[str, str], delay_seconds: int
    ) -> str:
        """Save, then send: a worker may be faster than this line. A failed send takes it back."""
        if self._store is not None:
            await self._store.create(task)
        try:
            return await self._sqs.send(
                await self._queue.url(),
                body,
                attributes=attributes,
                delay_seconds=delay_seconds,
            )
        except BaseException:
            if self._store is not None:
                await self._store.forget(task.id)
            raise


def _payload(kind: TaskType, data: BaseModel | Mapping[str, Any]) -> Any:
    try:
        model = data if isinstance(data, kind.model) else kind.model.model_validate(data)
    except ValidationError as exc:
        fields = ", ".join(".".join(map(str, error["loc"])) for error in exc.errors())
        raise InvalidTaskData(
            f"The data of the task type {kind.name!r} does not fit its model: {fields}."
        ) from exc
    return model.model_dump(mode="json")


def _check_delay(seconds: int) -> None:
    if not 0 <= seconds <= MAX_DELAY:
        raise RequestError(
            f"A delay of {seconds} s was asked for; SQS delays a message by 0 to {MAX_DELAY} s."
            " Use a scheduler for longer ones."
        )


def _fitting(body: str, carrier: Mapping[str, str], limit: int) -> Mapping[str, str]:
    """
    Return the attributes that fit beside *body*; the envelope carries the same context anyway.

    Raises:
        MessageTooLarge: The body alone is over *limit*.
    """
    size = len(body.encode())
    if size > limit:
        raise MessageTooLarge(f"The message has {size} bytes, the queue's limit is {limit}.")
    beside = sum(len(name) + len("String") + len(value) for name, value in carrier.items())
    return carrier if size + beside <= limit else {}

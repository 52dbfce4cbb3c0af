"""
One delivery of one message, from its body to a verdict.

In this order: read, extract, attach, ``process`` span, check, start in the task store, handler
under its deadline, outcome.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields, replace
from functools import partial
from typing import Any

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.trace import Link, Span, SpanKind, Tracer
from pydantic import BaseModel, ValidationError
from pydantic_core import to_jsonable_python

from tracebaton import context
from tracebaton.context import RequestStore
from tracebaton.errors import (
    InvalidTaskData,
    MessageError,
    MessageTooOld,
    TaskCancelled,
    UnknownSchemaVersion,
)
from tracebaton.metrics import MessagingMetrics
from tracebaton.problems import Reporter
from tracebaton.propagation import MessageContext, Propagator
from tracebaton.queue.attempt import Attempt, Verdict, process_attributes
from tracebaton.queue.batch import Gatherer
from tracebaton.queue.calling import HandlerCalls
from tracebaton.queue.incoming import Incoming, Reader, identity_only
from tracebaton.queue.lease import Lease
from tracebaton.queue.outcomes import Outcomes
from tracebaton.queue.quarantine import Quarantine
from tracebaton.queue.retry import RetryPolicy
from tracebaton.queue.unfit import Unfit
from tracebaton.semconv import (
    EVENT_TASK_DUPLICATE,
    EVENT_TASK_STARTED,
    EVENT_WORKER_FAILURE,
    TASK_STATUS,
)
from tracebaton.tasks import ENDED, Backoff, Registry, Task, TaskStatus, TaskStore, TaskType
from tracebaton.w3c import parse_traceparent

__all__ = ["Delivery"]

_log = logging.getLogger("tracebaton.worker")


class Delivery:
    """Runs the handler that a message asks for and says what to do with the message."""

    def __init__(
        self,
        *,
        queue_name: str,
        reader: Reader,
        registry: Registry,
        store: TaskStore | None,
        tracer: Tracer,
        propagator: Propagator,
        reporter: Reporter,
        policy: RetryPolicy,
        calls: HandlerCalls,
        store_type: type[RequestStore] = RequestStore,
        quarantine: Quarantine | None = None,
        metrics: MessagingMetrics | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._metrics = metrics or MessagingMetrics()
        self._queue_name = queue_name
        self._reader = reader
        self._registry = registry
        self._store = store
        self._tracer = tracer
        self._propagator = propagator
        self._reporter = reporter
        self._policy = policy
        self._calls = calls
        self._store_type = store_type
        own = {field.name for field in fields(RequestStore)}
        self._custom = [field.name for field in fields(store_type) if field.name not in own]
        self._now = now
        self._outcomes = Outcomes(store=store, reporter=reporter, policy=policy, now=now)
        self._unfit = Unfit(self._outcomes, quarantine)
        self._gatherers: dict[str, Gatherer] = {}
        #: False while messages come whose tasks are in another store than ours.
        self.store_matches = True

    async def run(self, lease: Lease) -> Verdict:
        """Handle the message of *lease*; cancelling this discards the handler's result."""
        try:
            return await self._run(lease)
        except Exception as exc:  # our own mistake, not the handler's: it holds no message up
            fields = {"message_id": lease.message.message_id}
            _log.error(EVENT_WORKER_FAILURE, exc_info=exc, extra={"fields": fields})
            return self._outcomes.mistaken(lease.message.receive_count, exc)

    async def _run(self, lease: Lease) -> Verdict:
        incoming = self._reader.read(lease.message)
        extracted, links = self._extracted(incoming)
        origin = extracted.parent if not links else links[0].context
        request = self._request(incoming, extracted)
        with (
            self._reporter.isolated(),
            context.entered(request, lease.entered(extracted.context)),
            self._span(incoming, lease, links) as span,
            self._metrics.processing(self._queue_name) as measurement,
        ):
            ids = span.get_span_context()
            context.bind_trace(trace.format_trace_id(ids.trace_id) if ids.is_valid else None)
            lease.context = otel.get_current()
            attempt = Attempt(
                incoming=incoming,
                lease=lease,
                span=span,
                measurement=measurement,
                backoff=self._backoff(incoming),
                origin=origin if origin.is_valid else ids,
            )
            try:
                checked = await self._checked(attempt)
            except MessageError as exc:
                link = Link(origin) if origin.is_valid else None
                return await self._unfit.settle(attempt, exc, origin=link)
            except Exception as exc:  # the task store is away, for one
                return await self._outcomes.failed(attempt, exc)
            return await self._deliver(attempt, *checked)

    def _extracted(self, incoming: Incoming) -> tuple[MessageContext, Sequence[Link]]:
        """Return the context to start from, and a link where its trace is not to be continued."""
        whole = self._propagator.extract_message(
            incoming.carrier, aws_trace_header=incoming.trace_header, own=incoming.own
        )
        if incoming.event is None or incoming.event.propagate == "parent":
            return whole, ()
        identity = self._propagator.extract_message(
            identity_only(incoming.carrier), own=incoming.own
        )
        linked = incoming.event.propagate == "link" and whole.parent.is_valid
        return identity, (Link(whole.parent),) if linked else ()

    def _request(self, incoming: Incoming, extracted: MessageContext) -> RequestStore:
        """Return the request store that the message carries; who wrote it decides what of it."""
        event, said = incoming.event, extracted.fields
        correlation_id = said.get("correlation_id") or (event.correlation_id if event else None)
        store = self._store_type(
            correlation_id=context.valid_correlation_id(correlation_id),
            task_id=event.id if event else None,
            attempt=incoming.message.receive_count,
        )
        if not incoming.own or event is None:
            return store
        custom: dict[str, Any] = {name: said[name] for name in self._custom if name in said}
        return replace(store, user_id=said.get("user_id") or event.user_id, **custom)

    def _backoff(self, incoming: Incoming) -> Backoff:
        """Return the back-off of the message's task type, the worker's where it has none."""
        event = incoming.event
        if event is None or event.type not in self._registry:
            return self._policy
        return self._registry[event.type].retry or self._policy

    def _span(
        self, incoming: Incoming, lease: Lease, links: Sequence[Link]
    ) -> AbstractContextManager[Span]:
        return self._tracer.start_as_current_span(
            f"process {self._queue_name}",
            kind=SpanKind.CONSUMER,
            attributes=process_attributes(self._queue_name, incoming, lease, now=self._now()),
            links=links,
            record_exception=False,
            set_status_on_exception=False,
        )

    async def _checked(self, attempt: Attempt) -> tuple[TaskType, BaseModel]:
        """
        Return what to run.

        Raises:
            MessageError: The message cannot be handled as it is.
        """
        incoming = attempt.incoming
        if incoming.problem is not None:
            raise incoming.problem
        if not incoming.own:
            await self._adopt(attempt)
        kind = self._registry[attempt.event.type]
        self._check_age(kind, attempt)
        return kind, _validated(kind, attempt)

    async def _adopt(self, attempt: Attempt) -> None:
        """Make the task of a foreign message, which no producer of ours has saved."""
        if self._store is None:
            return
        ids, now = attempt.span.get_span_context(), self._now()
        task = Task(
            id=attempt.event.id,
            type=attempt.event.type,
            correlation_id=context.current().correlation_id,
            trace_id=trace.format_trace_id(ids.trace_id) if ids.is_valid else None,
            created_at=now,
            updated_at=now,
        )
        await self._store.create(task, exist_ok=True)

    def _check_age(self, kind: TaskType, attempt: Attempt) -> None:
        since = attempt.incoming.enqueued_at()
        if kind.max_age is None or since is None:
            return
        age = self._now() - since - attempt.event.delay_seconds
        if age > kind.max_age:
            raise MessageTooOld(
                f"The message waited {round(age)} s, tasks of type {kind.name!r} may wait"
                f" {kind.max_age:g} s."
            )

    async def _deliver(self, attempt: Attempt, kind: TaskType, data: BaseModel) -> Verdict:
        try:
            refused = await self._start(attempt)
            if refused is not None:
                return refused
            _log.info(EVENT_TASK_STARTED, extra={"fields": {"task_type": kind.name}})
            started = time.perf_counter()
            result = to_jsonable_python(await self._result(attempt, kind, data))
            if attempt.lease.state != "held":  # it was cancelled, and would not be
                return Verdict("leave")
            return await self._outcomes.succeeded(attempt, result, time.perf_counter() - started)
        except TaskCancelled:
            return self._outcomes.cancelled(attempt)
        except Exception as exc:  # the worker's edge: whatever a handler raises becomes an outcome
            if attempt.lease.state != "held":
                return Verdict("leave")
            return await self._outcomes.failed(attempt, exc)

    async def _start(self, attempt: Attempt) -> Verdict | None:
        if self._store is None:
            return None
        lease = attempt.lease
        task = await self._store.start(
            attempt.event.id,
            attempt=attempt.number,
            owner=attempt.owner,
            lease_until=self._now() + lease.deadline - time.monotonic(),
            traceparent=attempt.traceparent,
            sent_at=attempt.incoming.sent_at,
        )
        self.store_matches = task is not None
        if task is None:
            fields = {"remedy": "API and worker need the same TRACEBATON_STORE"}
            _log.error("task.unknown", extra={"fields": fields})
            return Verdict("retry", attempt.delay)
        if task.status in ENDED or task.owner != attempt.owner:
            return self._duplicate(attempt, task)
        lease.task_id = task.id
        # A retry follows the attempt before it, and so does what was redriven from the DLQ.
        if (previous := parse_traceparent([task.previous or ""])) is not None:
            attempt.span.add_link(previous)
        return None

    def _duplicate(self, attempt: Attempt, task: Task) -> Verdict:
        """
        Settle a second copy of a message, whose task has ended or runs by the first one.

        A copy of what runs looks again when the first one's lease would be over, each time later.
        On its last attempt it goes: the first one is in the queue and comes again if it fails. A
        dead one stays for SQS to move.
        """
        attempt.span.set_attribute(TASK_STATUS, task.status.value)
        _log.info(EVENT_TASK_DUPLICATE, extra={"fields": {"status": task.status.value}})
        if task.status is TaskStatus.DEAD:
            return Verdict("retry", attempt.delay)
        if task.status is not TaskStatus.RUNNING or self._policy.is_last(attempt.receives):
            return Verdict("delete")
        left = (task.lease_until or 0.0) - self._now()
        return Verdict("retry", max(1, math.ceil(left)) * 2 ** (attempt.receives - 1))

    async def _result(self, attempt: Attempt, kind: TaskType, data: BaseModel) -> Any:
        gather = None
        if kind.batch is not None:
            gather = partial(self._gatherer(kind, kind.batch).run, origin=Link(attempt.origin))
        return await self._calls.call(
            kind, data, task_id=attempt.event.id, attempt=attempt.number, gather=gather
        )

    def _gatherer(self, kind: TaskType, most: int) -> Gatherer:
        if kind.name not in self._gatherers:
            self._gatherers[kind.name] = Gatherer(
                kind,
                queue_name=self._queue_name,
                tracer=self._tracer,
                reporter=self._reporter,
                calls=self._calls,
                most=min(most, self._calls.most),
            )
        return self._gatherers[kind.name]


def _validated(kind: TaskType, attempt: Attempt) -> BaseModel:
    event = attempt.event
    if attempt.incoming.own and event.schema_version != kind.version:
        raise UnknownSchemaVersion(
            f"The message has schema version {event.schema_version!r},"
            f" this worker knows {kind.version!r} of {kind.name!r}."
        )
    try:
        return kind.model.model_validate(event.data)
    except ValidationError as exc:
        fields = ", ".join(".".join(map(str, error["loc"])) for error in exc.errors())
        raise InvalidTaskData(
            f"The data does not fit the model of {kind.name!r}: {fields}."
        ) from exc

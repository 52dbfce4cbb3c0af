"""
One delivery of one message, from its body to a verdict.

In this order: read, extract, attach, ``process`` span, check, start in the task store, handler
under its deadline, outcome.
"""

import logging
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import Link, Tracer
from pydantic import BaseModel, ValidationError
from pydantic_core import to_jsonable_python

from tracebaton import context
from tracebaton.errors import (
    InvalidTaskData,
    MessageError,
    MessageTooOld,
    TaskCancelled,
    UnknownSchemaVersion,
)
from tracebaton.events import say
from tracebaton.problems import Reporter
from tracebaton.queue.arrival import Arrivals
from tracebaton.queue.attempt import Attempt, Verdict
from tracebaton.queue.batch import Gatherer
from tracebaton.queue.calling import HandlerCalls
from tracebaton.queue.lease import Lease
from tracebaton.queue.outcomes import Outcomes
from tracebaton.queue.quarantine import Quarantine
from tracebaton.queue.retry import RetryPolicy
from tracebaton.queue.unfit import Unfit
from tracebaton.semconv import (
    EVENT_TASK_DUPLICATE,
    EVENT_TASK_STARTED,
    EVENT_WORKER_FAILURE,
)
from tracebaton.tasks import ENDED, Registry, Task, TaskStatus, TaskStore, TaskType
from tracebaton.w3c import parse_traceparent

__all__ = ["Delivery"]

_log = logging.getLogger("tracebaton.worker")


class Delivery:
    """Runs the handler that a message asks for and says what to do with the message."""

    def __init__(
        self,
        *,
        arrivals: Arrivals,
        registry: Registry,
        store: TaskStore | None,
        tracer: Tracer,
        reporter: Reporter,
        policy: RetryPolicy,
        calls: HandlerCalls,
        quarantine: Quarantine | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._arrivals = arrivals
        self._registry = registry
        self._store = store
        self._tracer = tracer
        self._reporter = reporter
        self._policy = policy
        self._calls = calls
        self._now = now
        self._outcomes = Outcomes(store=store, reporter=reporter, policy=policy, now=now)
        self._unfit = Unfit(self._outcomes, quarantine)
        self._gatherers: dict[str, Gatherer] = {}
        #: False while messages come whose tasks are in another store than ours.
        self.store_matches: bool = True

    async def run(self, lease: Lease) -> Verdict:
        """Handle the message of *lease*; cancelling this discards the handler's result."""
        try:
            return await self._arrivals.run(lease, self._run)
        except Exception as exc:  # our own mistake, not the handler's: it holds no message up
            fields = {"message_id": lease.message.message_id}
            _log.error(EVENT_WORKER_FAILURE, exc_info=exc, extra={"fields": fields})
            return self._outcomes.mistaken(lease.message.receive_count, exc)

    async def _run(self, attempt: Attempt) -> Verdict:
        try:
            checked = await self._checked(attempt)
        except MessageError as exc:
            return await self._unfit.settle(attempt, exc)
        except Exception as exc:  # the task store is away, for one
            return await self._outcomes.failed(attempt, exc)
        return await self._deliver(attempt, *checked)

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
        if kind.max_age is None or (since := attempt.incoming.enqueued_at()) is None:
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
            say(_log, EVENT_TASK_STARTED, {"task_type": kind.name}, clean=True)
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
        attempt.became(task.status, counted="duplicate")
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
            origin = attempt.origin or attempt.span.get_span_context()
            gather = partial(self._gatherer(kind, kind.batch).run, origin=Link(origin))
        return await self._calls.call(
            kind, data, task_id=attempt.event.id, attempt=attempt.number, gather=gather
        )

    def _gatherer(self, kind: TaskType, most: int) -> Gatherer:
        if kind.name not in self._gatherers:
            self._gatherers[kind.name] = Gatherer(
                kind,
                queue_name=self._arrivals.queue_name,
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
        where = f": {fields}" if fields else ""  # the whole is wrong where it is no object
        raise InvalidTaskData(f"The data does not fit the model of {kind.name!r}{where}.") from exc

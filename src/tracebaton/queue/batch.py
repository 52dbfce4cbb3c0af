"""
Batch handlers: messages of one type that one call of the handler is for, each with an outcome of
its own.

Each message is a delivery like any other, with its own ``process`` span in its own trace, its own
lease and its own outcome. Where the others call their handler, these meet: the first one waits a
moment for more, then one call is made for all, in a ``batch`` span that links them.
"""

import asyncio
import contextvars
import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Tracer
from pydantic import BaseModel

from tracebaton import context, problems
from tracebaton.context import RequestStore
from tracebaton.problems import Reporter
from tracebaton.queue.calling import HandlerCalls
from tracebaton.queue.lease import HandlerLease, lease_of
from tracebaton.semconv import (
    AWS_SQS,
    MESSAGING_BATCH_COUNT,
    MESSAGING_DESTINATION,
    MESSAGING_OPERATION_NAME,
    MESSAGING_OPERATION_TYPE,
    MESSAGING_SYSTEM,
    OP_QUEUE_BATCH,
    SENTRY_OP,
    TASK_TYPE,
)
from tracebaton.tasks import TaskType

__all__ = ["Batch", "Gatherer"]

Model = TypeVar("Model", bound=BaseModel)


class Batch(list[Model]):
    """
    What a batch handler gets: the data of several messages, in the order of their arrival.

    The handler returns None, or a list with what came of each: a result, or an exception, which
    counts as if that message's handler had raised it. What it raises counts for all.

    Attributes:
        stores: The request store of each message: its task, its user, its attempt.
        leases: The lease of each message.
    """

    def __init__(self, data: Sequence[Model], contexts: Sequence[Context]) -> None:
        super().__init__(data)
        self._contexts = contexts
        self.stores: Sequence[RequestStore] = [context.in_context(one) for one in contexts]
        leases = [lease_of(one) for one in contexts]
        self.leases: Sequence[HandlerLease] = [one for one in leases if one is not None]

    def entered(self, index: int) -> AbstractContextManager[None]:
        """Act for one message for the length of a ``with`` block: in its trace, by its store."""
        return context.resumed(self._contexts[index])


@dataclass(slots=True, eq=False)
class _Member:
    """One message: where it is, and what is waited for."""

    data: BaseModel
    context: Context
    origin: Link
    done: "asyncio.Future[Any]"
    call: "asyncio.Task[None] | None" = field(default=None)


class Gatherer:
    """Gathers the messages of one task type on one queue."""

    def __init__(
        self,
        kind: TaskType,
        *,
        queue_name: str,
        tracer: Tracer,
        reporter: Reporter,
        calls: HandlerCalls,
        most: int,
    ) -> None:
        """
        Set whose messages.

        Args:
            most: Messages of one call; more than are held at once would wait for nothing.
        """
        self._kind = kind
        self._queue_name = queue_name
        self._tracer = tracer
        self._reporter = reporter
        self._handlers = calls
        self._most = most
        self._waiting: list[_Member] = []
        self._calls: dict[asyncio.Task[None], set[_Member]] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, data: BaseModel, origin: Link) -> Any:
        """Return what the handler says of *data*, or raise it; *origin* is where it came from."""
        loop = asyncio.get_running_loop()
        member = _Member(data, otel.get_current(), origin, loop.create_future())
        self._waiting.append(member)
        if len(self._waiting) >= self._most:
            self._go()
        elif len(self._waiting) == 1:
            self._timer = loop.call_later(self._kind.batch_seconds, self._go)
        try:
            return await member.done
        except asyncio.CancelledError:
            self._leave(member)
            raise

    def _go(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        members, self._waiting = self._waiting, []
        if not members:  # they have all left
            return
        # A context of its own: what a message's handler left in its context is not the batch's.
        call = asyncio.create_task(
            self._call(members), name=f"batch {self._kind.name}", context=contextvars.Context()
        )
        self._calls[call] = set(members)
        call.add_done_callback(self._calls.pop)
        for member in members:
            member.call = call

    def _leave(self, member: _Member) -> None:
        """Go on without *member*, whose lease is lost or given back; without any, not at all."""
        if member.call is None:
            self._waiting.remove(member)
            return
        rest = self._calls.get(member.call, set())
        rest.discard(member)
        if not rest:
            member.call.cancel()

    async def _call(self, members: Sequence[_Member]) -> None:
        with (
            self._reporter.isolated(),
            context.entered(RequestStore()),
            self._span(members) as span,
        ):
            ids = span.get_span_context()
            context.bind_trace(trace.format_trace_id(ids.trace_id) if ids.is_valid else None)
            outcomes = await self._outcomes(members, span)
        for member, outcome in zip(members, outcomes, strict=True):
            if member.done.done():  # its lease was lost meanwhile: its result is discarded
                continue
            if isinstance(outcome, Exception):
                member.done.set_exception(outcome)
            else:
                member.done.set_result(outcome)

    def _span(self, members: Sequence[_Member]) -> AbstractContextManager[Span]:
        return self._tracer.start_as_current_span(
            f"batch {self._queue_name}",
            kind=SpanKind.CONSUMER,
            attributes={
                MESSAGING_SYSTEM: AWS_SQS,
                MESSAGING_DESTINATION: self._queue_name,
                MESSAGING_OPERATION_NAME: "batch",
                MESSAGING_OPERATION_TYPE: "process",
                MESSAGING_BATCH_COUNT: len(members),
                TASK_TYPE: self._kind.name,
                SENTRY_OP: OP_QUEUE_BATCH,  # its messages are counted one by one already
            },
            links=[member.origin for member in members],
            record_exception=False,
            set_status_on_exception=False,
        )

    async def _outcomes(self, members: Sequence[_Member], span: Span) -> Sequence[Any]:
        ids = span.get_span_context()
        for member in members:
            if ids.is_valid:
                trace.get_current_span(member.context).add_link(ids)
        batch = Batch([member.data for member in members], [one.context for one in members])
        try:
            returned = await self._handlers.together(self._kind, batch)
            outcomes = _of_each(returned, len(members), self._kind.name)
        except Exception as exc:  # the worker's edge: what it raises is each message's outcome
            problems.record(exc, problems.outcome_of(exc), span)
            outcomes = [exc] * len(members)
        return _apart(outcomes)


def _of_each(returned: Any, count: int, name: str) -> Sequence[Any]:
    if returned is None:
        return [None] * count
    if not isinstance(returned, list | tuple) or len(returned) != count:
        said = f"{len(returned)} outcomes" if isinstance(returned, list | tuple) else "no list"
        raise ValueError(
            f"The handler of {name!r} got {count} messages and returned {said}:"
            " return None, or a list with one for each"
        )
    return returned


def _apart(outcomes: Sequence[Any]) -> Sequence[Any]:
    """Return *outcomes* with no exception twice: each message's is recorded and reported alone."""
    seen: set[int] = set()
    return [_fresh(one, seen) if isinstance(one, BaseException) else one for one in outcomes]


def _fresh(exc: BaseException, seen: set[int]) -> Exception:
    if not isinstance(exc, Exception) or isinstance(exc, StopIteration):
        # A future refuses these, or takes them for the worker's own doing.
        failure = RuntimeError(f"The handler returned {type(exc).__qualname__} as an outcome.")
        failure.__cause__ = exc
        return failure
    if id(exc) not in seen:
        seen.add(id(exc))
        return exc
    try:
        twin = copy.copy(exc)
    except Exception:  # it cannot be made again from its arguments
        return exc
    twin.__cause__, twin.__context__ = exc.__cause__, exc.__context__
    twin.__suppress_context__ = exc.__suppress_context__
    return twin.with_traceback(exc.__traceback__)

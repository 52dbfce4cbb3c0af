"""
Redrive and purge: letters leave the DLQ or the quarantine, back to their queue or for good.

A message goes back as it was: the same bytes, attributes, group and trace, so the same task. Its
task waits again before the copy is sent, and the original is deleted after SQS has confirmed the
copy. Killed in between, a run leaves at worst a second copy, which the worker recognises by its
task; the DLQ itself says what is left, so the next run goes on where this one ended.

Why not StartMessageMoveTask: it moves every message, tells no task store, makes no span that shows
the redrive in the trace, and knows no quarantine. Who starts one in the AWS console loses nothing:
the worker runs a ``dead`` task again when its message comes back, and links the old attempt.
"""

from collections.abc import Sequence
from typing import Any

from opentelemetry import context as otel
from opentelemetry.trace import Link, Span, SpanKind, Tracer

from tracebaton import context
from tracebaton.context import RequestStore
from tracebaton.errors import QueueUnavailable, TracebatonError
from tracebaton.propagation import Propagator
from tracebaton.queue.batches import send_all
from tracebaton.queue.dead import DeadLetters
from tracebaton.queue.letters import Letter
from tracebaton.queue.message import Outgoing, Sent, byte_size
from tracebaton.queue.sending import ended
from tracebaton.queue.sqs import Queue, Sqs
from tracebaton.semconv import (
    AWS_SQS,
    MESSAGING_BODY_SIZE,
    MESSAGING_DESTINATION,
    MESSAGING_MESSAGE_ID,
    MESSAGING_OPERATION_NAME,
    MESSAGING_OPERATION_TYPE,
    MESSAGING_SYSTEM,
    TASK_ID,
    TASK_TYPE,
)
from tracebaton.tasks import ENDED, TaskStatus, TaskStore
from tracebaton.w3c import parse_traceparent

__all__ = ["Purge", "Redrive"]


class Redrive:
    """Sends letters back to the queue that they came from."""

    def __init__(
        self,
        sqs: Sqs,
        target: Queue,
        *,
        store: TaskStore | None,
        tracer: Tracer,
        propagator: Propagator,
    ) -> None:
        self._sqs = sqs
        self._target = target
        self._store = store
        self._tracer = tracer
        self._propagator = propagator
        self._sent: set[str] = set()

    def refusal(self, letter: Letter) -> str | None:
        """Return why *letter* cannot go back, None where it can."""
        if letter.origin not in (None, self._target.name):
            return f"it came from the queue {letter.origin}: set TRACEBATON_QUEUE_URL to that"
        task = letter.task
        if task is not None and task.status in ENDED - {TaskStatus.FAILED, TaskStatus.DEAD}:
            return f"its task has {task.status.value}, a worker would delete the copy"
        if task is None and self._store is not None and letter.incoming.own:
            return "the task store does not know its task: set TRACEBATON_STORE to the workers'"
        return None

    def new(self, letter: Letter) -> bool:
        """Tell whether *letter* was here before this run: what fails again comes back."""
        return letter.message.message_id not in self._sent

    async def __call__(self, letters: Sequence[Letter]) -> Sequence[str | None]:
        """Send copies of *letters* and return what went wrong with each."""
        reopened = [await self._reopened(letter) for letter in letters]
        spans = [self._opened(letter) for letter in letters]
        outgoing = [self._copy(letter) for letter in letters]
        try:
            url = await self._target.url()
            sent = await send_all(self._sqs, url, outgoing, ordered=self._target.fifo)
        except BaseException as exc:
            sent = [Sent(None, QueueUnavailable()) for _ in letters]
            if not isinstance(exc, TracebatonError):
                raise
        finally:
            for span, one in zip(spans, sent, strict=True):
                _end(span, one)
        for letter, one, task in zip(letters, sent, reopened, strict=True):
            if one.message_id is not None:
                self._sent.add(one.message_id)
            elif task:
                await self._closed(letter)
        return [None if one.message_id else _said(one.error) for one in sent]

    async def _reopened(self, letter: Letter) -> bool:
        """Let the task wait again before its message can reach a worker, who would delete it."""
        if self._store is None or letter.task is None:
            return False
        return await self._store.reopen(letter.task.id)

    async def _closed(self, letter: Letter) -> None:
        """End the task again as it had ended: its message stays where it is."""
        task = letter.task
        assert self._store is not None
        assert task is not None  # it was reopened
        await self._store.finish(task.id, task.status, attempt=task.attempt, error=task.error)

    def _copy(self, letter: Letter) -> Outgoing:
        message, fifo = letter.message, self._target.fifo
        return Outgoing(
            body=message.body,
            attributes=message.every,
            group_id=letter.group_id or (message.message_id if fifo else None),
            # Not the original's: within five minutes SQS would drop the copy.
            deduplication_id=f"redrive-{message.message_id}" if fifo else None,
            trace_header=letter.incoming.trace_header,
        )

    def _opened(self, letter: Letter) -> Span:
        """Start the span that shows the redrive in the trace, with a link to the last attempt."""
        incoming, task = letter.incoming, letter.task
        extracted = self._propagator.extract_message(
            incoming.carrier, aws_trace_header=incoming.trace_header, own=incoming.own
        )
        last = parse_traceparent([(task.traceparent if task else None) or ""])
        request = RequestStore(
            correlation_id=context.valid_correlation_id(task.correlation_id) if task else None,
            user_id=task.user_id if task else None,
            task_id=letter.task_id,
        )
        known = {TASK_TYPE: letter.type, TASK_ID: letter.task_id}
        attributes: dict[str, Any] = {
            MESSAGING_SYSTEM: AWS_SQS,
            MESSAGING_DESTINATION: self._target.name,
            MESSAGING_OPERATION_NAME: "send",
            MESSAGING_OPERATION_TYPE: "send",
            MESSAGING_BODY_SIZE: byte_size(letter.message.body),
            **{name: value for name, value in known.items() if value is not None},
        }
        with context.entered(request, extracted.context):
            return self._tracer.start_span(
                f"send {self._target.name}",
                context=otel.get_current(),
                kind=SpanKind.PRODUCER,
                attributes=attributes,
                links=() if last is None else (Link(last),),
                record_exception=False,
                set_status_on_exception=False,
            )


class Purge:
    """Lets letters go for good; a task that nobody has ended is ended first."""

    def __init__(self, dead: DeadLetters | None) -> None:
        self._dead = dead

    def refusal(self, letter: Letter) -> str | None:
        """Return None: whatever is meant may go."""
        return None

    def new(self, letter: Letter) -> bool:
        """Return true: nothing comes back."""
        return True

    async def __call__(self, letters: Sequence[Letter]) -> Sequence[str | None]:
        """End the tasks that *letters* would leave ``running`` or ``queued`` for ever."""
        found = [self._dead and await self._dead.bury(letter.message) for letter in letters]
        return ["its task may still be running" if one == "leased" else None for one in found]


def _end(span: Span, sent: Sent) -> None:
    if sent.message_id is not None:
        span.set_attribute(MESSAGING_MESSAGE_ID, sent.message_id)
    ended(span, sent.error)


def _said(error: TracebatonError | None) -> str:
    return str((error and error.__cause__) or error or QueueUnavailable())

"""
Messages that cannot be handled as they are: to quarantine, and out of the queue only after that.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tracebaton import problems
from tracebaton.errors import MessageError, TracebatonError, UntrustedMessage
from tracebaton.problems import Outcome
from tracebaton.queue.attempt import Attempt, Verdict
from tracebaton.queue.outcomes import Outcomes
from tracebaton.queue.quarantine import Quarantine
from tracebaton.semconv import (
    EVENT_MESSAGE_NOT_QUARANTINED,
    EVENT_MESSAGE_QUARANTINED,
    EVENT_TASK_DUPLICATE,
)
from tracebaton.tasks import ENDED, Task, TaskStatus

__all__ = ["Unfit"]

_NO_QUEUE = "Set TRACEBATON_QUARANTINE_URL, so that such messages have somewhere to go."

_NOT_SIGNED = (
    "Nobody vouches for it, so its task waits: give its producer TRACEBATON_MESSAGE_KEY and submit"
    " it again, or redrive the message once the workers have the key that signed it."
)

_log = logging.getLogger("tracebaton.worker")


class Unfit:
    """Says what becomes of a message that no handler can be given."""

    def __init__(self, outcomes: Outcomes, quarantine: Quarantine | None) -> None:
        self._outcomes = outcomes
        self._quarantine = quarantine

    async def settle(self, attempt: Attempt, exc: MessageError) -> Verdict:
        """
        Copy the message to quarantine, end its task, report it; without a copy it stays.
        """
        outcome = replace(problems.outcome_of(exc), level="error", reported=True)
        try:
            task = await self._task(attempt, exc)
        except TracebatonError as failure:
            return await self._kept(attempt, exc, outcome, str(failure.__cause__ or failure))
        if task is not None and _settled(task, attempt, exc):
            attempt.became(task.status, counted="duplicate")
            _log.info(EVENT_TASK_DUPLICATE, extra={"fields": {"status": task.status.value}})
            return Verdict("delete")
        problems.record(exc, outcome, attempt.span)
        attempt.measurement.error_type = outcome.error_type
        if self._quarantine is None:
            return await self._kept(attempt, exc, outcome, _NO_QUEUE, task)
        try:
            copy_id = await self._quarantine.send(attempt.incoming, exc, origin=attempt.origin)
        except TracebatonError as failure:
            reason = str(failure.__cause__ or failure)
            return await self._kept(attempt, exc, outcome, reason, task)
        where = {"quarantine": self._quarantine.queue.name, "quarantine_message_id": copy_id}
        return await self._moved(attempt, exc, outcome, task, where)

    async def _moved(
        self,
        attempt: Attempt,
        exc: MessageError,
        outcome: Outcome,
        task: Task | None,
        where: Mapping[str, str],
    ) -> Verdict:
        if task is not None and not await self._outcomes.written(self._fail(attempt, outcome)):
            # A second copy in quarantine is better than a task that nobody ever ends.
            return Verdict("retry", attempt.delay)
        attempt.measurement.status = "quarantined"
        fields = {**self._fields(attempt, outcome), **where}
        self._report(attempt, exc, outcome, fields)
        _log.error(EVENT_MESSAGE_QUARANTINED, extra={"fields": fields})
        return Verdict("delete")

    async def _kept(
        self,
        attempt: Attempt,
        exc: MessageError,
        outcome: Outcome,
        reason: str,
        task: Task | None = None,
    ) -> Verdict:
        """Leave the message where it is; after the last attempt SQS moves it to the DLQ."""
        last = self._outcomes.policy.is_last(attempt.receives)
        delay = 0 if last else attempt.delay
        fields = self._fields(attempt, outcome) | {"reason": reason, "retry_in_seconds": delay}
        if last:
            self._report(attempt, exc, outcome, fields)
            if task is not None:
                await self._outcomes.written(self._fail(attempt, outcome, TaskStatus.DEAD))
        _log.error(EVENT_MESSAGE_NOT_QUARANTINED, extra={"fields": fields})
        return Verdict("retry", delay)

    async def _task(self, attempt: Attempt, exc: MessageError) -> Task | None:
        """
        Return the task that the message may end.

        None where nobody vouches for the message: it may have taken the id of another's task.
        """
        store, event = self._outcomes.store, attempt.incoming.event
        if store is None or event is None or isinstance(exc, UntrustedMessage):
            return None
        return await store.get(event.id)

    async def _fail(
        self, attempt: Attempt, outcome: Outcome, status: TaskStatus = TaskStatus.FAILED
    ) -> None:
        store, task_id = self._outcomes.store, attempt.event.id
        assert store is not None  # the task came from it
        # Only through `running` does a task belong to this attempt; a copy of it may run already.
        task = await store.start(
            task_id,
            attempt=attempt.number,
            owner=attempt.owner,
            traceparent=attempt.traceparent,
            sent_at=attempt.incoming.sent_at,
        )
        if task is None or task.owner != attempt.owner:
            return
        error = self._outcomes.problem(attempt, outcome)
        await store.finish(task_id, status, attempt=attempt.number, error=error)
        attempt.became(status)

    def _fields(self, attempt: Attempt, outcome: Outcome) -> dict[str, Any]:
        event = attempt.incoming.event
        return {
            "message_id": attempt.incoming.message.message_id,
            "task_type": event.type if event else None,
            "code": outcome.code,
            "detail": outcome.detail,
            **({"remedy": _NOT_SIGNED} if outcome.code == UntrustedMessage.code else {}),
        }

    def _report(
        self, attempt: Attempt, exc: MessageError, outcome: Outcome, fields: dict[str, Any]
    ) -> None:
        event_id = self._outcomes.report(attempt, exc, outcome)
        if event_id is not None:
            fields["sentry_event_id"] = event_id


def _settled(task: Task, attempt: Attempt, exc: MessageError) -> bool:
    """
    Tell whether the message is a copy of one that *task* has ended with.

    Then it was handled, cancelled or moved to quarantine already. A dead task's message came back
    from the DLQ and must not be lost; nor must another sender's that has the task's id by chance.
    """
    if task.status not in ENDED - {TaskStatus.DEAD}:
        return False
    if task.owner in (None, attempt.owner):
        return True
    return (task.error or {}).get("code") == exc.code

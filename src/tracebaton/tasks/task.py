"""
The task resource and its allowed transitions.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final

__all__ = [
    "ENDED",
    "FIELDS",
    "STATUSES",
    "TRANSITIONS",
    "Task",
    "TaskStatus",
    "restored",
    "rfc3339",
]


class TaskStatus(StrEnum):
    """Where a task stands; the last four are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    DEAD = "dead"
    CANCELLED = "cancelled"


#: Each by the text that stands for it: a tenth of what a call of the class takes.
STATUSES: Mapping[str, TaskStatus] = {status.value: status for status in TaskStatus}

#: The states a task never leaves.
ENDED = frozenset({TaskStatus.SUCCEEDED, TaskStatus.FAILED, TaskStatus.DEAD, TaskStatus.CANCELLED})

#: From where each state may be reached. A retried task goes back to ``queued``, a worker that was
#: killed leaves ``running``, which its next delivery enters again, and a message that was redriven
#: from the DLQ runs its ``dead`` task once more.
TRANSITIONS: Mapping[TaskStatus, frozenset[TaskStatus]] = {
    TaskStatus.QUEUED: frozenset(
        {TaskStatus.QUEUED, TaskStatus.RUNNING, TaskStatus.FAILED, TaskStatus.DEAD}
    ),
    TaskStatus.RUNNING: frozenset({TaskStatus.QUEUED, TaskStatus.RUNNING, TaskStatus.DEAD}),
    TaskStatus.SUCCEEDED: frozenset({TaskStatus.RUNNING}),
    TaskStatus.FAILED: frozenset({TaskStatus.QUEUED, TaskStatus.RUNNING}),
    TaskStatus.DEAD: frozenset({TaskStatus.QUEUED, TaskStatus.RUNNING}),
    TaskStatus.CANCELLED: frozenset({TaskStatus.QUEUED, TaskStatus.RUNNING}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """
    One unit of work and what became of it.

    Attributes:
        attempt: The delivery that runs or ran last, 0 before the first.
        progress: 0 to 100, of the latest attempt.
        progress_message: What the handler said with it.
        result: What the handler returned, as JSON.
        error: The problem document of the failure.
        failures: One entry a failed attempt: ``attempt``, ``code``, ``error_type``, ``retry_at``.
        created_at: Seconds since the epoch, like the other times.
        owner: The message that runs it, None where nobody said.
        lease_until: When the owner's lease ends, unless it is renewed.
        traceparent: The span of the latest attempt.
        previous: The span of the attempt before that one.
        changes: How many entries its history has.
    """

    id: str
    type: str
    status: TaskStatus = TaskStatus.QUEUED
    user_id: str | None = None
    correlation_id: str | None = None
    trace_id: str | None = None
    parent_task_id: str | None = None
    attempt: int = 0
    progress: int = 0
    progress_message: str | None = None
    result: Any = None
    error: Mapping[str, Any] | None = None
    failures: tuple[Mapping[str, Any], ...] = ()
    created_at: float
    updated_at: float
    started_at: float | None = None
    ended_at: float | None = None
    owner: str | None = None
    lease_until: float | None = None
    traceparent: str | None = None
    previous: str | None = None
    changes: int = 0

    def resource(self, *, trace_url: str | None = None) -> dict[str, Any]:
        """
        Return the task as ``GET /v1/tasks/{id}`` shows it.

        Args:
            trace_url: Where a person can look at the trace, None where no viewer is known.
        """
        return {
            "task_id": self.id,
            "type": self.type,
            "status": self.status.value,
            "attempt": self.attempt,
            "progress": self.progress,
            "progress_message": self.progress_message,
            "result": self.result,
            "error": self.error,
            "user_id": self.user_id,
            "correlation_id": self.correlation_id,
            "trace_id": self.trace_id,
            "parent_task_id": self.parent_task_id,
            "created_at": rfc3339(self.created_at),
            "updated_at": rfc3339(self.updated_at),
            "started_at": rfc3339(self.started_at),
            "ended_at": rfc3339(self.ended_at),
            "links": {
                "self": f"/v1/tasks/{self.id}",
                "events": f"/v1/tasks/{self.id}/events",
                "trace": trace_url,
            },
        }


#: The names of a task's fields, in their order.
FIELDS: Final = tuple(Task.__dataclass_fields__)
#: What writes each of them into its slot.
_WRITE: Final = tuple(getattr(Task, name).__set__ for name in FIELDS)


def restored(values: Iterable[Any]) -> Task:
    """
    Return the task of *values*, one for each of `FIELDS`, as a store kept them.

    In a third of the time of the class's own ``__init__``, which asks of each field whether the
    class is frozen; a page has up to a thousand tasks.
    """
    task = object.__new__(Task)
    for write, value in zip(_WRITE, values, strict=True):
        write(task, value)
    return task


def rfc3339(seconds: float | None) -> str | None:
    """Return *seconds* since the epoch as RFC 3339 in UTC with milliseconds."""
    return None if seconds is None else _moment(seconds)


@lru_cache(maxsize=256)  # one moment stands in several places of a task and its message
def _moment(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

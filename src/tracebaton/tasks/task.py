"""
The task resource, its allowed transitions and the protocol every task store keeps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Protocol

__all__ = ["ENDED", "TRANSITIONS", "Task", "TaskStatus", "TaskStore", "rfc3339"]


class TaskStatus(StrEnum):
    """Where a task stands; the last four are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    DEAD = "dead"
    CANCELLED = "cancelled"


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
        progress: 0 to 100.
        result: What the handler returned, as JSON.
        error: The problem document of the failure.
        failures: One entry a failed attempt: ``attempt``, ``code``, ``error_type``, ``retry_at``.
        created_at: Seconds since the epoch, like the other times.
        owner: The message that runs it, None where nobody said.
        lease_until: When the owner's lease ends, unless it is renewed.
        traceparent: The span of the latest attempt.
        previous: The span of the attempt before that one.
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


def rfc3339(seconds: float | None) -> str | None:
    """Return *seconds* since the epoch as RFC 3339 in UTC with milliseconds."""
    if seconds is None:
        return None
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TaskStore(Protocol):
    """
    Where tasks are kept.

    Every write is conditional on the state it starts from (`TRANSITIONS`), so that two workers or a
    late one cannot overwrite each other. All methods raise ``StoreUnavailable`` when the store is
    away.
    """

    async def create(self, task: Task, *, exist_ok: bool = False) -> None:
        """Save a new task; with *exist_ok* one that is there already stays as it is."""
        ...

    async def get(self, task_id: str) -> Task | None:
        """Return the task, None if there is none."""
        ...

    async def start(
        self,
        task_id: str,
        *,
        attempt: int,
        owner: str | None = None,
        lease_until: float | None = None,
        traceparent: str | None = None,
    ) -> Task | None:
        """
        Enter ``running`` for *attempt* and return the task as it is now, None if there is none.

        Two kinds are returned unchanged, because there is nothing to run: an ended task, and one
        that another *owner* runs until a ``lease_until`` to come. The same owner may start again:
        SQS handed its message out once more, so the worker before is gone. A ``dead`` task starts
        again too, unless it is the owner's next attempt: that message is on its way to the DLQ.
        The ``traceparent`` there was becomes ``previous``.
        """
        ...

    async def reopen(self, task_id: str) -> bool:
        """Let a ``failed`` or ``dead`` task wait for its message again; False for any other."""
        ...

    async def renew(self, owners: Mapping[str, str], *, lease_until: float) -> None:
        """Let the leases of running tasks, each with its owner, end at *lease_until*."""
        ...

    async def progress(self, task_id: str, *, attempt: int, percent: int) -> None:
        """Raise the progress of the running *attempt*; a lower value is ignored."""
        ...

    async def retry(self, task_id: str, *, attempt: int, failure: Mapping[str, Any] | None) -> bool:
        """
        Go back to ``queued`` after *attempt* failed; False if it is no longer ours.

        Without a *failure* the attempt was only given back, as a worker does when it stops.
        """
        ...

    async def finish(
        self,
        task_id: str,
        status: TaskStatus,
        *,
        attempt: int,
        result: Any = None,
        error: Mapping[str, Any] | None = None,
    ) -> bool:
        """
        End the task, once; False if it had ended or a newer attempt runs it.

        Raises:
            ResultTooLarge: *result* is over 256 KiB as JSON.
        """
        ...

    async def forget(self, task_id: str) -> None:
        """Remove a queued task whose message was never sent."""
        ...

    async def check(self) -> None:
        """Raise ``StoreUnavailable`` unless a read works."""
        ...

    async def close(self) -> None:
        """Release files and threads."""
        ...

"""
What a task may become: pure functions, each with the entries that the history gets.

The table writes their answer only if the task is still what they saw.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from tracebaton.tasks.history import OUTCOMES
from tracebaton.tasks.store import HISTORY_LIMIT, ChangeKind
from tracebaton.tasks.task import TRANSITIONS, Task, TaskStatus

__all__ = [
    "Step",
    "abandon",
    "cancel",
    "finish",
    "forget",
    "progress",
    "reap",
    "reopen",
    "retry",
    "start",
]


class Step(NamedTuple):
    """What a task becomes, and what its history gets."""

    task: Task
    kinds: tuple[ChangeKind, ...]


def start(
    task: Task,
    *,
    attempt: int,
    owner: str | None,
    lease_until: float | None,
    traceparent: str | None,
    sent_at: float | None,
    now: float,
) -> Step | None:
    """Enter ``running``."""
    ours = task.owner is None or task.owner == owner
    redriven = sent_at is not None and sent_at > (task.ended_at or 0)
    allowed = {
        TaskStatus.QUEUED: True,
        TaskStatus.RUNNING: ours or (task.lease_until or 0) <= now,
        TaskStatus.DEAD: task.owner is None or redriven,
    }
    if not allowed.get(task.status):
        return None
    return _step(
        task,
        "status",
        now=now,
        status=TaskStatus.RUNNING,
        attempt=attempt,
        owner=owner,
        lease_until=lease_until,
        previous=task.traceparent,
        traceparent=traceparent,
        error=None,
        ended_at=None,
        progress=0,
        progress_message=None,
        started_at=now if task.started_at is None else task.started_at,
    )


def reopen(task: Task, *, now: float) -> Step | None:
    """Go from ``failed`` or ``dead`` back to ``queued``."""
    if task.status not in {TaskStatus.FAILED, TaskStatus.DEAD}:
        return None
    return _step(
        task,
        "status",
        now=now,
        status=TaskStatus.QUEUED,
        error=None,
        ended_at=None,
        owner=None,
        lease_until=None,
    )


def progress(
    task: Task, *, attempt: int, percent: int, message: str | None, now: float
) -> Step | None:
    """Raise the progress of the running *attempt*."""
    if task.status is not TaskStatus.RUNNING or task.attempt != attempt:
        return None
    if (task.progress, task.progress_message) == (percent, message) or task.progress > percent:
        return None
    kinds: tuple[ChangeKind, ...] = ("progress",) if task.changes < HISTORY_LIMIT else ()
    return _step(task, *kinds, now=now, progress=percent, progress_message=message)


def retry(
    task: Task, *, attempt: int, failure: Mapping[str, Any] | None, now: float
) -> Step | None:
    """Go back to ``queued``."""
    if task.status is not TaskStatus.RUNNING or task.attempt != attempt:
        return None
    failures = task.failures if failure is None else (*task.failures, failure)
    return _step(task, "status", now=now, status=TaskStatus.QUEUED, failures=failures)


def finish(
    task: Task,
    *,
    status: TaskStatus,
    attempt: int,
    result: Any,
    error: Mapping[str, Any] | None,
    now: float,
) -> Step | None:
    """End as *status*."""
    if task.status not in TRANSITIONS[status] or task.attempt != attempt:
        return None
    done = 100 if status is TaskStatus.SUCCEEDED else task.progress
    ended: dict[str, Any] = {"status": status, "result": result, "error": error, "progress": done}
    return _step(task, "status", *OUTCOMES[status], now=now, ended_at=now, **ended)


def cancel(task: Task, *, now: float) -> Step | None:
    """End as ``cancelled``, whoever runs it."""
    if task.status not in TRANSITIONS[TaskStatus.CANCELLED]:
        return None
    return _step(task, "status", now=now, status=TaskStatus.CANCELLED, ended_at=now)


def forget(task: Task, *, now: float) -> Step | None:
    """End what never ran, with nothing for anybody to see."""
    if task.status is not TaskStatus.QUEUED or task.attempt:
        return None
    return Step(replace(task, status=TaskStatus.CANCELLED, ended_at=now), ())


def reap(task: Task, *, lease_before: float, now: float) -> Step | None:
    """Let a running task wait again whose lease ended."""
    until = task.lease_until
    if task.status is not TaskStatus.RUNNING or until is None or until >= lease_before:
        return None
    return _step(task, "status", now=now, status=TaskStatus.QUEUED, owner=None, lease_until=None)


def abandon(
    task: Task, *, untouched_since: float, error: Mapping[str, Any], now: float
) -> Step | None:
    """End a queued task as ``dead`` that nothing happened to."""
    touched = max(task.created_at, task.updated_at)
    if task.status is not TaskStatus.QUEUED or touched >= untouched_since:
        return None
    return _step(
        task, "status", "error", now=now, status=TaskStatus.DEAD, error=error, ended_at=now
    )


def _step(task: Task, *kinds: ChangeKind, now: float, **changes: Any) -> Step:
    counted = task.changes + len(kinds)
    return Step(replace(task, updated_at=now, changes=counted, **changes), kinds)

"""
The protocol that every task store keeps, and the values that pass through it.

`tests/tasks/test_store_*.py` is its other half: one conformance suite that runs on every store.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from tracebaton.tasks.claiming import Claim, Claimed
from tracebaton.tasks.lists import Page, TaskQuery
from tracebaton.tasks.task import Task, TaskStatus

__all__ = ["HISTORY_LIMIT", "Change", "ChangeKind", "Glimpse", "TaskStore", "Unsent"]

#: Entries of a task's history from which on progress is only written to the task itself.
HISTORY_LIMIT: Final = 1_000

ChangeKind = Literal["status", "progress", "result", "error"]


@dataclass(frozen=True, slots=True)
class Change:
    """
    One entry of a task's history.

    Attributes:
        number: 1 for the first one, without gaps.
        task: The task as it was then.
    """

    number: int
    kind: ChangeKind
    task: Task


@dataclass(frozen=True, slots=True)
class Glimpse:
    """What of a task tells whether there is anything new: its status, and its newest change."""

    status: TaskStatus
    changes: int


@dataclass(frozen=True, slots=True)
class Unsent:
    """A task that was saved, and its message that nobody is known to have sent."""

    task: Task
    message: str


class TaskStore(Protocol):
    """
    Where tasks are kept.

    Every write is conditional on the state it starts from (`TRANSITIONS`), so that two workers or a
    late one cannot overwrite each other, and adds what it changed to the task's history in the same
    transaction. All methods raise ``StoreUnavailable`` when the store is away.
    """

    @property
    def poll_seconds(self) -> float:
        """Return how often it is fair to `glimpse()`."""
        ...

    async def create(
        self,
        task: Task,
        *,
        message: str | None = None,
        claim: Claim | None = None,
        exist_ok: bool = False,
    ) -> None:
        """
        Save a new task, with its *message* until `sent()`, in one transaction.

        Args:
            message: Up to 1 MiB of text; `unsent()` hands it out where the process that saved it
                never said that it was sent.
            claim: Binds the first task that is created under it to the idempotency key.
            exist_ok: A task that is there already stays as it is; otherwise it is a failure.

        Raises:
            Conflict: *claim* is somebody else's by now; nothing was saved.
        """
        ...

    async def sent(self, task_ids: Collection[str]) -> None:
        """Forget the messages of these tasks: the queue has them."""
        ...

    async def forget(self, task_id: str) -> bool:
        """
        Take back a queued task whose send failed; False if a worker has it already, or none is.

        Nobody sees it any more, its message is not sent, its idempotency key is free. The queue may
        have taken the message all the same: `start()` then returns the task as ``cancelled``.
        """
        ...

    async def unsent(self, *, older_than: float, limit: int = 100) -> Sequence[Unsent]:
        """
        Return messages that were not touched for *older_than* seconds, the oldest first.

        Returning touches them, so that no other caller gets them for as long. Those of tasks that a
        worker has started, or that have ended, are dropped.
        """
        ...

    async def get(self, task_id: str) -> Task | None:
        """Return the task, None if there is none."""
        ...

    async def list(self, query: TaskQuery) -> Page:
        """
        Return a page of tasks by ``created_at`` and id, newest first.

        Walking on by ``next_cursor`` meets each task that was there at the start once, whatever is
        created meanwhile.

        Raises:
            ValidationFailed: The cursor is not one of ours.
        """
        ...

    async def glimpse(self, task_ids: Collection[str]) -> Mapping[str, Glimpse]:
        """Return what of these tasks tells whether there is news; unknown ones are left out."""
        ...

    async def history(self, task_id: str, *, after: int = 0, limit: int = 100) -> Sequence[Change]:
        """Return the changes after number *after*, in order."""
        ...

    async def start(
        self,
        task_id: str,
        *,
        attempt: int,
        owner: str | None = None,
        lease_until: float | None = None,
        traceparent: str | None = None,
        sent_at: float | None = None,
    ) -> Task | None:
        """
        Enter ``running`` for *attempt* and return the task as it is now, None if there is none.

        Two kinds are returned unchanged, because there is nothing to run: an ended task, and one
        that another *owner* runs until a ``lease_until`` to come. The same owner may start again:
        SQS handed its message out once more, so the worker before is gone. A ``dead`` task starts
        again too where its message was sent after it died: that is a redrive from the DLQ, while
        any other is a copy, or on its way there; and where no message ever ran it.
        The ``traceparent`` there was becomes ``previous``; progress starts over.

        Args:
            sent_at: When the queue took the message, in seconds since the epoch.
        """
        ...

    async def reopen(self, task_id: str) -> bool:
        """
        Let a ``failed`` or ``dead`` task wait for its message again; False for any other.

        The message will be another one, so the task has no owner until it starts.
        """
        ...

    async def renew(self, owners: Mapping[str, str], *, lease_until: float) -> None:
        """Let the leases of running tasks, each with its owner, end at *lease_until*."""
        ...

    async def progress(
        self, task_id: str, *, attempt: int, percent: int, message: str | None = None
    ) -> None:
        """
        Raise the progress of the running *attempt*; a lower value is ignored.

        The same value again replaces the message. What changes nothing is no entry of the history,
        nor is anything beyond `HISTORY_LIMIT`.
        """
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

        Its history gets a ``status`` and then a ``result`` or an ``error``.

        Raises:
            ResultTooLarge: *result* is over 256 KiB as JSON.
        """
        ...

    async def cancel(self, task_id: str) -> bool:
        """End a queued or running task as ``cancelled``; False if there is none to cancel."""
        ...

    async def reap(self, *, lease_before: float) -> Sequence[Task]:
        """
        Let running tasks whose lease ended before that moment wait again, and return them.

        Whoever ran them is gone; their message comes again by itself.
        """
        ...

    async def abandon(self, *, untouched_since: float, error: Mapping[str, Any]) -> Sequence[Task]:
        """End queued tasks that nothing happened to since then as ``dead``, and return them."""
        ...

    async def purge(self, *, ended_before: float) -> int:
        """Remove what ended before that moment, and expired idempotency keys; return how many."""
        ...

    async def claim(
        self, claim: Claim, *, fingerprint: str, lease_until: float, expires_at: float
    ) -> Claimed:
        """
        Try to take an idempotency key for one request.

        A key is free again at its *expires_at*, and where its request let the lease run out without
        having saved a task.

        Args:
            fingerprint: Of the request's body.
            lease_until: Until when the request counts as being handled, unless it says so again.
            expires_at: Until when the answer is kept.
        """
        ...

    async def renew_claim(self, claim: Claim, *, lease_until: float) -> None:
        """Say that the request is still being handled."""
        ...

    async def settle_claim(self, claim: Claim, *, response: str) -> None:
        """Keep the answer for those who ask again; nothing happens if the claim is not ours."""
        ...

    async def release_claim(self, claim: Claim) -> None:
        """Let go of a claim without an answer; with a task under it, it counts as done."""
        ...

    async def check(self) -> None:
        """Raise ``StoreUnavailable`` unless a read works."""
        ...

    async def close(self) -> None:
        """Release files and threads."""
        ...

"""
Which tasks a list is asked for, its pages, and the cursor that leads from one to the next.
"""

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from tracebaton.errors import ValidationFailed
from tracebaton.tasks.task import Task, TaskStatus

__all__ = ["Page", "TaskQuery", "decode_cursor", "encode_cursor"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskQuery:
    """
    Which tasks to list.

    Attributes:
        user_id: Whose; None for everybody's.
        cursor: Where the page before ended, from its ``next_cursor``.
        limit: The most tasks of the page; it may have fewer although more follow.
    """

    user_id: str | None = None
    status: TaskStatus | None = None
    type: str | None = None
    cursor: str | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True)
class Page:
    """A page of tasks, newest first; without *next_cursor* it is the last one."""

    tasks: Sequence[Task]
    next_cursor: str | None = None


def encode_cursor(created_at: float, task_id: str) -> str:
    """Return where a page ends, as an opaque text for URLs."""
    position = json.dumps([created_at, task_id], separators=(",", ":"))
    return base64.urlsafe_b64encode(position.encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> tuple[float, str]:
    """
    Return the ``created_at`` and the id of the last task before *cursor*.

    Raises:
        ValidationFailed: *cursor* is not one of ours.
    """
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        created_at, task_id = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        task_id.encode()  # half a surrogate pair is no id, and no store could look for it
        if math.isfinite(created_at):
            return float(created_at), task_id
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        pass
    raise ValidationFailed(
        "The cursor is none of this service's. Take next_cursor as it was given.",
        errors=[{"pointer": "/cursor", "detail": "Not a cursor."}],
    )

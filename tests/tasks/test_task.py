"""
A task as a value: what a store kept of it makes the same one again.
"""

import pytest

from tracebaton.tasks import Task, TaskStatus
from tracebaton.tasks.task import FIELDS, restored


def test_a_task_is_restored_from_the_values_of_its_fields() -> None:
    """It is equal to the one they were read from, and as frozen."""
    task = Task(id="t", type="note", status=TaskStatus.DEAD, created_at=1.5, updated_at=2.5)
    again = restored([getattr(task, name) for name in FIELDS])

    assert again == task
    assert repr(again) == repr(task)
    with pytest.raises(AttributeError):
        again.id = "other"  # type: ignore[misc]  # what is tested


def test_a_task_is_not_restored_from_fewer_values() -> None:
    """A column that is missing is a mistake, and no task without it."""
    with pytest.raises(ValueError, match="shorter"):
        restored(["t"])

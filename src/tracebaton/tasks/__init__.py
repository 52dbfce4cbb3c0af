"""Tasks: what the API gives a URL for, the transitions they may make, and the store protocol."""

from tracebaton.tasks.schemas import task_schemas
from tracebaton.tasks.task import ENDED, TRANSITIONS, Task, TaskStatus, TaskStore
from tracebaton.tasks.types import Handler, Registry, TaskType

__all__ = [
    "ENDED",
    "TRANSITIONS",
    "Handler",
    "Registry",
    "Task",
    "TaskStatus",
    "TaskStore",
    "TaskType",
    "task_schemas",
]

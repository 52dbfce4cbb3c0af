"""Tasks: what the API gives a URL for, the transitions they may make, and the store protocol."""

from tracebaton.tasks.claiming import Claim, Claimed
from tracebaton.tasks.lists import Page, TaskQuery, decode_cursor, encode_cursor
from tracebaton.tasks.probe import PROBE
from tracebaton.tasks.results import RESULT_LIMIT
from tracebaton.tasks.schemas import task_schemas
from tracebaton.tasks.store import HISTORY_LIMIT, Change, ChangeKind, Glimpse, TaskStore, Unsent
from tracebaton.tasks.task import ENDED, TRANSITIONS, Task, TaskStatus
from tracebaton.tasks.types import Backoff, Handler, Registry, TaskType

__all__ = [
    "ENDED",
    "HISTORY_LIMIT",
    "PROBE",
    "RESULT_LIMIT",
    "TRANSITIONS",
    "Backoff",
    "Change",
    "ChangeKind",
    "Claim",
    "Claimed",
    "Glimpse",
    "Handler",
    "Page",
    "Registry",
    "Task",
    "TaskQuery",
    "TaskStatus",
    "TaskStore",
    "TaskType",
    "Unsent",
    "decode_cursor",
    "encode_cursor",
    "task_schemas",
]

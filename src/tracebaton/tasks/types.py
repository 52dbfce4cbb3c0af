"""
Registered task types: the name, the pydantic model of the data, and the handler.
"""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel

from tracebaton.errors import ConfigurationError, UnknownTaskType
from tracebaton.tasks.probe import PROBE, Probe, answer

__all__ = ["Backoff", "Handler", "Registry", "TaskType"]

#: ``async def`` handlers run on the event loop, ``def`` handlers in a thread that has the store.
Handler = Callable[[Any], Awaitable[Any] | Any]


class Backoff(Protocol):
    """How long a task waits after a failed attempt; a ``RetryPolicy`` is one."""

    def delay(self, attempt: int) -> int:
        """Return the seconds to wait after *attempt* failed."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskType:
    """
    One kind of task.

    Attributes:
        model: Validates ``data`` before it is enqueued and again before the handler sees it.
        deadline: Seconds a handler may run, None for no limit but SQS's 12 hours.
        version: ``schemaversion`` of the messages this handler understands.
        max_age: Seconds a message may wait beyond its delay; an older one goes to quarantine.
        group: Names the FIFO group of a task by its data, where the sender names none.
        retry: The back-off of its attempts, None for the worker's.
        batch: Messages that one call of the handler is for, None where it gets them one by one.
        batch_seconds: How long the first of them waits for others.
    """

    name: str
    model: type[BaseModel]
    handler: Handler
    deadline: float | None = None
    version: str = "1"
    max_age: float | None = None
    group: Callable[[Any], str] | None = None
    retry: Backoff | None = None
    batch: int | None = None
    batch_seconds: float = 0.2


#: Known to every application, and listed in none.
_BUILT_IN = {PROBE: TaskType(name=PROBE, model=Probe, handler=answer, deadline=10)}


class Registry:
    """The task types of one application, by name; the probe is one that no iteration names."""

    def __init__(self) -> None:
        self._types: dict[str, TaskType] = {}

    def add(self, task_type: TaskType) -> None:
        """
        Register *task_type*.

        Raises:
            ConfigurationError: The name is taken.
        """
        if task_type.name in self:
            raise ConfigurationError(f"The task type {task_type.name!r} is registered twice.")
        self._types[task_type.name] = task_type

    def __getitem__(self, name: str) -> TaskType:
        """
        Return the type called *name*.

        Raises:
            UnknownTaskType: There is none.
        """
        try:
            return self._types.get(name) or _BUILT_IN[name]
        except KeyError:
            raise UnknownTaskType(f"No handler is registered for the task type {name!r}.") from None

    def __contains__(self, name: object) -> bool:
        return name in self._types or name in _BUILT_IN

    def __iter__(self) -> Iterator[TaskType]:
        return iter(self._types.values())

    def __len__(self) -> int:
        return len(self._types)

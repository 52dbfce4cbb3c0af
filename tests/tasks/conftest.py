"""One conformance suite for every task store: each is opened here, and its tests name none."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tracebaton.tasks import Task, TaskStore
from tracebaton.tasks.sqlite import SqliteTaskStore

#: The time of every test when it starts.
NOW = 1_000.0


@dataclass
class Clock:
    """The time that a test's stores see."""

    time: float = NOW

    def __call__(self) -> float:
        return self.time


@dataclass
class Stores:
    """
    One set of tasks, and as many stores over it as a test opens, as processes would.

    Attributes:
        make: Returns a store over the test's own tasks; it takes ``now``.
    """

    make: Callable[..., TaskStore]
    clock: Clock
    opened: list[TaskStore] = field(default_factory=list)

    def open(self) -> TaskStore:
        """Return a store of its own over the same tasks."""
        store = self.make(now=self.clock)
        self.opened.append(store)
        return store


def _sqlite(folder: Path) -> Callable[..., TaskStore]:
    return lambda **options: SqliteTaskStore(folder / "deep" / "tasks.db", **options)


#: Each store by name: how one is made over the tasks of a folder that is the test's own.
KINDS: dict[str, Callable[[Path], Callable[..., TaskStore]]] = {"sqlite": _sqlite}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=list(KINDS))
async def stores(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock
) -> AsyncIterator[Stores]:
    """Return what opens stores of the kind that is tested."""
    made = Stores(KINDS[request.param](tmp_path), clock)
    yield made
    for store in made.opened:
        await store.close()


@pytest.fixture
def store(stores: Stores) -> TaskStore:
    """Return an empty store."""
    return stores.open()


@pytest.fixture
def queued() -> Callable[..., Task]:
    """Return what makes a new task, a second older than the test."""

    def make(task_id: str = "t-1", **fields: Any) -> Task:
        defaults: dict[str, Any] = {
            "type": "ai.chat",
            "user_id": "u-1",
            "correlation_id": "c-1",
            "trace_id": "a" * 32,
            "created_at": NOW - 1,
            "updated_at": NOW - 1,
        }
        return Task(id=task_id, **defaults | fields)

    return make

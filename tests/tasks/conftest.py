"""One conformance suite for every task store: each is opened here, and its tests name none."""

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from dynamodb_emulators import PYTHON, running_dynamodb

from backends import missing
from tracebaton.tasks import Task, TaskStore
from tracebaton.tasks.dynamodb import DynamoAccess, DynamoTaskStore
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


def _dynamodb(endpoint: str) -> Callable[..., TaskStore]:
    access = DynamoAccess(endpoint=endpoint, region="us-east-1", anonymous=True, create=True)
    name = f"tasks-{uuid.uuid4().hex}"
    return lambda **options: DynamoTaskStore(name, access=access, **options)


@pytest.fixture(scope="session")
def dynamodb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """Return what gives the endpoint of an emulator, which runs from then on."""
    with ExitStack() as stack:

        @cache
        def endpoint(name: str) -> str:
            if not PYTHON.exists():
                missing("no DynamoDB emulator: run scripts/dynamodb")
            folder = tmp_path_factory.mktemp(name)
            return stack.enter_context(running_dynamodb(name, folder))

        yield endpoint


#: Each store; DynamoDB's on two emulators.
KINDS = ("sqlite", "moto", "ministack")
#: Tests with a thousand entries, left to the other emulator.
TOO_MANY_FOR_MOTO = {
    "test_a_talkative_handler_fills_no_store",
    "test_many_can_be_glimpsed_at_once",
}


@pytest.fixture
def clock() -> Clock:
    return Clock()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spare moto what takes it minutes: it reads all of a table for each call."""
    slow = [item for item in items if item.name.removesuffix("[moto]") in TOO_MANY_FOR_MOTO]
    for item in slow:
        if item.name.endswith("[moto]"):
            items.remove(item)


@pytest.fixture(params=KINDS)
async def stores(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    clock: Clock,
    dynamodb: Callable[[str], str],
) -> AsyncIterator[Stores]:
    """Return what opens stores of the kind that is tested."""
    kind: str = request.param
    made = Stores(_sqlite(tmp_path) if kind == "sqlite" else _dynamodb(dynamodb(kind)), clock)
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

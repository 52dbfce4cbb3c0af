"""A service over a real SQLite store, for the HTTP tests; a task is saved and goes nowhere."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import uuid_utils
from opentelemetry import trace
from pydantic import BaseModel, Field
from starlette.requests import Request

from tracebaton.context import RequestStore, current
from tracebaton.http.auth import Authenticator, authenticator
from tracebaton.http.limits import RateLimit
from tracebaton.http.proxies import Proxies
from tracebaton.problems import NO_REPORTER, Reporter
from tracebaton.settings import Settings
from tracebaton.tasks import Registry, Task, TaskStore, TaskType
from tracebaton.tasks.claiming import current_claim


class Chat(BaseModel):
    message: str = Field(min_length=1)


async def chat(request: Chat) -> None:
    """Do nothing: no worker runs here."""


def registry() -> Registry:
    types = Registry()
    types.add(TaskType(name="ai.chat", model=Chat, handler=chat))
    return types


def now_ready() -> dict[str, bool]:
    return {"queue": True}


@dataclass
class StoreService:
    """What `create_app()` asks of an application."""

    store: TaskStore | None
    authenticator: Authenticator = field(default_factory=lambda: authenticator(Settings.load({})))
    limits: RateLimit = field(default_factory=lambda: RateLimit(None))
    proxies: Proxies = field(default_factory=Proxies)
    registry: Registry = field(default_factory=registry)
    reporter: Reporter = NO_REPORTER
    store_type: type[RequestStore] = RequestStore
    routes: Sequence[tuple[str, Callable[[Request], Awaitable[Any] | Any], Sequence[str]]] = ()
    state: dict[str, bool] = field(default_factory=now_ready)
    enqueued: list[tuple[str, Any]] = field(default_factory=list)

    async def enqueue(self, task_type: str, data: BaseModel) -> Task:
        self.enqueued.append((task_type, data))
        now, store = time.time(), current()
        ids = trace.get_current_span().get_span_context()
        task = Task(
            id=str(uuid_utils.uuid7()),
            type=task_type,
            user_id=store.user_id,
            correlation_id=store.correlation_id,
            trace_id=trace.format_trace_id(ids.trace_id) if ids.is_valid else None,
            created_at=now,
            updated_at=now,
        )
        assert self.store is not None
        await self.store.create(task, claim=current_claim())
        return task

    def trace_url(self, trace_id: str) -> str | None:
        return f"http://viewer/#/trace/{trace_id}"

    async def ready(self) -> Mapping[str, bool]:
        return self.state

"""
What the HTTP wing needs of an application.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from pydantic import BaseModel
from starlette.requests import Request

from tracebaton.context import RequestStore
from tracebaton.http.auth import Authenticator
from tracebaton.http.limits import RateLimit
from tracebaton.http.proxies import Proxies
from tracebaton.problems import Reporter
from tracebaton.tasks import Registry, Task, TaskStore

__all__ = ["Endpoint", "Service", "trace_url_of"]

Endpoint = Callable[[Request], Awaitable[Any] | Any]


class Service(Protocol):
    """
    What the HTTP wing needs of an application.

    Every attribute is read when a request needs it, so that an app can be imported before its
    settings are there; ``routes`` and ``store_type`` are read when the app is created.
    """

    @property
    def registry(self) -> Registry:
        """Return the task types that can be enqueued."""
        ...

    @property
    def store(self) -> TaskStore | None:
        """Return where tasks are kept, None where they are not."""
        ...

    @property
    def store_type(self) -> type[RequestStore]:
        """Return the request store's class."""
        ...

    @property
    def authenticator(self) -> Authenticator:
        """Return who tells whom a request is from."""
        ...

    @property
    def limits(self) -> RateLimit:
        """Return how much one user, or one address, may ask."""
        ...

    @property
    def proxies(self) -> Proxies:
        """Return the proxies that are believed about who asks."""
        ...

    @property
    def reporter(self) -> Reporter:
        """Return where unexpected failures go."""
        ...

    @property
    def routes(self) -> Sequence[tuple[str, Endpoint, Sequence[str]]]:
        """Return the application's own routes: path, endpoint, methods."""
        ...

    async def enqueue(self, task_type: str, data: BaseModel) -> Task:
        """Save a task and send its message."""
        ...

    def trace_url(self, trace_id: str) -> str | None:
        """Return where a person can look at the trace, None without a viewer."""
        ...

    async def ready(self) -> Mapping[str, bool]:
        """Tell what of the dependencies answers."""
        ...


def trace_url_of(service: Service, task: Task) -> str | None:
    """Return where a person can look at the trace of *task*."""
    return None if task.trace_id is None else service.trace_url(task.trace_id)

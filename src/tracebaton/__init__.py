"""
One trace, one request store, one log schema and one error story over HTTP and SQS.

The names load when they are first used, so that ``import tracebaton`` and ``tracebaton --help``
stay quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tracebaton.application import Tracebaton as Tracebaton
    from tracebaton.audit import audited as audited
    from tracebaton.context import RequestStore as RequestStore
    from tracebaton.context import current as current
    from tracebaton.errors import Reject as Reject
    from tracebaton.errors import RetryLater as RetryLater
    from tracebaton.errors import TracebatonError as TracebatonError
    from tracebaton.http.middleware import instrument as instrument
    from tracebaton.logs import configure_logging as configure_logging
    from tracebaton.queue.batch import Batch as Batch
    from tracebaton.queue.lease import current_lease as current_lease
    from tracebaton.queue.producer import Producer as Producer
    from tracebaton.queue.retry import RetryPolicy as RetryPolicy
    from tracebaton.queue.worker import Worker as Worker
    from tracebaton.runtime import configure_telemetry as configure_telemetry
    from tracebaton.settings import Settings as Settings
    from tracebaton.tasks import Task as Task
    from tracebaton.tasks.progress import progress as progress

_HOME = {
    "Batch": "queue.batch",
    "Producer": "queue.producer",
    "Reject": "errors",
    "RequestStore": "context",
    "RetryLater": "errors",
    "RetryPolicy": "queue.retry",
    "Settings": "settings",
    "Task": "tasks",
    "Tracebaton": "application",
    "TracebatonError": "errors",
    "Worker": "queue.worker",
    "audited": "audit",
    "configure_logging": "logs",
    "configure_telemetry": "runtime",
    "current": "context",
    "current_lease": "queue.lease",
    "instrument": "http.middleware",
    "progress": "tasks.progress",
}

__all__ = [
    "Batch",
    "Producer",
    "Reject",
    "RequestStore",
    "RetryLater",
    "RetryPolicy",
    "Settings",
    "Task",
    "Tracebaton",
    "TracebatonError",
    "Worker",
    "audited",
    "configure_logging",
    "configure_telemetry",
    "current",
    "current_lease",
    "instrument",
    "progress",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tracebaton' has no attribute {name!r}")
    return getattr(import_module(f"tracebaton.{_HOME[name]}"), name)

"""
The one place that knows every room: settings become telemetry, queue, store, app and worker.

It owns the shutdown order too: what still makes spans stops first, what sends them last.
"""

from tracebaton.runtime.parts import Role, configure_telemetry, task_store
from tracebaton.runtime.process import Runtime
from tracebaton.runtime.working import WorkerService, check_redrive

__all__ = [
    "Role",
    "Runtime",
    "WorkerService",
    "check_redrive",
    "configure_telemetry",
    "task_store",
]

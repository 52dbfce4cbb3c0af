"""
The worker's handlers in AWS Lambda: the event source receives, this handles, telemetry leaves.

Lambda freezes the process between two events, so nothing may wait in memory when one is answered.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from tracebaton.queue.event_source import EventSource
from tracebaton.runtime import WorkerService

__all__ = ["LambdaContext", "LambdaHandler"]

#: Seconds of an invocation that are kept for sending what telemetry holds.
_FLUSH_SECONDS: Final = 2.0


class LambdaContext(Protocol):
    """What Lambda tells of an invocation, as far as it is used."""

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds until Lambda ends the invocation."""
        ...


class LambdaHandler:
    """
    Handles the events of one execution environment.

    Settings are read, and everything is built, at the first event; the loop stays between events,
    as connections and clients belong to it.
    """

    def __init__(self, service: Callable[[], WorkerService]) -> None:
        self._make = service
        self._runner: asyncio.Runner | None = None
        self._service: WorkerService | None = None
        self._source: EventSource | None = None
        self._one_at_a_time = threading.Lock()

    def __call__(self, event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
        """
        Handle *event* and return the partial batch response.

        Raises:
            ConfigurationError: A setting is wrong, or *event* is not of an SQS event source.
        """
        with self._one_at_a_time:
            if self._runner is None:
                self._runner = asyncio.Runner()
            return self._runner.run(self._handle(event, context))

    async def _handle(self, event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
        if self._service is None or self._source is None:
            self._service = self._make()
            self._service.runtime.configure_logging()
            self._source = self._service.event_source()
        left = context.get_remaining_time_in_millis() / 1000 - _FLUSH_SECONDS
        try:
            return await self._source.handle(event, seconds=max(0.0, left))
        finally:
            telemetry = self._service.runtime.telemetry
            await asyncio.to_thread(telemetry.force_flush, _FLUSH_SECONDS)

    def close(self) -> None:
        """Close everything; Lambda never asks for it, tests do."""
        with self._one_at_a_time:
            if self._runner is not None:
                if self._service is not None:
                    self._runner.run(self._service.runtime.close())
                self._runner.close()
            self._runner = self._service = self._source = None

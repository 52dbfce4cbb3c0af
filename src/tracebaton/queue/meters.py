"""
What a worker measures beyond the messaging conventions: waiting, leases, outcomes, the queue.

Made with the API alone, so without a meter provider each call costs next to nothing.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final

from opentelemetry.metrics import Counter, Histogram, MeterProvider, get_meter

from tracebaton.metrics import MessagingMetrics
from tracebaton.semconv import (
    LEASE_OUTCOME,
    MESSAGING_DESTINATION,
    MESSAGING_OPERATION_NAME,
    METRIC_CALLS,
    METRIC_DRAINED,
    METRIC_LEASE_EXTENSIONS,
    METRIC_LEASE_LATENESS,
    METRIC_LOOP_BLOCKED,
    METRIC_POLLER_RESTARTS,
    METRIC_QUEUE_AGE,
    METRIC_QUEUE_MESSAGES,
    METRIC_QUEUE_TIME,
    METRIC_SETTLED,
    METRIC_TASK_ATTEMPTS,
    OUTCOME,
    QUEUE_STAGE,
    QUEUE_STATE,
    SCOPE,
    TASK_STATUS,
    TASK_TYPE,
)

__all__ = ["WorkerMeters"]

#: Bounds in seconds: a message may wait for hours.
_WAITS: Final = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600, 10_800)
#: Bounds in seconds of how late an extension is.
_LATENESS: Final = (0.1, 0.5, 1, 2, 5, 10, 20, 30, 60)


class WorkerMeters:
    """The instruments of one worker, each made at its first use."""

    def __init__(self, meter_provider: MeterProvider | None = None) -> None:
        """Measure with *meter_provider*, the global one by default, be it set now or later."""
        #: The instruments of the messaging conventions, which the producer has too.
        self.messaging: MessagingMetrics = MessagingMetrics(meter_provider)
        self._meter = get_meter(SCOPE, meter_provider=meter_provider)

    def waited(self, queue: str, seconds: Mapping[str, float]) -> None:
        """Measure how long a message waited in each stage: delay, backlog, prefetch."""
        for stage, waited in seconds.items():
            self._waits.record(waited, {MESSAGING_DESTINATION: queue, QUEUE_STAGE: stage})

    def called(self, queue: str, operation: str) -> None:
        """Count a call to SQS: with the consumed messages beside it, what a message costs."""
        self._calls.add(1, {MESSAGING_DESTINATION: queue, MESSAGING_OPERATION_NAME: operation})

    def settled(self, queue: str, operation: str, *, ok: bool) -> None:
        """Count a message that was deleted or made visible, or was not."""
        outcome = "ok" if ok else "failed"
        self._settled.add(
            1,
            {
                MESSAGING_DESTINATION: queue,
                MESSAGING_OPERATION_NAME: operation,
                OUTCOME: outcome,
            },
        )

    def attempted(self, queue: str, task_type: str | None, status: str) -> None:
        """Count an attempt by how it ended; ``queued`` is one that will be tried again."""
        kind = {} if task_type is None else {TASK_TYPE: task_type}
        self._attempts.add(1, {MESSAGING_DESTINATION: queue, TASK_STATUS: status, **kind})

    def extended(self, queue: str, outcome: str, *, leases: int = 1) -> None:
        """
        Count leases by what became of them.

        Args:
            outcome: ``ok`` for an extension and ``failed`` for one that is tried again; ``lost``
                and ``expired``, after 12 hours, for leases that ended before their messages.
        """
        self._extensions.add(leases, {MESSAGING_DESTINATION: queue, LEASE_OUTCOME: outcome})

    def late(self, queue: str, seconds: float) -> None:
        """Measure by how much the most overdue lease of an extension was late."""
        self._lateness.record(seconds, {MESSAGING_DESTINATION: queue})

    def depth(self, queue: str, messages: Mapping[str, int]) -> None:
        """Set how many messages the queue has, by state: visible, in_flight, delayed."""
        for state, count in messages.items():
            self._depth.set(count, {MESSAGING_DESTINATION: queue, QUEUE_STATE: state})

    def age(self, queue: str, seconds: float) -> None:
        """Set how old the oldest message of a receive is, 0 where it brought none."""
        self._age.set(seconds, {MESSAGING_DESTINATION: queue})

    def restarted(self, queue: str, reason: str) -> None:
        """Count a poll loop that was started again."""
        self._restarts.add(1, {MESSAGING_DESTINATION: queue, OUTCOME: reason})

    def blocked(self, seconds: float) -> None:
        """Measure a block of the event loop."""
        self._blocks.record(seconds)

    def drained(self, messages: Mapping[str, int]) -> None:
        """Count what a stop made of the messages in hand: acked, released, abandoned."""
        for outcome, count in messages.items():
            self._drained.add(count, {OUTCOME: outcome})

    def _counter(self, name: str, unit: str, description: str) -> Counter:
        return self._meter.create_counter(name, unit, description)

    def _histogram(self, name: str, description: str, bounds: tuple[float, ...]) -> Histogram:
        return self._meter.create_histogram(
            name, "s", description, explicit_bucket_boundaries_advisory=bounds
        )

    @cached_property
    def _waits(self) -> Histogram:
        return self._histogram(METRIC_QUEUE_TIME, "Where a message waited, and how long.", _WAITS)

    @cached_property
    def _lateness(self) -> Histogram:
        return self._histogram(
            METRIC_LEASE_LATENESS, "How late extensions of leases were.", _LATENESS
        )

    @cached_property
    def _blocks(self) -> Histogram:
        return self._histogram(METRIC_LOOP_BLOCKED, "How long the loop did not turn.", _LATENESS)

    @cached_property
    def _calls(self) -> Counter:
        return self._counter(METRIC_CALLS, "{call}", "Calls of the worker to SQS.")

    @cached_property
    def _settled(self) -> Counter:
        return self._counter(METRIC_SETTLED, "{message}", "Messages settled, or not.")

    @cached_property
    def _attempts(self) -> Counter:
        return self._counter(METRIC_TASK_ATTEMPTS, "{attempt}", "Attempts by how they ended.")

    @cached_property
    def _extensions(self) -> Counter:
        return self._counter(METRIC_LEASE_EXTENSIONS, "{lease}", "Leases by what became of them.")

    @cached_property
    def _restarts(self) -> Counter:
        return self._counter(METRIC_POLLER_RESTARTS, "{restart}", "Poll loops started again.")

    @cached_property
    def _drained(self) -> Counter:
        return self._counter(METRIC_DRAINED, "{message}", "Messages in hand at a stop.")

    @cached_property
    def _depth(self) -> Any:
        return self._meter.create_gauge(METRIC_QUEUE_MESSAGES, "{message}", "Messages by state.")

    @cached_property
    def _age(self) -> Any:
        return self._meter.create_gauge(METRIC_QUEUE_AGE, "s", "Age of the oldest one received.")

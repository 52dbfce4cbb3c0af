"""
What producer and worker measure: the messaging metrics of OpenTelemetry's conventions.

Made with the API alone, so without a meter provider each call costs next to nothing. A measurement
made inside a sampled span, or given its context, carries the trace as its exemplar.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal

from opentelemetry.context import Context
from opentelemetry.metrics import Counter, Histogram, MeterProvider, get_meter

from tracebaton.semconv import (
    AWS_SQS,
    ERROR_TYPE,
    MESSAGING_DESTINATION,
    MESSAGING_OPERATION_NAME,
    MESSAGING_OPERATION_TYPE,
    MESSAGING_SYSTEM,
    METRIC_CONSUMED_MESSAGES,
    METRIC_OPERATION_DURATION,
    METRIC_PROCESS_DURATION,
    METRIC_SENT_MESSAGES,
    SCOPE,
)

__all__ = ["Measurement", "MessagingMetrics"]

#: Bounds in seconds that the conventions ask for.
_BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
#: A task may run for hours; with the conventions' bounds alone all of those were "above 10 s".
_LONG_BOUNDS: Final = (*_BOUNDS, 30, 60, 300, 900, 3600, 10_800)


@dataclass(slots=True)
class Measurement:
    """
    What is measured while it runs; whoever learns of a failure writes its ``error.type``.

    Attributes:
        status: What became of the task, where somebody said.
    """

    error_type: str | None = None
    status: str | None = None


class MessagingMetrics:
    """The instruments of one process, each made at its first use."""

    def __init__(self, meter_provider: MeterProvider | None = None) -> None:
        """Measure with *meter_provider*, the global one by default, be it set now or later."""
        self._meter = get_meter(SCOPE, meter_provider=meter_provider)

    def sent(
        self,
        destination: str,
        seconds: float | None,
        *,
        messages: int = 1,
        error_type: str | None = None,
        context: Context | None = None,
    ) -> None:
        """
        Measure a send call, successful or not.

        Args:
            destination: The queue's name.
            seconds: How long it took; None for the rest of a batch whose call is measured already.
            messages: How many it was for.
            error_type: The ``error.type`` of the send span, of a call or of entries that failed.
            context: Where the send span is, if it is not the current one.
        """
        attributes = _attributes(destination, "send", error_type)
        self._sent.add(messages, attributes, context)
        if seconds is not None:
            self._operated(seconds, attributes, "send", context)

    def received(
        self,
        destination: str,
        seconds: float,
        *,
        messages: int,
        error_type: str | None = None,
        context: Context | None = None,
    ) -> None:
        """Measure a receive call and what it brought; the arguments as for `sent()`."""
        attributes = _attributes(destination, "receive", error_type)
        if messages:
            self._consumed.add(messages, attributes, context)
        self._operated(seconds, attributes, "receive", context)

    def settled(
        self,
        destination: str,
        seconds: float,
        *,
        operation: Literal["ack", "nack"],
        error_type: str | None = None,
        context: Context | None = None,
    ) -> None:
        """Measure a delete or a change of visibility; the arguments as for `sent()`."""
        attributes = _attributes(destination, operation, error_type)
        self._operated(seconds, attributes, "settle", context)

    def processed(
        self,
        destination: str,
        seconds: float,
        *,
        error_type: str | None = None,
        context: Context | None = None,
    ) -> None:
        """Measure what the process span spans; the arguments as for `sent()`."""
        self._processing.record(seconds, _attributes(destination, "process", error_type), context)

    def processing(self, destination: str) -> "_Processing":
        """Measure a block as `processed()` does; stand inside the process span."""
        return _Processing(self, destination)

    def _operated(
        self, seconds: float, attributes: Mapping[str, Any], kind: str, context: Context | None
    ) -> None:
        self._operations.record(seconds, {**attributes, MESSAGING_OPERATION_TYPE: kind}, context)

    @cached_property
    def _sent(self) -> Counter:
        return self._meter.create_counter(
            METRIC_SENT_MESSAGES, "{message}", "Messages that the producer attempted to send."
        )

    @cached_property
    def _consumed(self) -> Counter:
        return self._meter.create_counter(
            METRIC_CONSUMED_MESSAGES, "{message}", "Messages that were delivered to the worker."
        )

    @cached_property
    def _operations(self) -> Histogram:
        return self._meter.create_histogram(
            METRIC_OPERATION_DURATION,
            "s",
            "Duration of calls to the queue.",
            explicit_bucket_boundaries_advisory=_BOUNDS,
        )

    @cached_property
    def _processing(self) -> Histogram:
        return self._meter.create_histogram(
            METRIC_PROCESS_DURATION,
            "s",
            "Duration of the handling of a message.",
            explicit_bucket_boundaries_advisory=_LONG_BOUNDS,
        )


class _Processing:
    """The block that `processing()` measures."""

    __slots__ = ("_destination", "_measurement", "_metrics", "_started")

    def __init__(self, metrics: MessagingMetrics, destination: str) -> None:
        self._metrics = metrics
        self._destination = destination
        self._measurement = Measurement()

    def __enter__(self) -> Measurement:
        self._started = time.perf_counter()
        return self._measurement

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: object
    ) -> None:
        # Not a cancellation: a stop that gives it back is no failure.
        if isinstance(exc, Exception) and self._measurement.error_type is None:
            self._measurement.error_type = type(exc).__qualname__
        self._metrics.processed(
            self._destination,
            time.perf_counter() - self._started,
            error_type=self._measurement.error_type,
        )


def _attributes(destination: str, operation: str, error_type: str | None) -> dict[str, str]:
    attributes = {
        MESSAGING_SYSTEM: AWS_SQS,
        MESSAGING_OPERATION_NAME: operation,
        MESSAGING_DESTINATION: destination,
    }
    return attributes if error_type is None else {**attributes, ERROR_TYPE: error_type}

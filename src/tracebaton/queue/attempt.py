"""
One attempt at one message, what its span says, and the verdict it ends with.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from opentelemetry.trace import Span, SpanContext

from tracebaton.metrics import Measurement
from tracebaton.queue.event import TaskEvent
from tracebaton.queue.incoming import Incoming
from tracebaton.queue.lease import Lease
from tracebaton.queue.message import byte_size
from tracebaton.semconv import (
    AWS_SQS,
    MESSAGING_BODY_SIZE,
    MESSAGING_DESTINATION,
    MESSAGING_MESSAGE_ID,
    MESSAGING_OPERATION_NAME,
    MESSAGING_OPERATION_TYPE,
    MESSAGING_SYSTEM,
    QUEUE_BACKLOG_MS,
    QUEUE_DELAY_MS,
    QUEUE_PREFETCH_MS,
    RECEIVE_COUNT,
    TASK_ID,
    TASK_STATUS,
    TASK_TYPE,
)
from tracebaton.tasks import Backoff, TaskStatus
from tracebaton.w3c import format_traceparent

__all__ = ["Attempt", "Verdict", "milliseconds", "process_attributes", "waiting_times"]

#: The span attribute of each stage in which a message waits.
_STAGES = {"delay": QUEUE_DELAY_MS, "backlog": QUEUE_BACKLOG_MS, "prefetch": QUEUE_PREFETCH_MS}


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    What happens to the message.

    Attributes:
        action: Delete it, make it visible again after *delay* seconds, or leave it alone.
    """

    action: Literal["delete", "retry", "leave"]
    delay: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """
    What the steps of one delivery share.

    Attributes:
        origin: The span that sent the message, None where nobody said.
    """

    incoming: Incoming
    lease: Lease
    span: Span
    measurement: Measurement
    backoff: Backoff
    origin: SpanContext | None

    @property
    def number(self) -> int:
        """Return the receive count that this attempt started with."""
        return self.incoming.message.receive_count

    @property
    def receives(self) -> int:
        """Return SQS's count by now: a redelivery to this very worker adds to it."""
        return self.lease.message.receive_count

    @property
    def delay(self) -> int:
        """Return the seconds to wait before the next attempt."""
        return self.capped(self.backoff.delay(self.receives))

    def capped(self, delay: float) -> int:
        """Return *delay* in whole seconds, at most what is left of SQS's 12 hours."""
        left = int(self.lease.left(time.monotonic())) - 1
        return max(0, min(round(delay), left))

    @property
    def owner(self) -> str:
        """Return who runs the task: this message, whichever worker has it."""
        return self.incoming.message.message_id

    @property
    def traceparent(self) -> str | None:
        """Return the attempt's span as the next attempt may link it, None where tracing is off."""
        ids = self.span.get_span_context()
        return format_traceparent(ids) if ids.is_valid else None

    def became(self, status: TaskStatus, *, counted: str | None = None) -> None:
        """
        Note what this attempt has made of the task, for the span and the count of attempts.

        Args:
            counted: What it counts as instead, where it was not this attempt that made it so.
        """
        self.span.set_attribute(TASK_STATUS, status.value)
        self.measurement.status = counted or status.value

    @property
    def event(self) -> TaskEvent:
        """Return what the message asks for."""
        event = self.incoming.event
        assert event is not None  # only a readable message gets as far as to be asked
        return event


def process_attributes(
    queue_name: str, incoming: Incoming, waited: Mapping[str, float]
) -> dict[str, Any]:
    """Return the attributes of the ``process`` span, known before it starts."""
    message, event = incoming.message, incoming.event
    known: dict[str, Any] = {
        MESSAGING_SYSTEM: AWS_SQS,
        MESSAGING_DESTINATION: queue_name,
        MESSAGING_OPERATION_NAME: "process",
        MESSAGING_OPERATION_TYPE: "process",
        MESSAGING_MESSAGE_ID: message.message_id,
        MESSAGING_BODY_SIZE: byte_size(message.body),
        RECEIVE_COUNT: message.receive_count,
    }
    if event is not None:
        known |= {TASK_TYPE: event.type, TASK_ID: event.id}
    for stage, seconds in waited.items():
        known[_STAGES[stage]] = milliseconds(seconds)
    return known


def milliseconds(seconds: float) -> float:
    """Return *seconds* in milliseconds, to the microsecond."""
    return round(seconds * 1000, 3)


def waiting_times(incoming: Incoming, lease: Lease, *, now: float) -> Mapping[str, float]:
    """
    Split the time since the send: the delay that was asked for, the backlog, the wait in here.

    The first two only of the first delivery: later ones also waited for a handler and a back-off.
    """
    prefetch = time.monotonic() - lease.received_at
    sent = incoming.message.system.get("SentTimestamp")
    if sent is None or incoming.message.receive_count > 1:
        return {"prefetch": prefetch}
    delay = incoming.event.delay_seconds if incoming.event else 0
    backlog = now - prefetch - int(sent) / 1000 - delay
    return {"delay": delay, "backlog": max(0.0, backlog), "prefetch": prefetch}

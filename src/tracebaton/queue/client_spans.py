"""
Spans of the calls to SQS themselves, for whoever looks into the worker: off unless asked for.

A poll belongs to no request, so ``receive`` is a trace of its own; ``ack`` and ``nack`` are
children of the ``process`` span.
"""

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer

from tracebaton.queue.lease import Lease
from tracebaton.semconv import (
    AWS_SQS,
    MESSAGING_BATCH_COUNT,
    MESSAGING_DESTINATION,
    MESSAGING_MESSAGE_ID,
    MESSAGING_OPERATION_NAME,
    MESSAGING_OPERATION_TYPE,
    MESSAGING_SYSTEM,
)

__all__ = ["ClientSpanKind", "ClientSpans", "Outcome"]

ClientSpanKind = Literal["receive", "settle"]


class Outcome:
    """Whether SQS confirmed a call."""

    confirmed = True


class ClientSpans:
    """Makes the spans of one queue that were asked for."""

    def __init__(self, tracer: Tracer, queue_name: str, kinds: Collection[str] = ()) -> None:
        self._tracer = tracer
        self._queue = queue_name
        self._receive = "receive" in kinds
        #: Whether deletes and changes of visibility have spans.
        self.settles: bool = "settle" in kinds

    def received(self, count: int, seconds: float) -> None:
        """Record a poll that took *seconds* and brought *count* messages."""
        if not self._receive or not count:
            return
        end = time.time_ns()
        span = self._tracer.start_span(
            f"receive {self._queue}",
            context=Context(),
            kind=SpanKind.CLIENT,
            attributes=self._attributes("receive", "receive") | {MESSAGING_BATCH_COUNT: count},
            start_time=end - int(seconds * 1e9),
        )
        span.end(end)

    @contextmanager
    def settling(self, lease: Lease, name: Literal["ack", "nack"]) -> Iterator[Outcome]:
        """Record the settling of a message; the block says in what it gets whether it worked."""
        outcome = Outcome()
        if not self.settles:
            yield outcome
            return
        with self._tracer.start_as_current_span(
            f"{name} {self._queue}",
            context=lease.context,
            kind=SpanKind.CLIENT,
            attributes=self._attributes(name, "settle")
            | {MESSAGING_MESSAGE_ID: lease.message.message_id},
        ) as span:
            yield outcome
            if not outcome.confirmed:
                span.set_status(Status(StatusCode.ERROR, "SQS did not confirm it"))

    def _attributes(self, name: str, kind: str) -> dict[str, Any]:
        return {
            MESSAGING_SYSTEM: AWS_SQS,
            MESSAGING_DESTINATION: self._queue,
            MESSAGING_OPERATION_NAME: name,
            MESSAGING_OPERATION_TYPE: kind,
        }

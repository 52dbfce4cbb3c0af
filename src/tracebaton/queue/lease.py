"""
A lease: the right to work on a received message, and what a handler can know of it.

It starts when the message arrives and lasts until settle. It is lost when SQS refuses an extension
**or** when none was confirmed before the local deadline less a margin: from then on the message may
be another worker's, so this one neither deletes it nor changes its visibility.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Literal, Protocol

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Status, StatusCode

from tracebaton.errors import LeaseLost
from tracebaton.queue.sqs import Received
from tracebaton.semconv import (
    ERROR_TYPE,
    EVENT_LEASE_EXPIRED,
    EVENT_LEASE_LOST,
    LEASE_LOST,
)

__all__ = [
    "LIMIT",
    "LIMIT_MARGIN",
    "MARGIN",
    "HandlerLease",
    "Lease",
    "State",
    "current_lease",
    "lease_of",
]

#: Seconds before the local deadline at which an unconfirmed lease counts as lost.
MARGIN: Final = 2.0
#: SQS's limit on the total visibility of one receive, in seconds.
LIMIT: Final = 43_200.0
#: Seconds before that limit at which the handler is cancelled.
LIMIT_MARGIN: Final = 60.0

_KEY: Final = otel.create_key("tracebaton-lease")

_log = logging.getLogger("tracebaton.worker")

#: Released is a message that was given back unfinished, when the worker stopped.
State = Literal["held", "settling", "released", "lost", "expired"]


class HandlerLease(Protocol):
    """What a handler can know of the lease of its message."""

    @property
    def deadline(self) -> float:
        """
        Return the moment of ``time.monotonic()`` until which the message is confirmed as ours.

        The heartbeat moves it on while the handler runs.
        """
        ...

    @property
    def lost(self) -> bool:
        """
        Tell whether the message is another worker's by now.

        An ``async def`` handler is cancelled then; a ``def`` handler cannot be and should look.
        Whatever it returns is discarded.
        """
        ...


def current_lease() -> HandlerLease | None:
    """Return the lease of the message that is being handled, None outside of a handler."""
    return lease_of(None)


def lease_of(context: Context | None) -> HandlerLease | None:
    """Return the lease in *context*, the current one where it is None."""
    lease = otel.get_value(_KEY, context)
    return lease if isinstance(lease, Lease) else None


class Lease:
    """The lease of one received message."""

    __slots__ = (
        "_on_end",
        "beat",
        "confirmed_at",
        "context",
        "deadline",
        "due",
        "message",
        "received_at",
        "state",
        "task_id",
    )

    def __init__(
        self, message: Received, *, received_at: float, visibility: float, interval: float = 0.0
    ) -> None:
        """
        Take the lease of *message*.

        Args:
            received_at: Monotonic moment of its arrival.
            visibility: Seconds that SQS keeps it invisible from then on.
            interval: Seconds until the first extension is due.
        """
        self.message: Received = message
        self.received_at: float = received_at
        #: Monotonic moment of the call that SQS confirmed last.
        self.confirmed_at: float = received_at
        #: Monotonic moment until which SQS keeps the message invisible, as far as confirmed.
        self.deadline: float = received_at + visibility
        #: Monotonic moment of the next extension.
        self.due: float = received_at + interval
        self.state: State = "held"
        #: The extension that is on its way.
        self.beat: asyncio.Task[None] | None = None
        #: The task that runs under this lease, so that its record lives as long.
        self.task_id: str | None = None
        #: Where the span and the request store of the delivery are, once it has begun.
        self.context: Context | None = None
        self._on_end: Callable[[], object] | None = None

    @property
    def held(self) -> bool:
        """Tell whether the message is still ours."""
        return self.state in {"held", "settling"}

    @property
    def lost(self) -> bool:
        """Tell whether the message is no longer ours."""
        return not self.held

    def entered(self, context: Context) -> Context:
        """Return *context* with this lease as the current one."""
        return Context({**context, _KEY: self})

    def when_over(self, callback: Callable[[], object]) -> None:
        """Call *callback* if the lease is lost or expires before settle."""
        self._on_end = callback

    def finished(self) -> None:
        """
        Let go of what the delivery has left here.

        *context* holds the lease in its turn, and so does the task to be cancelled: a circle a
        message, for which the collector of garbage would run all the time.
        """
        self.context = self._on_end = None

    def left(self, now: float) -> float:
        """Return the seconds that remain of SQS's 12 hours."""
        return self.received_at + LIMIT - now

    def ran_out(self, now: float) -> bool:
        """Tell whether nothing confirms any more that the message is ours."""
        return now >= self.deadline - MARGIN

    def over(self, state: Literal["lost", "expired"]) -> bool:
        """
        End the lease as *state*, once, and say so where its message is being handled.

        False if it is not held any more.
        """
        if self.state != "held":
            return False
        self.state = state
        self._announce(EVENT_LEASE_LOST if state == "lost" else EVENT_LEASE_EXPIRED)
        if self._on_end is not None:
            self._on_end()
        return True

    def _announce(self, event: str) -> None:
        fields = {"message_id": self.message.message_id}
        span = trace.get_current_span(self.context or Context())
        span.set_attributes({LEASE_LOST: True, ERROR_TYPE: LeaseLost.__qualname__})
        span.set_status(Status(StatusCode.ERROR, LeaseLost.code))
        span.add_event(event)
        token = otel.attach(
            self.context or Context()
        )  # the line is the task's, not the heartbeat's
        try:
            _log.warning(event, extra={"fields": fields})
        finally:
            otel.detach(token)

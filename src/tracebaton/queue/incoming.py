"""
Reading: from a received message to what it asks for, whose word it is, and what is wrong with it.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tracebaton.errors import MessageError
from tracebaton.queue.event import TaskEvent, event_of, parse
from tracebaton.queue.foreign import (
    ForeignRoute,
    foreign_event,
    is_event,
    is_notification,
    unwrapped,
)
from tracebaton.queue.message import Received
from tracebaton.queue.signature import MessageKeys
from tracebaton.semconv import (
    AWS_TRACE_HEADER,
    BAGGAGE,
    SENTRY_BAGGAGE_PREFIX,
    TRACEPARENT,
    TRACESTATE,
)
from tracebaton.w3c import parse_baggage

__all__ = ["Incoming", "Reader", "identity_only"]

_CARRIER = (TRACEPARENT, TRACESTATE, BAGGAGE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """
    What a received message says.

    Attributes:
        event: What it asks for, None where that cannot be read.
        problem: Why it cannot be handled, None where nothing is known yet.
        own: One of our producers wrote it, as far as the keys can tell.
        carrier: The trace context and baggage: attributes over envelope.
    """

    message: Received
    event: TaskEvent | None = None
    problem: MessageError | None = None
    own: bool = False
    carrier: Mapping[str, str] = field(default_factory=dict)

    @property
    def trace_header(self) -> str | None:
        """Return AWS's own trace header."""
        return self.message.system.get(AWS_TRACE_HEADER)

    def enqueued_at(self) -> float | None:
        """Return when the sender enqueued it, in seconds since the epoch."""
        if self.event is not None and self.event.time:
            with suppress(ValueError):  # not RFC 3339: SQS knows when it took the message
                return _seconds(self.event.time)
        return self.sent_at

    @property
    def sent_at(self) -> float | None:
        """Return when SQS took the message, in seconds since the epoch."""
        sent = self.message.system.get("SentTimestamp")
        return None if sent is None else int(sent) / 1000


class Reader:
    """Reads the messages of one queue."""

    def __init__(
        self,
        *,
        queue_name: str,
        routes: Sequence[ForeignRoute] = (),
        keys: MessageKeys | None = None,
    ) -> None:
        """
        Set whom to believe.

        Args:
            routes: Name the task types of foreign messages; the first that names one decides.
            keys: With them, only signed messages are handled.
        """
        self._queue_name = queue_name
        self._routes = routes
        self._keys = keys

    def read(self, message: Received) -> Incoming:
        """Return what *message* says; never raises, because each message has to be settled."""
        try:
            document = parse(message.body)
            if self._keys is None and is_event(document) and not is_notification(document):
                said = event_of(document)  # as most messages: nothing to verify or to unwrap
                carrier = _carrier(said, message.attributes)
                return Incoming(message=message, event=said, own=True, carrier=carrier)
            content = unwrapped(message, document)
            believed = content.attributes
            if self._keys is not None and not self._keys.check(
                content.body, content.attributes, content.data
            ):
                believed = {}
        except MessageError as exc:
            event = _claimed(message)
            carrier = _carrier(event, message.attributes)
            return Incoming(message=message, event=event, problem=exc, carrier=carrier)
        own = is_event(content.data)
        try:
            if own:
                event = event_of(content.data)
            else:
                event = foreign_event(content, self._routes, queue_name=self._queue_name)
        except MessageError as exc:
            carrier = _carrier(None, believed)
            return Incoming(message=message, problem=exc, carrier=carrier)
        return Incoming(message=message, event=event, own=own, carrier=_carrier(event, believed))


def _seconds(time: str) -> float:
    moment = datetime.fromisoformat(time)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def identity_only(carrier: Mapping[str, str]) -> dict[str, str]:
    """Return of *carrier* what is about the request's identity and not about its trace."""
    members = parse_baggage([carrier[BAGGAGE]] if BAGGAGE in carrier else [])
    kept = [m.raw for m in members if not m.key.startswith(SENTRY_BAGGAGE_PREFIX)]
    return {BAGGAGE: ",".join(kept)} if kept else {}


def _claimed(message: Received) -> TaskEvent | None:
    """Return the event that an untrusted message claims to be, to find its task by."""
    try:
        return event_of(unwrapped(message, parse(message.body)).data)
    except MessageError:
        return None


def _carrier(event: TaskEvent | None, attributes: Mapping[str, str]) -> dict[str, str]:
    given = {name: attributes[name] for name in _CARRIER if name in attributes}
    if event is None or event.carrier.keys() <= given.keys():
        return given
    envelope = dict(event.carrier)
    if given.get(TRACEPARENT, envelope.get(TRACEPARENT)) != envelope.get(TRACEPARENT):
        envelope.pop(TRACESTATE, None)  # a tracestate belongs to its own traceparent
    return envelope | given

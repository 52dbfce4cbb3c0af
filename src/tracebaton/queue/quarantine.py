"""
Quarantine: the queue for messages that no retry can make readable.

The copy has the body's very bytes and the original's attributes, and says why it is there. The
original is deleted only after SQS has confirmed the copy.
"""

import base64
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Tracer

from tracebaton import problems
from tracebaton.errors import MessageError
from tracebaton.queue.incoming import Incoming
from tracebaton.queue.message import (
    ATTRIBUTES,
    Attribute,
    Outgoing,
    Received,
    attribute_size,
    byte_size,
)
from tracebaton.queue.sqs import Queue, Sqs
from tracebaton.semconv import (
    AWS_SQS,
    MESSAGE_DETAIL,
    MESSAGE_QUARANTINE,
    MESSAGE_REASON,
    MESSAGING_BODY_SIZE,
    MESSAGING_DESTINATION,
    MESSAGING_MESSAGE_ID,
    MESSAGING_OPERATION_NAME,
    MESSAGING_OPERATION_TYPE,
    MESSAGING_SYSTEM,
    TASK_ID,
    TASK_TYPE,
    TRACEPARENT,
)
from tracebaton.tasks.task import rfc3339
from tracebaton.w3c import format_traceparent

__all__ = ["Quarantine", "Quarantined", "quarantined"]

#: Characters of the sentence that stands beside the code.
_DETAIL_LENGTH = 500
#: What SQS does not take in an attribute's value (SendMessage, "invalid characters").
_REFUSED = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_OURS = frozenset({MESSAGE_REASON, MESSAGE_DETAIL, MESSAGE_QUARANTINE})

Attributes = dict[str, str | Attribute]


class Quarantine:
    """Moves messages of one queue to its quarantine queue."""

    def __init__(
        self,
        sqs: Sqs,
        queue: Queue,
        *,
        source: str,
        tracer: Tracer,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Set where to.

        Args:
            source: Name of the queue that the messages come from.
        """
        self._sqs = sqs
        self._source = source
        self._tracer = tracer
        self._now = now
        self.queue = queue

    async def send(
        self, incoming: Incoming, why: MessageError, *, origin: SpanContext | None
    ) -> str:
        """
        Send the copy and return its SQS message id, once SQS has confirmed it.

        Args:
            origin: The span that the message came from.

        Raises:
            MessageTooLarge: Even the body alone is larger than the quarantine queue accepts.
            QueueUnavailable: The send failed.
        """
        with self._tracer.start_as_current_span(
            f"send {self.queue.name}",
            kind=SpanKind.PRODUCER,
            attributes=self._span_attributes(incoming),
            links=() if origin is None else (Link(origin),),
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                copy = self._copy(incoming, why, await self.queue.message_limit(), span)
                message_id = await self._sent(copy)
            except Exception as exc:
                problems.record(exc, problems.outcome_of(exc), span)
                raise
            span.set_attribute(MESSAGING_MESSAGE_ID, message_id)
            return message_id

    async def _sent(self, copy: Outgoing) -> str:
        return await self._sqs.send(
            await self.queue.url(),
            copy.body,
            attributes=copy.attributes,
            group_id=copy.group_id,
            deduplication_id=copy.deduplication_id,
            trace_header=copy.trace_header,
        )

    def _span_attributes(self, incoming: Incoming) -> dict[str, Any]:
        event = incoming.event
        task = {} if event is None else {TASK_TYPE: event.type, TASK_ID: event.id}
        return task | {
            MESSAGING_SYSTEM: AWS_SQS,
            MESSAGING_DESTINATION: self.queue.name,
            MESSAGING_OPERATION_NAME: "send",
            MESSAGING_OPERATION_TYPE: "send",
            MESSAGING_BODY_SIZE: byte_size(incoming.message.body),
        }

    def _copy(self, incoming: Incoming, why: MessageError, limit: int, span: Span) -> Outgoing:
        message = incoming.message
        copy = Outgoing(
            body=message.body,
            attributes=_attributes(message, why.code, self._story(incoming, why, span)),
            group_id=_group(message) if self.queue.fifo else None,
            deduplication_id=message.message_id if self.queue.fifo else None,
            trace_header=incoming.trace_header,
        )
        return _fitting(copy, limit)

    def _story(self, incoming: Incoming, why: MessageError, span: Span) -> dict[str, Any]:
        message, event, ids = incoming.message, incoming.event, span.get_span_context()
        return {
            "reason": why.code,
            "detail": why.detail[:_DETAIL_LENGTH],
            "queue": self._source,
            "message_id": message.message_id,
            "receive_count": message.receive_count,
            "sent_at": rfc3339(incoming.sent_at),
            "quarantined_at": rfc3339(self._now()),
            "group_id": message.system.get("MessageGroupId"),
            "task_id": event.id if event else None,
            "task_type": event.type if event else None,
            # Not the attribute of that name: the message's own one has to stay what it was.
            TRACEPARENT: format_traceparent(ids) if ids.is_valid else None,
            "trace_id": trace.format_trace_id(ids.trace_id) if ids.is_valid else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """
    What a message in the quarantine queue says of itself.

    Attributes:
        reason: The code of the problem.
        story: Everything that was known: ``queue``, ``message_id``, ``task_id``, ``trace_id`` …
        attributes: The original's attributes, those too that did not fit beside ours.
    """

    reason: str
    detail: str
    story: Mapping[str, Any]
    attributes: Mapping[str, Attribute]


def quarantined(message: Received) -> Quarantined:
    """Read a message of the quarantine queue; what was dropped for its size is empty."""
    try:
        story = dict(json.loads(message.attributes.get(MESSAGE_QUARANTINE, "{}")))
        folded = {name: _unfolded(one) for name, one in dict(story.pop("attributes", {})).items()}
    except (ValueError, TypeError, LookupError):  # whoever may send to the queue may write anything
        story, folded = {}, {}
    kept = {name: value for name, value in message.every.items() if name not in _OURS}
    return Quarantined(
        reason=message.attributes.get(MESSAGE_REASON, str(story.get("reason") or "")),
        detail=str(story.get("detail") or message.attributes.get(MESSAGE_DETAIL, "")),
        story=story,
        attributes=kept | folded,
    )


def _attributes(message: Received, reason: str, story: dict[str, Any]) -> Attributes:
    """
    Return ours and the original's, most needed first, at most ten.

    Ours are the code and the JSON story, and the sentence where there is room. The original's that
    find no room are folded into the story.
    """
    room = ATTRIBUTES - 2
    names = [name for name in message.every if name not in _OURS]  # it may have been here before
    folded = {name: _folded(message.every[name]) for name in names[room:]}
    if folded:
        story = story | {"attributes": folded}
    attributes: Attributes = {MESSAGE_REASON: reason, MESSAGE_QUARANTINE: json.dumps(story)}
    attributes |= {name: message.every[name] for name in names[:room]}
    if len(attributes) < ATTRIBUTES:
        attributes[MESSAGE_DETAIL] = _REFUSED.sub("�", story["detail"])
    return attributes


def _fitting(copy: Outgoing, limit: int) -> Outgoing:
    """Drop attributes, the last first, until *copy* fits *limit*; never the body."""
    attributes = dict(copy.attributes)
    size = copy.size
    while size > limit and attributes:
        name, value = attributes.popitem()
        size -= attribute_size(name, value)
    return replace(copy, attributes=attributes)


def _group(message: Received) -> str:
    return message.system.get("MessageGroupId", message.message_id)


def _folded(attribute: Attribute) -> dict[str, str]:
    value = attribute.value
    if isinstance(value, bytes):
        return {"type": attribute.type, "base64": base64.b64encode(value).decode()}
    return {"type": attribute.type, "value": value}


def _unfolded(folded: Mapping[str, str]) -> Attribute:
    if "base64" in folded:
        return Attribute(folded["type"], base64.b64decode(folded["base64"]))
    return Attribute(folded["type"], folded["value"])

"""
Messages that no producer of ours wrote: plain JSON, and what SNS wraps or delivers raw.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tracebaton.errors import MessageError, UndecodableMessage, UnknownTaskType
from tracebaton.queue.event import TaskEvent, parse, text_of
from tracebaton.queue.message import Received

__all__ = [
    "ForeignMessage",
    "ForeignRoute",
    "foreign_event",
    "is_event",
    "is_notification",
    "unwrapped",
]

#: The namespace of task ids that are made of message ids.
_TASKS = uuid.UUID("6f0d3b2c-5c0e-5d4e-9d57-6f7a2b9a4c11")


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignMessage:
    """
    A message as a route sees it.

    Attributes:
        data: The JSON document, which becomes the task's data.
        attributes: The message's text attributes; SNS's own where it wrapped the message.
        message_id: SQS's id, or SNS's where it wrapped the message.
        topic: ARN of the SNS topic that wrapped it, None otherwise.
        body: The text of *data* as it came.
    """

    data: Any
    attributes: Mapping[str, str] = field(default_factory=dict)
    message_id: str = ""
    topic: str | None = None
    body: str = ""


#: Returns the task type of a foreign message, None where it is not for this route.
ForeignRoute = Callable[[ForeignMessage], str | None]


def unwrapped(message: Received, document: Any) -> ForeignMessage:
    """
    Return what *message*, whose body is *document*, holds without SNS's wrapping.

    Raises:
        UndecodableMessage: What SNS wrapped is not JSON.
    """
    if not is_notification(document):
        return ForeignMessage(
            data=document,
            attributes=message.attributes,
            message_id=message.message_id,
            body=message.body,
        )
    return ForeignMessage(
        data=parse(document["Message"]),
        attributes={**message.attributes, **_sns_attributes(document.get("MessageAttributes"))},
        # SNS's own id stays the same when SNS delivers twice.
        message_id=text_of(document.get("MessageId")) or message.message_id,
        topic=text_of(document.get("TopicArn")),
        body=document["Message"],
    )


def is_event(document: Any) -> bool:
    """Tell whether *document* means to be a CloudEvents event, of whatever version."""
    return isinstance(document, dict) and "specversion" in document


def foreign_event(
    message: ForeignMessage, routes: Sequence[ForeignRoute], *, queue_name: str
) -> TaskEvent:
    """
    Return the event that the first matching route makes of *message*.

    Its id comes from the message's, so that a redelivery is the same task.

    Raises:
        UndecodableMessage: There is no route at all.
        UnknownTaskType: No route names a type for this message.
    """
    if not routes:
        raise UndecodableMessage()
    kind = next((kind for route in routes if (kind := _routed(route, message))), None)
    if kind is None:
        raise UnknownTaskType("No route names a task type for this foreign message.")
    if text_of(kind) is None:
        raise UnknownTaskType("The route of foreign messages names a task type that is no text.")
    return TaskEvent(
        id=str(uuid.uuid5(_TASKS, f"{queue_name}/{message.message_id}")),
        source=message.topic or f"/{queue_name}",
        type=kind,
        time="",
        data=message.data,
    )


def _routed(route: ForeignRoute, message: ForeignMessage) -> str | None:
    try:
        return route(message)
    except (MessageError, GeneratorExit, KeyboardInterrupt):
        raise
    except BaseException as exc:  # one that trips over an unknown shape, or exits, names no type
        raise UnknownTaskType(
            f"The route of foreign messages failed with {type(exc).__qualname__}."
        ) from exc


def is_notification(document: Any) -> bool:
    """Tell whether *document* is what SNS wraps a message in."""
    return (
        isinstance(document, dict)
        and document.get("Type") == "Notification"
        and isinstance(document.get("Message"), str)
    )


def _sns_attributes(given: Any) -> dict[str, str]:
    if not isinstance(given, dict):
        return {}
    return {
        name: text
        for name, value in given.items()
        if isinstance(value, dict)
        and value.get("Type") != "Binary"
        and (text := text_of(value.get("Value"))) is not None
    }

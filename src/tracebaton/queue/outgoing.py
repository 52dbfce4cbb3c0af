"""
Messages to send: what callers may ask for, checked before anything is saved or sent.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel, ValidationError

from tracebaton.errors import InvalidTaskData, MessageTooLarge, RequestError
from tracebaton.queue.event import (
    MAX_DELAY,
    SIGNATURE,
    Propagate,
    TaskEvent,
    document_of,
    written,
)
from tracebaton.queue.message import ATTRIBUTES, Outgoing, attribute_size, byte_size
from tracebaton.queue.signature import SIGNATURE_LENGTH, MessageKeys
from tracebaton.queue.sqs import Queue
from tracebaton.semconv import BAGGAGE, MESSAGE_SIGNATURE, TRACEPARENT, TRACESTATE
from tracebaton.tasks import TaskType

__all__ = ["Item", "addressed", "checked", "compose", "model_of"]

#: What SQS takes as MessageGroupId and MessageDeduplicationId.
_FIFO_ID = re.compile(r"[!-~]{1,128}")
#: What SQS takes as an attribute's name; further rules are `_checked_attributes`'s.
_NAME = re.compile(r"(?!\.)(?!.*\.\.)(?!(?i:aws|amazon)\.)[A-Za-z0-9_.-]{1,256}(?<!\.)")
#: Our attributes from the most needed to the least; the envelope repeats each of them.
_CARRIER = (TRACEPARENT, TRACESTATE, BAGGAGE)


@dataclass(frozen=True, slots=True)
class Item:
    """
    One task to enqueue.

    Attributes:
        type: Name of a registered type.
        data: The model of that type, or what it validates.
        delay_seconds: Seconds until the message becomes visible, at most 900; not on a FIFO queue.
        group_id: What a FIFO queue keeps in order; required there, unless the type's ``group``
            names it. On a standard queue it marks a tenant (SQS fair queues).
        deduplication_id: A FIFO queue drops a second message with it for five minutes; the task id
            by default, so that nothing is dropped by its content.
        propagate: Whether the handler's span continues this trace, starts one that links it, or
            neither. Correlation id and user go along in any case.
        attributes: Message attributes for other readers of the queue, at most ten.
    """

    type: str
    data: BaseModel | Mapping[str, Any]
    delay_seconds: int = 0
    group_id: str | None = None
    deduplication_id: str | None = None
    propagate: Propagate = "parent"
    attributes: Mapping[str, str] = field(default_factory=dict)


def model_of(kind: TaskType, item: Item) -> BaseModel:
    """
    Return the validated data of *item*.

    Raises:
        InvalidTaskData: It does not fit the type's model.
    """
    if isinstance(item.data, kind.model):
        return item.data
    try:
        return kind.model.model_validate(item.data)
    except ValidationError as exc:
        fields = ", ".join(".".join(map(str, error["loc"])) for error in exc.errors())
        raise InvalidTaskData(
            f"The data of the task type {kind.name!r} does not fit its model: {fields}."
        ) from exc


def checked(item: Item, kind: TaskType, model: BaseModel, queue: Queue) -> Item:
    """
    Return *item* with its FIFO group, if SQS will take it.

    Raises:
        RequestError: SQS knows no such delay, group, deduplication id or attribute here.
    """
    if item.propagate not in {"parent", "link", "none"}:
        raise RequestError(f"propagate is {item.propagate!r}; it can be parent, link or none.")
    _check_attributes(item.attributes)
    _check_delay(item.delay_seconds, queue)
    group_id = item.group_id
    if group_id is None and queue.fifo and kind.group is not None:
        group_id = kind.group(model)
    if group_id is None and queue.fifo:
        raise RequestError(
            f"{queue.name} is a FIFO queue, which keeps order within a group: name it by group_id,"
            f" or give the task type {kind.name!r} a group function."
        )
    if item.deduplication_id is not None and not queue.fifo:
        raise RequestError(f"{queue.name} is no FIFO queue and knows no deduplication_id.")
    for name, value in (("group_id", group_id), ("deduplication_id", item.deduplication_id)):
        if value is not None and not _FIFO_ID.fullmatch(value):
            raise RequestError(f"{name} is {value!r}; SQS takes 1 to 128 visible ASCII characters.")
    return item if group_id == item.group_id else replace(item, group_id=group_id)


def compose(
    event: TaskEvent, item: Item, *, queue: Queue, limit: int, keys: MessageKeys | None
) -> Outgoing:
    """
    Return the message of *event*, signed where there are *keys*.

    Attributes that do not fit beside the body stay in the envelope alone, the last first.

    Raises:
        MessageTooLarge: What has to go is over *limit* bytes.
    """
    document = document_of(event)
    if keys is not None and len(item.attributes) >= ATTRIBUTES:
        document[SIGNATURE] = keys.sign_document(document)
    return addressed(written(document), event, item, queue=queue, limit=limit, keys=keys)


def addressed(
    body: str,
    event: TaskEvent,
    item: Item,
    *,
    queue: Queue,
    limit: int,
    keys: MessageKeys | None,
) -> Outgoing:
    """
    Return the message of *body*, with the attributes of *event*'s carrier as far as they fit.

    Raises:
        MessageTooLarge: What has to go is over *limit* bytes.
    """
    signed = keys is not None and len(item.attributes) < ATTRIBUTES  # else it is in the body
    attributes = _fitting(body, item.attributes, event.carrier, limit=limit, signature=signed)
    if keys is not None and signed:
        attributes[MESSAGE_SIGNATURE] = keys.sign(body, attributes)
    return Outgoing(
        body=body,
        attributes=attributes,
        delay_seconds=item.delay_seconds,
        group_id=item.group_id,
        deduplication_id=(item.deduplication_id or event.id) if queue.fifo else None,
    )


def _fitting(
    body: str,
    own: Mapping[str, str],
    carrier: Mapping[str, str],
    *,
    limit: int,
    signature: bool,
) -> dict[str, str]:
    """Return the caller's attributes and as many of the *carrier*'s as there is room for."""
    attributes = dict(own)
    size = byte_size(body) + sum(attribute_size(name, value) for name, value in own.items())
    if signature:
        size += attribute_size(MESSAGE_SIGNATURE, "x" * SIGNATURE_LENGTH)
    if size > limit:
        raise MessageTooLarge(f"The message has {size} bytes, the queue's limit is {limit}.")
    for name in _CARRIER:
        if name not in carrier or name in own:
            continue  # a context that the caller chose stays
        size += attribute_size(name, carrier[name])
        if size > limit or len(attributes) + signature >= ATTRIBUTES:
            break
        attributes[name] = carrier[name]
    return attributes


def _check_delay(seconds: int, queue: Queue) -> None:
    if seconds and queue.fifo:
        raise RequestError(f"{queue.name} is a FIFO queue, which delays no single message.")
    if not 0 <= seconds <= MAX_DELAY:
        raise RequestError(
            f"A delay of {seconds} s was asked for; SQS delays a message by 0 to {MAX_DELAY} s."
            " Use a scheduler for longer ones."
        )


def _check_attributes(attributes: Mapping[str, str]) -> None:
    if len(attributes) > ATTRIBUTES:
        raise RequestError(
            f"{len(attributes)} message attributes were given; SQS takes {ATTRIBUTES}."
        )
    for name, value in attributes.items():
        if not _NAME.fullmatch(name) or name == MESSAGE_SIGNATURE:
            raise RequestError(f"{name!r} cannot be the name of a message attribute.")
        if not value:
            raise RequestError(f"The message attribute {name!r} is empty.")

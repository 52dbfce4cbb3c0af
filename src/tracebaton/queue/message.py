"""
A message at the border: as SQS handed it out, and as it is handed to SQS.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tracebaton.errors import TracebatonError

__all__ = [
    "ATTRIBUTES",
    "Attribute",
    "Outgoing",
    "Received",
    "Sent",
    "attribute_size",
    "byte_size",
    "received",
    "request_entry",
]

#: The most attributes SQS takes with one message.
ATTRIBUTES = 10


@dataclass(frozen=True, slots=True)
class Attribute:
    """
    A message attribute.

    Attributes:
        type: ``String``, ``Number`` or ``Binary``, or one of these with a label behind a dot.
    """

    type: str
    value: str | bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """
    A message as SQS handed it out.

    Attributes:
        attributes: Those that are text.
        every: All of them, with their types, so that they can be sent on unchanged.
        system: SQS's own, such as ``SentTimestamp``.
        receive_count: How many times SQS has handed this message out, this time included.
    """

    message_id: str
    receipt_handle: str
    body: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    every: Mapping[str, Attribute] = field(default_factory=dict)
    system: Mapping[str, str] = field(default_factory=dict)
    receive_count: int = field(init=False)

    def __post_init__(self) -> None:
        count = int(self.system.get("ApproximateReceiveCount", "1"))
        object.__setattr__(self, "receive_count", count)

    @classmethod
    def of(
        cls,
        message_id: str,
        receipt_handle: str,
        body: str,
        *,
        every: Mapping[str, Attribute],
        system: Mapping[str, str],
    ) -> "Received":
        """Return the message that has these, its text attributes picked out."""
        texts = {name: one.value for name, one in every.items() if isinstance(one.value, str)}
        return cls(
            message_id=message_id,
            receipt_handle=receipt_handle,
            body=body,
            attributes=texts,
            every=every,
            system=system,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """
    A message to send.

    Attributes:
        attributes: A plain string is a ``String`` attribute.
        trace_header: ``AWSTraceHeader``, which does not count among the attributes.
    """

    body: str
    attributes: Mapping[str, str | Attribute] = field(default_factory=dict)
    delay_seconds: int = 0
    group_id: str | None = None
    deduplication_id: str | None = None
    trace_header: str | None = None

    @property
    def size(self) -> int:
        """Return what counts toward the limit: body, and attribute names, types and values."""
        size = byte_size(self.body)
        for name, value in self.attributes.items():
            size += attribute_size(name, value)
        return size


@dataclass(frozen=True, slots=True)
class Sent:
    """
    What became of one message of a batch.

    Attributes:
        message_id: SQS's id, None if it was not sent.
        again: It failed on SQS's side and is worth another try.
    """

    message_id: str | None
    error: TracebatonError | None = None
    again: bool = False


def byte_size(text: str) -> int:
    """Return the UTF-8 bytes of *text*."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def attribute_size(name: str, value: str | Attribute) -> int:
    """Return what the attribute counts toward a message's size."""
    if isinstance(value, str):
        return byte_size(name) + len("String") + byte_size(value)
    content = value.value
    size = len(content) if isinstance(content, bytes) else byte_size(content)
    return byte_size(name) + byte_size(value.type) + size


def received(document: Mapping[str, Any]) -> Received:
    """Return the message that boto3 returned as *document*."""
    every = {
        name: Attribute(value["DataType"], value.get("StringValue", value.get("BinaryValue", b"")))
        for name, value in document.get("MessageAttributes", {}).items()
    }
    return Received.of(
        *(document["MessageId"], document["ReceiptHandle"], document["Body"]),
        every=every,
        system=document.get("Attributes", {}),
    )


def request_entry(message: Outgoing) -> dict[str, Any]:
    """Return *message* as ``SendMessage`` and an entry of ``SendMessageBatch`` take it."""
    entry: dict[str, Any] = {
        "MessageBody": message.body,
        "MessageAttributes": {name: _wire(value) for name, value in message.attributes.items()},
    }
    if message.delay_seconds:
        entry["DelaySeconds"] = message.delay_seconds
    if message.group_id is not None:
        entry["MessageGroupId"] = message.group_id
    if message.deduplication_id is not None:
        entry["MessageDeduplicationId"] = message.deduplication_id
    if message.trace_header is not None:
        entry["MessageSystemAttributes"] = {"AWSTraceHeader": _wire(message.trace_header)}
    return entry


def _wire(value: str | Attribute) -> dict[str, Any]:
    if isinstance(value, str):
        return {"DataType": "String", "StringValue": value}
    field_name = "BinaryValue" if isinstance(value.value, bytes) else "StringValue"
    return {"DataType": value.type, field_name: value.value}

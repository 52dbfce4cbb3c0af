"""What a message carries: body, attributes, their digests and the limits on them."""

import base64
import binascii
import hashlib
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import uuid_utils

from tracebaton.local.clock import Clock
from tracebaton.local.refusal import Refusal, invalid, missing

__all__ = ["Attribute", "Content", "Message", "Selection", "Sent", "check_token", "digest"]

#: Message attributes that SQS takes on one message.
_MOST_ATTRIBUTES: Final = 10
#: Everything outside the characters that SQS takes in a body or a string value.
_FORBIDDEN: Final = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ATTRIBUTE_NAME: Final = re.compile(
    r"(?!(?:aws|amazon)\.)[a-z0-9_-]+(?:\.[a-z0-9_-]+)*", re.I | re.A
)
_DATA_TYPE: Final = re.compile(r"(?:String|Number|Binary)(?:\.[ -~]+)?")
_NUMBER: Final = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.A)
_TOKEN: Final = re.compile(r"[!-~]{1,128}")
_TRACE_HEADER: Final = "AWSTraceHeader"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """One message attribute; the value is held as bytes, as it is measured and digested."""

    name: str
    data_type: str
    value: bytes

    @property
    def binary(self) -> bool:
        """Return whether the value travels as Base64."""
        return self.data_type.startswith("Binary")

    @property
    def size(self) -> int:
        """Return the bytes that count toward the message's size."""
        return len(self.name.encode()) + len(self.data_type.encode()) + len(self.value)

    def wire(self) -> dict[str, str]:
        """Return the attribute as ReceiveMessage spells it."""
        if self.binary:
            return {
                "DataType": self.data_type,
                "BinaryValue": base64.b64encode(self.value).decode(),
            }
        return {"DataType": self.data_type, "StringValue": self.value.decode()}


def digest(attributes: Iterable[Attribute]) -> str:
    """Return the MD5 that SQS gives for *attributes*, which are sorted by name."""
    md5 = hashlib.md5(usedforsecurity=False)
    for attribute in attributes:
        for part in (attribute.name.encode(), attribute.data_type.encode()):
            md5.update(struct.pack(">I", len(part)) + part)
        md5.update(b"\x02" if attribute.binary else b"\x01")
        md5.update(struct.pack(">I", len(attribute.value)) + attribute.value)
    return md5.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a producer sent; it never changes, whichever queue holds the message."""

    body: str
    body_digest: str
    attributes: tuple[Attribute, ...] = ()
    attributes_digest: str | None = None
    trace_header: Attribute | None = None
    group_id: str | None = None
    deduplication_id: str | None = None
    size: int

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> "Content":
        """Return the content of a SendMessage request or batch entry, or refuse it."""
        body = entry.get("MessageBody")
        if not body:
            raise missing("MessageBody")
        _check_characters(body)
        group_id = entry.get("MessageGroupId")
        if group_id is not None:
            check_token("MessageGroupId", group_id)
        deduplication_id = entry.get("MessageDeduplicationId")
        if deduplication_id is not None:
            check_token("MessageDeduplicationId", deduplication_id)
        attributes = _attributes(entry.get("MessageAttributes") or {})
        encoded = body.encode()
        return cls(
            body=body,
            body_digest=hashlib.md5(encoded, usedforsecurity=False).hexdigest(),
            attributes=attributes,
            attributes_digest=digest(attributes) if attributes else None,
            trace_header=_trace_header(entry.get("MessageSystemAttributes") or {}),
            group_id=group_id,
            deduplication_id=deduplication_id,
            size=len(encoded) + sum(attribute.size for attribute in attributes),
        )


@dataclass(slots=True, eq=False, kw_only=True)
class Message:
    """
    A message in a queue.

    Attributes:
        sent: Monotonic time of the send, kept by a move to a DLQ: retention counts from it.
        sent_at, first_received_at: Wall time in milliseconds.
        receive_count: Receives in all queues, what ``ApproximateReceiveCount`` shows.
        receives_here: Receives since it came to this queue, what ``maxReceiveCount`` limits.
        received: Monotonic time of the last receive, from which the 12 hours count.
        twin: The handle of a receive that was repeated while the message was in flight; it holds
            the message beside *handle*.
        source_arn: The queue it was moved from by a redrive policy.
        sequence: Its place in a FIFO queue, 0 in a standard one.
        deduplication_id: What a FIFO queue knows it by: given, or the digest of the body.
    """

    id: str
    content: Content
    sent: float
    sent_at: int
    first_received_at: int | None = None
    receive_count: int = 0
    receives_here: int = 0
    received: float = 0.0
    handle: str = field(default="", repr=False)
    twin: str = field(default="", repr=False)
    source_arn: str | None = None
    sequence: int = 0
    deduplication_id: str | None = None

    @classmethod
    def new(cls, content: Content, clock: Clock) -> "Message":
        """Return a message with *content* that is sent now, under a fresh id."""
        return cls(
            id=str(uuid_utils.uuid4()),
            content=content,
            sent=clock.monotonic(),
            sent_at=int(clock.wall() * 1000),
        )

    @property
    def sequence_number(self) -> str | None:
        """Return the 20 digits of ``SequenceNumber``, None in a standard queue."""
        return f"{self.sequence:020d}" if self.sequence else None


class Sent(NamedTuple):
    """What the producer is told; a duplicate is told what the first one was."""

    id: str
    sequence_number: str | None = None


class Selection:
    """The message attributes a receive asks for: names, ``prefix.*``, ``All`` or ``.*``."""

    __slots__ = ("_all", "_names", "_prefixes")

    def __init__(self, names: Iterable[str]) -> None:
        asked = frozenset(names)
        # A lone star is not documented, but AWS takes it for all.
        self._all = not asked.isdisjoint(("All", ".*", "*"))
        self._prefixes = tuple(name.removesuffix(".*") for name in asked if name.endswith(".*"))
        self._names = asked

    def of(self, content: Content) -> tuple[tuple[Attribute, ...], str | None]:
        """Return the asked attributes of *content* and the digest over just these."""
        if self._all or not content.attributes:
            return content.attributes, content.attributes_digest
        chosen = tuple(
            attribute
            for attribute in content.attributes
            if attribute.name in self._names or attribute.name.startswith(self._prefixes)
        )
        return chosen, digest(chosen) if chosen else None


def check_token(name: str, token: str) -> None:
    """Refuse an id, the parameter *name*, for its characters or its length."""
    if not _TOKEN.fullmatch(token):
        reason = f"{name} can only include alphanumeric and punctuation characters. "
        raise invalid(token, name, f"{reason}1 to 128 in length.")


def _check_characters(text: str) -> None:
    if _FORBIDDEN.search(text):
        allowed = "#x9 | #xA | #xD | #x20 to #xD7FF | #xE000 to #xFFFD | #x10000 to #x10FFFF"
        raise Refusal(
            "InvalidMessageContents",
            f"Invalid characters found. Valid unicode characters are {allowed}",
        )


def _attributes(given: Mapping[str, Any]) -> tuple[Attribute, ...]:
    if len(given) > _MOST_ATTRIBUTES:
        raise _refused(
            f"Number of message attributes [{len(given)}] exceeds the allowed maximum "
            f"[{_MOST_ATTRIBUTES}]."
        )
    return tuple(_attribute(name, given[name]) for name in sorted(given))


def _attribute(name: str, given: Mapping[str, Any]) -> Attribute:
    if len(name) > 256 or not _ATTRIBUTE_NAME.fullmatch(name):
        raise _refused(
            f"Message (user) attribute name '{name}' is invalid: up to 256 letters, digits, "
            "underscores, hyphens and single periods inside, and no prefix 'AWS.' or 'Amazon.'."
        )
    data_type = given.get("DataType")
    if not data_type or len(data_type) > 256 or not _DATA_TYPE.fullmatch(data_type):
        raise _refused(
            f"The type of message (user) attribute '{name}' is invalid. You must use only the "
            "following supported type prefixes: Binary, Number, String."
        )
    attribute = Attribute(name=name, data_type=data_type, value=_value(name, data_type, given))
    if data_type.startswith("Number") and not _NUMBER.fullmatch(attribute.value.decode()):
        raise _refused(f"Can't cast the value of message (user) attribute '{name}' to a number.")
    return attribute


def _value(name: str, data_type: str, given: Mapping[str, Any]) -> bytes:
    kind = data_type.split(".", 1)[0]
    value = given.get("BinaryValue" if kind == "Binary" else "StringValue")
    if not value:
        raise _refused(
            f"Message (user) attribute '{name}' must contain a non-empty value of type '{kind}'."
        )
    if kind != "Binary":
        try:
            _check_characters(value)
        except Refusal as exc:
            raise _refused(str(exc)) from exc
        return bytes(value, "utf-8")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise Refusal("SerializationException", f"'{name}' is not Base64.") from exc


def _trace_header(given: Mapping[str, Any]) -> Attribute | None:
    for name in given:
        if name != _TRACE_HEADER:
            raise _refused(f"Message system attribute name '{name}' is invalid.")
    header = given.get(_TRACE_HEADER)
    if header is None:
        return None
    if header.get("DataType") != "String":
        raise _refused(f"Message system attribute '{_TRACE_HEADER}' must be of type 'String'.")
    return Attribute(
        name=_TRACE_HEADER, data_type="String", value=_value(_TRACE_HEADER, "String", header)
    )


def _refused(text: str) -> Refusal:
    return Refusal("InvalidParameterValueException", text)

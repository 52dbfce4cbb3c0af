"""One request of the SQS JSON protocol: its parameters, checked for their JSON types."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from tracebaton.local.broker import ACCOUNT, Broker
from tracebaton.local.queues import Queue
from tracebaton.local.refusal import Refusal, invalid, missing
from tracebaton.local.strike import Strike

__all__ = [
    "Call",
    "ClientExchange",
    "Exchange",
    "Reply",
    "parse_request",
    "refused",
    "succeeded",
    "whole",
]

_TEXTS: Final = frozenset(
    {
        "BinaryValue",
        "DataType",
        "DestinationArn",
        "Id",
        "MessageBody",
        "MessageDeduplicationId",
        "MessageGroupId",
        "NextToken",
        "QueueName",
        "QueueNamePrefix",
        "QueueUrl",
        "ReceiptHandle",
        "ReceiveRequestAttemptId",
        "SourceArn",
        "StringValue",
        "TaskHandle",
    }
)
_NUMBERS: Final = frozenset(
    {
        "DelaySeconds",
        "MaxNumberOfMessages",
        "MaxNumberOfMessagesPerSecond",
        "MaxResults",
        "VisibilityTimeout",
        "WaitTimeSeconds",
    }
)
_LISTS: Final = frozenset(
    {"AttributeNames", "MessageAttributeNames", "MessageSystemAttributeNames", "TagKeys"}
)
_MAPS: Final = frozenset({"Attributes", "Tags", "tags"})
_ATTRIBUTES: Final = frozenset({"MessageAttributes", "MessageSystemAttributes"})


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer; *error* is the ``x-amzn-query-error`` header."""

    status: int
    body: bytes
    error: str | None = None


class Exchange(Protocol):
    """Where the answer to one request goes."""

    def alive(self) -> bool:
        """Return whether the client is still there."""
        ...

    def reply(self, reply: Reply) -> None:
        """Send the answer; called once."""
        ...


class ClientExchange(Exchange, Protocol):
    """An exchange with a client, which a fault may break."""

    def reset(self) -> None:
        """Reset the connection instead of an answer."""
        ...


@dataclass(frozen=True, slots=True)
class Call:
    """A request, with the broker it is for and the faults that befall it."""

    broker: Broker
    base_url: str
    request: Mapping[str, Any]
    exchange: Exchange
    strike: Strike | None = None

    def required(self, name: str) -> Any:
        """Return the parameter *name*, which may not be absent."""
        value = self.request.get(name)
        if value is None:
            raise missing(name)
        return value

    def queue(self) -> Queue:
        """Return the queue of ``QueueUrl``; only the name at its end counts."""
        return self.broker.get(str(self.required("QueueUrl")).rpartition("/")[2])

    def url(self, name: str) -> str:
        """Return the URL of the queue called *name*."""
        return f"{self.base_url}/{ACCOUNT}/{name}"


def succeeded(answer: Mapping[str, Any]) -> Reply:
    """Return the 200 with *answer*."""
    return Reply(200, json.dumps(answer).encode())


def refused(refusal: Refusal) -> Reply:
    """Return the error answer of *refusal*, in both spellings that SDKs look for."""
    body = {"__type": f"com.amazonaws.sqs#{refusal.shape}", "message": str(refusal)}
    fault = "Sender" if refusal.sender_fault else "Receiver"
    return Reply(refusal.status, json.dumps(body).encode(), f"{refusal.query_code};{fault}")


def whole(request: Mapping[str, Any], name: str, *, most: int, default: int) -> int:
    """Return the parameter *name*, a number from 0 to *most*."""
    value = request.get(name)
    if value is None:
        return default
    if not 0 <= value <= most:
        raise invalid(value, name, f"Must be >= 0 and <= {most}, if provided.")
    return int(value)


def parse_request(body: bytes) -> dict[str, Any]:
    """Return the parameters in *body*: null dropped, known names of the right JSON type."""
    try:
        request = json.loads(body or b"{}")
    except (ValueError, RecursionError) as exc:
        raise _unreadable("The body is not JSON.") from exc
    return _members("The body", request)


def _members(name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _unreadable(f"{name} must be an object.")
    return {key: _checked(key, member) for key, member in value.items() if member is not None}


def _checked(name: str, value: object) -> Any:
    if name in _TEXTS:
        return _typed(name, value, str)
    if name in _NUMBERS:
        return _typed(name, value, int)
    if name in _LISTS:
        return [_typed(name, member, str) for member in _typed(name, value, list)]
    if name in _MAPS:
        return _mapped(name, value, lambda member: _typed(name, member, str))
    if name in _ATTRIBUTES:
        return _mapped(name, value, lambda member: _members(name, member))
    if name == "Entries":
        return [_members(name, member) for member in _typed(name, value, list)]
    return value


def _mapped(name: str, value: object, checked: Callable[[Any], Any]) -> dict[str, Any]:
    return {key: checked(member) for key, member in _typed(name, value, dict).items()}


def _typed(name: str, value: object, kind: type) -> Any:
    # JSON's true is no number, though Python's is.
    if not isinstance(value, kind) or isinstance(value, bool):
        raise _unreadable(f"{name} has the wrong JSON type.")
    return value


def _unreadable(text: str) -> Refusal:
    return Refusal("SerializationException", text)

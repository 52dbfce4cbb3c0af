"""The attributes of a queue: parsed, checked against SQS's ranges, printed again."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from tracebaton.local.refusal import Refusal, invalid

__all__ = ["Fifo", "QueueAttributes", "RedrivePolicy", "allows_source"]

#: Attribute -> its lowest and highest value.
_RANGES: Final[Mapping[str, tuple[int, int]]] = {
    "DelaySeconds": (0, 900),
    "MaximumMessageSize": (1024, 1_048_576),
    "MessageRetentionPeriod": (60, 1_209_600),
    "ReceiveMessageWaitTimeSeconds": (0, 20),
    "VisibilityTimeout": (0, 43_200),
    "KmsDataKeyReusePeriodSeconds": (60, 86_400),
}
#: Attributes that are kept and shown, but change nothing here.
_KEPT: Final = frozenset({"Policy", "KmsMasterKeyId", "SqsManagedSseEnabled"})
_ARN: Final = re.compile(r"arn:aws:sqs:[a-z0-9-]+:\d{12}:[A-Za-z0-9_-]{1,80}(?:\.fifo)?")
_MOST_RECEIVES: Final = 1000
#: Attribute of FIFO queues -> its values, the default first.
_CHOICES: Final[Mapping[str, tuple[str, str]]] = {
    "ContentBasedDeduplication": ("false", "true"),
    "DeduplicationScope": ("queue", "messageGroup"),
    "FifoThroughputLimit": ("perQueue", "perMessageGroupId"),
}


@dataclass(frozen=True, slots=True)
class RedrivePolicy:
    """When a message is moved, and where to."""

    target_arn: str
    max_receive_count: int

    def __str__(self) -> str:
        return json.dumps(
            {"deadLetterTargetArn": self.target_arn, "maxReceiveCount": self.max_receive_count}
        )


@dataclass(frozen=True, slots=True)
class Fifo:
    """What only a FIFO queue has; the throughput limit is kept and shown, and limits nothing."""

    content_based_deduplication: bool = False
    deduplication_scope: str = "queue"
    throughput_limit: str = "perQueue"

    def texts(self) -> dict[str, str]:
        """Return the attributes as GetQueueAttributes spells them."""
        return {
            "FifoQueue": "true",
            "ContentBasedDeduplication": str(self.content_based_deduplication).lower(),
            "DeduplicationScope": self.deduplication_scope,
            "FifoThroughputLimit": self.throughput_limit,
        }

    def changed(self, name: str, value: str) -> "Fifo":
        """Return these attributes with one changed, or refuse its value."""
        match name:
            case "FifoQueue" if value.lower() != "true":
                text = "Invalid value for the parameter FifoQueue. Reason: Modifying queue type is "
                raise Refusal("InvalidAttributeValue", f"{text}not supported.")
            case "ContentBasedDeduplication":
                return replace(
                    self, content_based_deduplication=_choice(name, value.lower()) == "true"
                )
            case "DeduplicationScope":
                return replace(self, deduplication_scope=_choice(name, value))
            case "FifoThroughputLimit":
                return replace(self, throughput_limit=_choice(name, value))
            case _:
                return self


@dataclass(frozen=True, slots=True)
class QueueAttributes:
    """What CreateQueue and SetQueueAttributes set; the defaults are those of SQS."""

    delay_seconds: int = 0
    maximum_message_size: int = 1_048_576
    message_retention_period: int = 345_600
    receive_wait_seconds: int = 0
    visibility_timeout: int = 30
    redrive_policy: RedrivePolicy | None = None
    fifo: Fifo | None = None
    kept: Mapping[str, str] = field(default_factory=lambda: {"SqsManagedSseEnabled": "true"})

    def changed(self, given: Mapping[str, str]) -> "QueueAttributes":
        """Return these attributes with *given* applied, or refuse a name or a value."""
        attributes = self
        for name, value in given.items():
            attributes = attributes._with(name, value)
        _check_throughput(attributes.fifo)
        return attributes

    def texts(self) -> dict[str, str]:
        """Return every attribute as GetQueueAttributes spells it."""
        texts = {
            "DelaySeconds": str(self.delay_seconds),
            "MaximumMessageSize": str(self.maximum_message_size),
            "MessageRetentionPeriod": str(self.message_retention_period),
            "ReceiveMessageWaitTimeSeconds": str(self.receive_wait_seconds),
            "VisibilityTimeout": str(self.visibility_timeout),
            **self.kept,
        }
        if self.redrive_policy is not None:
            texts["RedrivePolicy"] = str(self.redrive_policy)
        if self.fifo is not None:
            texts |= self.fifo.texts()
        return texts

    def _with(self, name: str, value: str) -> "QueueAttributes":
        match name:
            case "DelaySeconds":
                return replace(self, delay_seconds=_number(name, value))
            case "MaximumMessageSize":
                return replace(self, maximum_message_size=_number(name, value))
            case "MessageRetentionPeriod":
                return replace(self, message_retention_period=_number(name, value))
            case "ReceiveMessageWaitTimeSeconds":
                return replace(self, receive_wait_seconds=_number(name, value))
            case "VisibilityTimeout":
                return replace(self, visibility_timeout=_number(name, value))
            case "RedrivePolicy":
                return replace(self, redrive_policy=_redrive_policy(value))
            case (
                "FifoQueue"
                | "ContentBasedDeduplication"
                | "DeduplicationScope"
                | ("FifoThroughputLimit")
            ):
                return replace(self, fifo=_of_fifo(self.fifo, name).changed(name, value))
            case _:
                return self._keeping(name, value)

    def _keeping(self, name: str, value: str) -> "QueueAttributes":
        if name == "KmsDataKeyReusePeriodSeconds":
            value = str(_number(name, value))
        elif name == "RedriveAllowPolicy":
            value = _redrive_allow_policy(value)
        elif name not in _KEPT:
            raise Refusal("InvalidAttributeName", f"Unknown Attribute {name}.")
        kept = {key: text for key, text in self.kept.items() if key != name}
        return replace(self, kept={**kept, name: value} if value else kept)


def allows_source(attributes: QueueAttributes, source_arn: str) -> bool:
    """Return whether the queue with *attributes* may be the DLQ of *source_arn*."""
    text = attributes.kept.get("RedriveAllowPolicy")
    policy = json.loads(text) if text else {}
    match policy.get("redrivePermission", "allowAll"):
        case "denyAll":
            return False
        case "byQueue":
            return source_arn in policy.get("sourceQueueArns", ())
        case _:
            return True


def _of_fifo(fifo: Fifo | None, name: str) -> Fifo:
    if fifo is not None:
        return fifo
    if name in ("DeduplicationScope", "FifoThroughputLimit"):
        text = f"You can specify the {name} only when FifoQueue is set to true."
        raise Refusal("InvalidAttributeName", text)
    raise Refusal("InvalidAttributeName", f"Unknown Attribute {name}.")


def _check_throughput(fifo: Fifo | None) -> None:
    if (
        fifo is not None
        and fifo.throughput_limit == "perMessageGroupId"
        and fifo.deduplication_scope != "messageGroup"
    ):
        text = "The perMessageGroupId value is allowed only when the value for DeduplicationScope "
        raise Refusal("InvalidAttributeValue", f"{text}is messageGroup.")


def _choice(name: str, value: str) -> str:
    if value not in _CHOICES[name]:
        raise Refusal("InvalidAttributeValue", f"Invalid value for the parameter {name}.")
    return value


def _number(name: str, value: str) -> int:
    low, high = _RANGES[name]
    if not re.fullmatch(r"[0-9]{1,9}", value) or not low <= int(value) <= high:
        raise Refusal("InvalidAttributeValue", f"Invalid value for the parameter {name}.")
    return int(value)


def _object(name: str, value: str) -> dict[str, Any]:
    try:
        policy = json.loads(value)
    except ValueError as exc:
        raise invalid(value, name, "Redrive policy is not a valid JSON map.") from exc
    if not isinstance(policy, dict):
        raise invalid(value, name, "Redrive policy is not a valid JSON map.")
    return policy


def _redrive_policy(value: str) -> RedrivePolicy | None:
    if not value:
        return None
    policy = _object("RedrivePolicy", value)
    target = policy.get("deadLetterTargetArn")
    if not isinstance(target, str) or not _ARN.fullmatch(target):
        raise invalid(value, "RedrivePolicy", "Invalid value for deadLetterTargetArn.")
    # The console and CloudFormation send the count as a string. Default 10: API reference.
    count = str(policy.get("maxReceiveCount", 10))
    if not re.fullmatch(r"[0-9]{1,4}", count) or not 1 <= int(count) <= _MOST_RECEIVES:
        reason = f"Invalid value for maxReceiveCount: {count}, valid values are from 1 to "
        raise invalid(value, "RedrivePolicy", f"{reason}{_MOST_RECEIVES} both inclusive.")
    return RedrivePolicy(target, int(count))


def _redrive_allow_policy(value: str) -> str:
    if not value:
        return ""
    policy = _object("RedriveAllowPolicy", value)
    permission = policy.get("redrivePermission", "allowAll")
    arns = policy.get("sourceQueueArns")
    listed = isinstance(arns, list) and 1 <= len(arns) <= 10
    known = permission in ("allowAll", "denyAll", "byQueue")
    if not known or listed != (permission == "byQueue") or (arns is not None and not listed):
        raise invalid(
            value,
            "RedriveAllowPolicy",
            "redrivePermission must be allowAll, denyAll or byQueue, and sourceQueueArns must "
            "list 1 to 10 queues with byQueue and be absent otherwise.",
        )
    return json.dumps(policy)

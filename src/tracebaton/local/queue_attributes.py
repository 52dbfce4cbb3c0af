"""The attributes of a queue: parsed, checked against SQS's ranges, printed again."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from tracebaton.local.refusal import Refusal, invalid

__all__ = ["QueueAttributes", "RedrivePolicy", "allows_source"]

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
class QueueAttributes:
    """What CreateQueue and SetQueueAttributes set; the defaults are those of SQS."""

    delay_seconds: int = 0
    maximum_message_size: int = 1_048_576
    message_retention_period: int = 345_600
    receive_wait_seconds: int = 0
    visibility_timeout: int = 30
    redrive_policy: RedrivePolicy | None = None
    kept: Mapping[str, str] = field(default_factory=lambda: {"SqsManagedSseEnabled": "true"})

    def changed(self, given: Mapping[str, str]) -> "QueueAttributes":
        """Return these attributes with *given* applied, or refuse a name or a value."""
        attributes = self
        for name, value in given.items():
            attributes = attributes._with(name, value)
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

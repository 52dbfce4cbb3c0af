"""The errors of SQS as its JSON protocol spells them."""

from collections.abc import Mapping
from typing import Final

__all__ = ["ExpiredHandle", "Refusal", "invalid", "missing", "no_queue", "other_type"]

_PREFIX = "AWS.SimpleQueueService."

#: Error shape -> code of the older query protocol, which boto3 shows as ``Error.Code``. Shapes not
#: listed have the same name in both (``awsQueryError`` traits of the SQS model).
_QUERY_CODES: Final[Mapping[str, str]] = {
    "BatchEntryIdsNotDistinct": _PREFIX + "BatchEntryIdsNotDistinct",
    "BatchRequestTooLong": _PREFIX + "BatchRequestTooLong",
    "EmptyBatchRequest": _PREFIX + "EmptyBatchRequest",
    "InvalidBatchEntryId": _PREFIX + "InvalidBatchEntryId",
    "InvalidParameterValueException": "InvalidParameterValue",
    "MessageNotInflight": _PREFIX + "MessageNotInflight",
    "MissingRequiredParameterException": "MissingParameter",
    "PurgeQueueInProgress": _PREFIX + "PurgeQueueInProgress",
    "QueueDeletedRecently": _PREFIX + "QueueDeletedRecently",
    "QueueDoesNotExist": _PREFIX + "NonExistentQueue",
    "QueueNameExists": "QueueAlreadyExists",
    "TooManyEntriesInBatchRequest": _PREFIX + "TooManyEntriesInBatchRequest",
    "UnsupportedOperation": _PREFIX + "UnsupportedOperation",
}

#: HTTP status where it is not 400.
_STATUS: Final[Mapping[str, int]] = {
    "InternalFailure": 500,
    "OverLimit": 403,
    "PurgeQueueInProgress": 403,
    "ResourceNotFoundException": 404,
    "ServiceUnavailable": 503,
    "UnknownOperationException": 404,
}


class Refusal(Exception):
    """
    What SQS answers instead of doing what was asked.

    Not one of tracebaton's own errors: it never leaves the emulator except as an HTTP answer, or
    to the test that calls ``LocalSqs.create_queue`` with bad attributes.

    Attributes:
        shape: Name of the error in the SQS model, as in boto3's ``client.exceptions``.
    """

    def __init__(self, shape: str, message: str) -> None:
        super().__init__(message)
        self.shape = shape

    @property
    def query_code(self) -> str:
        """Return the code that boto3 shows as ``Error.Code``."""
        return _QUERY_CODES.get(self.shape, self.shape)

    @property
    def status(self) -> int:
        """Return the HTTP status."""
        return _STATUS.get(self.shape, 400)

    @property
    def sender_fault(self) -> bool:
        """Return whether the client is to blame, the ``SenderFault`` of a batch entry."""
        return self.status < 500

    def of_entry(self) -> "Refusal":
        """Return the refusal as one entry of a batch gets it."""
        return self


class ExpiredHandle(Refusal):
    """A FIFO queue's refusal of a handle whose message is visible again, or was received again."""

    def __init__(self, handle: str) -> None:
        text = f"Value {handle} for parameter ReceiptHandle is invalid. "
        text += "Reason: The receipt handle has expired."
        super().__init__("InvalidParameterValueException", text)

    def of_entry(self) -> Refusal:
        """Return the refusal of a batch's entry, for which AWS has another code."""
        return Refusal("ReceiptHandleIsInvalid", "The receipt handle has expired")


def invalid(value: object, parameter: str, reason: str) -> Refusal:
    """Return the refusal of one parameter's value."""
    text = f"Value {value} for parameter {parameter} is invalid. Reason: {reason}"
    return Refusal("InvalidParameterValueException", text)


def other_type(value: object, parameter: str) -> Refusal:
    """Return the refusal of a *parameter* that only the other type of queue takes."""
    reason = "The request include parameter that is not valid for this queue type."
    return invalid(value, parameter, reason)


def missing(parameter: str) -> Refusal:
    """Return the refusal of a request that lacks *parameter*."""
    text = f"The request must contain the parameter {parameter}."
    return Refusal("MissingRequiredParameterException", text)


def no_queue() -> Refusal:
    """Return the refusal of a call on a queue that is not there."""
    return Refusal("QueueDoesNotExist", "The specified queue does not exist.")

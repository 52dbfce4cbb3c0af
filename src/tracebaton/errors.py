"""
Every exception of tracebaton, in one tree.

    TracebatonError                 internal            500
    ├── ConfigurationError          configuration       500
    ├── RequestError                bad_request         400
    │   ├── MalformedBody           malformed_body      400
    │   ├── Unauthenticated         unauthenticated     401
    │   ├── Forbidden               forbidden           403
    │   ├── NotFound                not_found           404
    │   ├── MethodNotAllowed        method_not_allowed  405
    │   ├── RequestTimeout          request_timeout     408
    │   ├── Conflict                conflict            409
    │   │   └── RequestInProgress   request_in_progress 409
    │   ├── PayloadTooLarge         payload_too_large   413
    │   ├── UnsupportedMediaType    unsupported_media_type 415
    │   ├── ValidationFailed        validation_failed   422
    │   ├── IdempotencyKeyReused    idempotency_key_reused 422
    │   ├── TooManyRequests         too_many_requests   429
    │   └── HeadersTooLarge         headers_too_large   431
    ├── DependencyError             dependency          503
    │   ├── QueueUnavailable        queue_unavailable   503
    │   ├── StoreUnavailable        store_unavailable   503
    │   └── DependencyTimeout       dependency_timeout  504
    ├── MessageError                invalid_message     422
    │   ├── MessageTooLarge         message_too_large   413
    │   ├── UndecodableMessage      undecodable_message 422
    │   ├── UnknownTaskType         unknown_task_type   422
    │   ├── UnknownSchemaVersion    unknown_schema_version 422
    │   ├── InvalidTaskData         invalid_task_data   422
    │   ├── MessageTooOld           message_too_old     422
    │   └── UntrustedMessage        untrusted_message   422
    ├── ResultTooLarge              result_too_large    500
    ├── MessageLost                 message_lost        500
    ├── WorkerLost                  worker_lost         500
    └── TaskSignal                  task_signal         500
        ├── RetryLater              retry_later         503
        ├── Reject                  rejected            422
        ├── HandlerTimeout          handler_timeout     504
        ├── TaskCancelled           task_cancelled      409
        └── LeaseLost               lease_lost          503

``code`` is the stable name a machine may branch on, ``status`` the HTTP status it maps to,
``title`` the RFC 9457 title, ``retryable`` whether the same request or message may succeed later.
One mapping (``problems.py``) reads these four and feeds the problem body, the span, the log line,
Sentry and the worker's retry decision.
"""

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

__all__ = [
    "ConfigurationError",
    "Conflict",
    "DependencyError",
    "DependencyTimeout",
    "Forbidden",
    "HandlerTimeout",
    "HeadersTooLarge",
    "IdempotencyKeyReused",
    "InvalidTaskData",
    "LeaseLost",
    "MalformedBody",
    "MessageError",
    "MessageLost",
    "MessageTooLarge",
    "MessageTooOld",
    "MethodNotAllowed",
    "NotFound",
    "PayloadTooLarge",
    "QueueUnavailable",
    "Reject",
    "RequestError",
    "RequestInProgress",
    "RequestTimeout",
    "ResultTooLarge",
    "RetryLater",
    "StoreUnavailable",
    "TaskCancelled",
    "TaskSignal",
    "TooManyRequests",
    "TracebatonError",
    "Unauthenticated",
    "UndecodableMessage",
    "UnknownSchemaVersion",
    "UnknownTaskType",
    "UnsupportedMediaType",
    "UntrustedMessage",
    "ValidationFailed",
    "WorkerLost",
]

#: Seconds of SQS's longest visibility timeout, 12 hours.
_LONGEST_DELAY: Final = 43_200


class TracebatonError(Exception):
    """Something went wrong inside the service. Report the correlation id if it stays."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal Server Error"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        detail: str | None = None,
        *,
        retry_after: float | None = None,
        errors: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """
        Keep what an outsider may read.

        Args:
            detail: The sentence shown to the caller; the class docstring's first line where absent.
            retry_after: Seconds after which another try makes sense.
            errors: ``{"pointer", "detail"}`` entries of RFC 9457 validation problems.
            headers: Response headers this problem needs, for example ``Allow``.
        """
        self.detail: str = detail if detail is not None else default_detail(type(self))
        self.retry_after: float | None = retry_after
        self.errors: tuple[Mapping[str, str], ...] = tuple(errors)
        self.headers: dict[str, str] = dict(headers or {})
        super().__init__(self.detail)


def default_detail(cls: type[TracebatonError]) -> str:
    """Return the first line of the docstring of *cls*, its default message."""
    return (cls.__doc__ or cls.title).strip().splitlines()[0]


class ConfigurationError(TracebatonError):
    """A setting is missing or wrong. Correct the named variables and start again."""

    code = "configuration"
    title = "Configuration Error"


class RequestError(TracebatonError):
    """The request cannot be understood. Correct it before you send it again."""

    code = "bad_request"
    status = 400
    title = "Bad Request"


class MalformedBody(RequestError):
    """The request body is not valid JSON."""

    code = "malformed_body"
    title = "Malformed Body"


class Unauthenticated(RequestError):
    """No valid credentials were sent. Send an API key with the request."""

    code = "unauthenticated"
    status = 401
    title = "Unauthorized"


class Forbidden(RequestError):
    """This request is not allowed here."""

    code = "forbidden"
    status = 403
    title = "Forbidden"


class NotFound(RequestError):
    """There is nothing at this address."""

    code = "not_found"
    status = 404
    title = "Not Found"


class MethodNotAllowed(RequestError):
    """This address does not answer that method. See the Allow header."""

    code = "method_not_allowed"
    status = 405
    title = "Method Not Allowed"


class RequestTimeout(RequestError):
    """The request body did not arrive in time. Send it again."""

    code = "request_timeout"
    status = 408
    title = "Request Timeout"
    retryable = True


class Conflict(RequestError):
    """The request does not fit the current state of the resource."""

    code = "conflict"
    status = 409
    title = "Conflict"


class RequestInProgress(Conflict):
    """The first request with this Idempotency-Key is still being handled. Ask again in a moment."""

    code = "request_in_progress"
    retryable = True


class PayloadTooLarge(RequestError):
    """The request body is larger than this service accepts."""

    code = "payload_too_large"
    status = 413
    title = "Content Too Large"


class UnsupportedMediaType(RequestError):
    """The request body has to be application/json."""

    code = "unsupported_media_type"
    status = 415
    title = "Unsupported Media Type"


class ValidationFailed(RequestError):
    """The request body does not fit the schema. See errors for each field."""

    code = "validation_failed"
    status = 422
    title = "Validation Failed"


class IdempotencyKeyReused(RequestError):
    """This Idempotency-Key was used with another request body. Use a new key for a new request."""

    code = "idempotency_key_reused"
    status = 422
    title = "Idempotency Key Reused"


class TooManyRequests(RequestError):
    """Too many requests. Wait for the time given in Retry-After."""

    code = "too_many_requests"
    status = 429
    title = "Too Many Requests"
    retryable = True


class HeadersTooLarge(RequestError):
    """The request headers are larger than this service accepts."""

    code = "headers_too_large"
    status = 431
    title = "Request Header Fields Too Large"


class DependencyError(TracebatonError):
    """A service this one depends on is away. Try again in a moment."""

    code = "dependency"
    status = 503
    title = "Service Unavailable"
    retryable = True


class QueueUnavailable(DependencyError):
    """The queue cannot be reached, so nothing was enqueued. Try again in a moment."""

    code = "queue_unavailable"


class StoreUnavailable(DependencyError):
    """The task store cannot be reached. Try again in a moment."""

    code = "store_unavailable"


class DependencyTimeout(DependencyError):
    """A service this one depends on did not answer in time. Try again in a moment."""

    code = "dependency_timeout"
    status = 504
    title = "Gateway Timeout"


class MessageError(TracebatonError):
    """A queue message cannot be handled as it is."""

    code = "invalid_message"
    status = 422
    title = "Invalid Message"


class MessageTooLarge(MessageError):
    """The message is larger than the queue accepts."""

    code = "message_too_large"
    status = 413
    title = "Message Too Large"


class UndecodableMessage(MessageError):
    """The message body is not a CloudEvents 1.0 JSON event."""

    code = "undecodable_message"


class UnknownTaskType(MessageError):
    """No handler is registered for this task type."""

    code = "unknown_task_type"


class UnknownSchemaVersion(MessageError):
    """The message was written in a schema version this worker does not know."""

    code = "unknown_schema_version"


class InvalidTaskData(MessageError):
    """The message's data does not fit the model of its task type."""

    code = "invalid_task_data"


class MessageTooOld(MessageError):
    """The message waited longer than its task type allows."""

    code = "message_too_old"


class UntrustedMessage(MessageError):
    """The message carries no valid signature although TRACEBATON_MESSAGE_KEY is set."""

    code = "untrusted_message"


class ResultTooLarge(TracebatonError):
    """The handler's result is larger than the task store keeps. Return a reference instead."""

    code = "result_too_large"
    title = "Result Too Large"


class WorkerLost(TracebatonError):
    """No worker lived to tell how the last attempt ended. Redrive the message to run it again."""

    code = "worker_lost"
    title = "Worker Lost"
    retryable = True


class MessageLost(TracebatonError):
    """The task's message is in no queue any more, so nobody will run it. Send it again."""

    code = "message_lost"
    title = "Message Lost"


class TaskSignal(TracebatonError):
    """What a handler raises to steer its own message."""

    code = "task_signal"


class RetryLater(TaskSignal):
    """The task cannot run yet and will be tried again."""

    code = "retry_later"
    status = 503
    title = "Retry Later"
    retryable = True

    def __init__(self, delay: float | None = None, detail: str | None = None) -> None:
        """
        Ask for another delivery.

        Args:
            delay: Seconds until the next try; the back-off of the retry policy where absent. Capped
                at what is left of SQS's 12 hours.
            detail: Why, for logs and the span.

        Raises:
            ValueError: The delay is not a number.
        """
        if isinstance(delay, int | float):  # unpickled, it is the text for a moment
            if math.isnan(delay):
                raise ValueError("RetryLater: the delay is not a number of seconds.")
            delay = min(delay, _LONGEST_DELAY)  # ``math.inf`` asks for as late as possible
        super().__init__(detail, retry_after=delay)
        self.delay = delay


class Reject(TaskSignal):
    """The task was refused for a business reason and will not be tried again."""

    code = "rejected"
    status = 422
    title = "Task Rejected"

    def __init__(self, reason: str | None = None, *, code: str | None = None) -> None:
        """
        End the task as ``failed`` at level warning, without a Sentry event and without the DLQ.

        Args:
            reason: The sentence its owner reads in the task's problem.
            code: A machine-readable code of yours in place of ``rejected``.
        """
        super().__init__(reason)
        self.reason_code: str = code or type(self).code


class HandlerTimeout(TaskSignal):
    """The handler ran longer than the deadline of its task type."""

    code = "handler_timeout"
    status = 504
    title = "Handler Timeout"
    retryable = True


class TaskCancelled(TaskSignal):
    """The task was cancelled while its handler ran; its result was discarded."""

    code = "task_cancelled"
    status = 409
    title = "Task Cancelled"


class LeaseLost(TaskSignal):
    """The message's lease was lost, so another worker may own it: this result was discarded."""

    code = "lease_lost"
    status = 503
    title = "Lease Lost"
    retryable = True

"""
The one mapping from an exception to everything that is said about it.

`outcome_of()` reads an exception once. From that `Outcome` come the RFC 9457 problem body, the span
status, the log level, the Sentry decision and the worker's retry decision, in API and worker alike,
so that the five never tell different stories.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from opentelemetry import trace
from opentelemetry.trace import Span, Status, StatusCode

from tracebaton.errors import (
    ConfigurationError,
    DependencyError,
    LeaseLost,
    Reject,
    RetryLater,
    TracebatonError,
    default_detail,
)
from tracebaton.redaction import redact_exception, redact_mapping, redact_text, redact_value
from tracebaton.semconv import (
    ERROR_TYPE,
    EXCEPTION,
    EXCEPTION_MESSAGE,
    EXCEPTION_STACKTRACE,
    EXCEPTION_TYPE,
)

__all__ = ["NO_REPORTER", "Outcome", "Reporter", "outcome_of", "problem", "record"]

#: Where a problem's ``type`` resolves; the anchor is the code.
TYPE_BASE = "https://tracebaton.dev/errors#"
#: Characters of a path that a problem repeats.
_INSTANCE_LENGTH = 2048

Level = Literal["info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    What an exception means to each of its readers.

    Attributes:
        code: Machine-readable name.
        status: HTTP status.
        title: RFC 9457 title, the same for every problem of this code.
        detail: What the caller may read; generic for anything unexpected.
        retryable: Whether the same request or message may succeed later.
        level: Level of the one log line.
        reported: Whether it is a Sentry event: an unexpected failure or a dependency that is away.
        outage: A dependency that is away, reported once a code, minute and process.
        error_type: The span's and metric's ``error.type``: the exception's class.
    """

    code: str
    status: int
    title: str
    detail: str
    retryable: bool
    level: Level
    reported: bool
    outage: bool
    error_type: str
    retry_after: float | None = None
    errors: tuple[Mapping[str, str], ...] = ()
    headers: Mapping[str, str] | None = None


def outcome_of(exc: BaseException) -> Outcome:
    """
    Return what *exc* means.

    An exception outside our tree is ``internal``: 500 with a generic detail for the API, and
    retryable for the worker, because nothing says that it would fail again (SPEC 4).
    """
    if not isinstance(exc, TracebatonError):
        return _unexpected(exc)
    steering = isinstance(exc, RetryLater | LeaseLost)  # nothing failed: never an event
    return Outcome(
        code=exc.reason_code if isinstance(exc, Reject) else exc.code,
        status=exc.status,
        title=exc.title,
        detail=_GENERIC if exc.code in _UNSPOKEN else exc.detail,
        retryable=exc.retryable,
        level="error" if exc.status >= 500 and not steering else "warning",
        reported=exc.status >= 500 and not steering,
        outage=isinstance(exc, DependencyError),
        error_type=type(exc).__qualname__,
        retry_after=exc.retry_after,
        errors=exc.errors,
        headers=exc.headers,
    )


_GENERIC = default_detail(TracebatonError)
#: Codes whose detail is for whoever runs the service: it may name paths and variables.
_UNSPOKEN = frozenset({TracebatonError.code, ConfigurationError.code})


def _unexpected(exc: BaseException) -> Outcome:
    return Outcome(
        code=TracebatonError.code,
        status=TracebatonError.status,
        title=TracebatonError.title,
        detail=_GENERIC,
        retryable=True,
        level="error",
        reported=True,
        outage=False,
        error_type=type(exc).__qualname__,
    )


def problem(
    outcome: Outcome,
    *,
    instance: str | None,
    correlation_id: str | None,
    trace_id: str | None,
) -> dict[str, Any]:
    """
    Return the RFC 9457 document of *outcome*.

    Args:
        instance: The request's path without its query, or the task's.
        correlation_id: The id the caller can quote.
        trace_id: 32 hex digits, or None where tracing is off.
    """
    body: dict[str, Any] = {
        "type": TYPE_BASE + outcome.code,
        "title": outcome.title,
        "status": outcome.status,
        "detail": redact_text(outcome.detail),
        "instance": None if instance is None else redact_text(_whole_segments(instance)),
        "code": outcome.code,
        "retryable": outcome.retryable,
        "correlation_id": correlation_id,
        "trace_id": trace_id,
    }
    if outcome.errors:
        body["errors"] = [redact_mapping(error) for error in outcome.errors]
    return body


def _whole_segments(path: str) -> str:
    """Return as much of *path* as is shown: a mark of what was cut would be no URI reference."""
    if len(path) <= _INSTANCE_LENGTH:
        return path
    return path[: path.rfind("/", 0, _INSTANCE_LENGTH) + 1]  # half a secret has no shape


def record(exc: BaseException, outcome: Outcome, span: Span | None = None) -> None:
    """
    Put *exc* on *span*, the current one by default: status, ``error.type``, the exception.

    An exception that crosses nested spans marks each as failed, but is recorded on the innermost
    only. A cached exception object that is raised again in another trace is recorded there.
    """
    span = span or trace.get_current_span()
    if not span.is_recording():
        return
    span.set_attribute(ERROR_TYPE, outcome.error_type)
    span.set_status(Status(StatusCode.ERROR, outcome.code))
    trace_id = span.get_span_context().trace_id
    if getattr(exc, _RECORDED, None) == trace_id:
        return
    with suppress(AttributeError, TypeError):  # an exception with slots cannot be marked
        setattr(exc, _RECORDED, trace_id)
    # Not the SDK's record_exception(): it runs str(exc), which may raise, and cuts nothing.
    span.add_event(EXCEPTION, _described(exc))


def _described(exc: BaseException) -> dict[str, str]:
    kind = type(exc)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return {
        EXCEPTION_TYPE: f"{module}{kind.__qualname__}",
        EXCEPTION_MESSAGE: str(redact_value("message", exc)),
        EXCEPTION_STACKTRACE: redact_exception(exc),
    }


_RECORDED = "_tracebaton_recorded_in"


class Reporter(Protocol):
    """Where unexpected failures are sent, and what keeps two units of work apart there."""

    def isolated(self) -> AbstractContextManager[None]:
        """Start a unit of work with nothing inherited: no tag, user or breadcrumb."""
        ...

    def report(
        self,
        exc: BaseException,
        outcome: Outcome,
        *,
        mechanism: str,
        tags: Mapping[str, str],
        failures: Sequence[Mapping[str, Any]] = (),
    ) -> str | None:
        """
        Send *exc* once and return the event's id, None where nothing was sent.

        Args:
            mechanism: What caught it, ``asgi`` or ``sqs``.
            tags: Tags beside those of the request store and the outcome.
            failures: The attempts that failed before this one.
        """
        ...


class _NoReporter:
    def isolated(self) -> AbstractContextManager[None]:
        return nullcontext()

    def report(
        self,
        exc: BaseException,
        outcome: Outcome,
        *,
        mechanism: str,
        tags: Mapping[str, str],
        failures: Sequence[Mapping[str, Any]] = (),
    ) -> str | None:
        return None


#: Sentry is not configured: nothing is isolated and nothing is sent.
NO_REPORTER: Reporter = _NoReporter()

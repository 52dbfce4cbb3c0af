"""
What an error event says beside the exception: tags, user, and the trace it belongs to.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from opentelemetry import trace
from opentelemetry.trace import format_span_id, format_trace_id

from tracebaton.context import RequestStore
from tracebaton.problems import Outcome

__all__ = ["current_ids", "describe_failure"]


def current_ids() -> tuple[str, str] | None:
    """Return the trace and span id of the current span, be it unsampled or ended."""
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return None
    return format_trace_id(span.trace_id), format_span_id(span.span_id)


def describe_failure(
    event: Mapping[str, Any],
    outcome: Outcome,
    store: RequestStore,
    *,
    mechanism: str,
    tags: Mapping[str, str],
    failures: Sequence[Mapping[str, Any]] = (),
    transaction: str | None = None,
) -> dict[str, Any]:
    """
    Return *event* completed, with an id of its own.

    Args:
        event: The exception as sentry-sdk describes it.
        outcome: What the exception means.
        store: Whom the request or message is for.
        mechanism: What caught it; only ``asgi`` has an HTTP status.
        tags: Tags of the caller, which win.
        failures: The attempts that failed before this one.
        transaction: The name of the transaction it happened in, where there is one.
    """
    ids = current_ids()
    contexts: dict[str, Any] = {}
    if ids is not None:
        contexts["trace"] = {"trace_id": ids[0], "span_id": ids[1]}
    if failures:
        contexts["attempts"] = {"failures": [dict(failure) for failure in failures]}
    return {
        **event,
        "event_id": uuid4().hex,
        "timestamp": datetime.now(UTC),
        "tags": _tags(outcome, store, mechanism) | dict(tags),
        "contexts": contexts,
        "transaction": transaction or tags.get("task_type") or tags.get("route"),
        **({"user": {"id": store.user_id}} if store.user_id else {}),
    }


def _tags(outcome: Outcome, store: RequestStore, mechanism: str) -> dict[str, str]:
    known = {
        "code": outcome.code,
        "retryable": str(outcome.retryable).lower(),
        "http_status": outcome.status if mechanism == "asgi" else None,
        "correlation_id": store.correlation_id,
        "task_id": store.task_id,
        "attempt": store.attempt,
    }
    return {key: str(value) for key, value in known.items() if value is not None}

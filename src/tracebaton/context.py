"""
The request store: one frozen ``RequestStore`` in one cell under one OpenTelemetry ``Context`` key.

API and worker enter it with the same call, `attach()`, before the SERVER or process span starts, so
that every span, log line and child task of the unit of work sees the same cell. The value in the
cell is replaced at two moments only: `bind_trace()` when the span starts, `authenticate()` when the
user is known. Code that copied the context earlier (an executor, a child task, the access log) sees
the replacement too, because it holds the cell and not the value.
"""

import re
import uuid
from contextlib import AbstractContextManager
from contextvars import Token
from dataclasses import dataclass, fields, replace
from typing import Any

from opentelemetry import context as otel
from opentelemetry.context import Context

from tracebaton.semconv import CORRELATION_ID, STORE_PREFIX, TASK_ATTEMPT, TASK_ID, USER_ID

__all__ = [
    "RequestStore",
    "attach",
    "authenticate",
    "bind_trace",
    "current",
    "custom_fields",
    "detach",
    "entered",
    "in_context",
    "resumed",
    "span_attributes",
    "valid_correlation_id",
]

#: What an id from outside may look like; anything else is replaced, never repeated.
_CORRELATION_ID = re.compile(r"[A-Za-z0-9._:\-]{1,128}")

_KEY = otel.create_key("tracebaton-request-store")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestStore:
    """
    Who and what the current request or message is for.

    Subclass it (frozen, slotted, every field ``str | None`` with a default) to declare custom
    fields; they travel with the message like the others.

    Attributes:
        correlation_id: The caller's id, else the trace id: 1 to 128 of ``[A-Za-z0-9._:-]``.
        user_id: Set by authentication only.
        task_id: The task this message runs; in the API the task that was just enqueued has its own.
        attempt: SQS's ApproximateReceiveCount, 1 for the first delivery.
    """

    correlation_id: str | None = None
    user_id: str | None = None
    task_id: str | None = None
    attempt: int | None = None


class _Cell:
    __slots__ = ("value",)

    def __init__(self, value: RequestStore) -> None:
        self.value = value


_EMPTY = RequestStore()
_OWN = frozenset(field.name for field in fields(RequestStore))


def current() -> RequestStore:
    """Return the store of the current request or message, an empty one outside."""
    cell = otel.get_value(_KEY)
    return cell.value if isinstance(cell, _Cell) else _EMPTY


def in_context(context: Context | None) -> RequestStore:
    """Return the store that *context* holds, an empty one if there is none."""
    cell = otel.get_value(_KEY, context)
    return cell.value if isinstance(cell, _Cell) else _EMPTY


def attach(store: RequestStore, context: Context | None = None) -> Token[Context]:
    """
    Enter a request or message with *store* and return the token for `detach()`.

    The unit of work starts from *context*, an empty one where none is given: nothing of an earlier
    request on the same connection or thread is seen.
    """
    return otel.attach(_with_cell(store, context))


def _with_cell(store: RequestStore, context: Context | None) -> Context:
    return Context({**(context or {}), _KEY: _Cell(store)})


def detach(token: Token[Context]) -> None:
    """Leave the request or message that returned *token*."""
    otel.detach(token)


class _Entered:
    """A ``with`` block; a generator would cost each message and request three times as much."""

    __slots__ = ("_context", "_token")

    def __init__(self, context: Context) -> None:
        self._context = context

    def __enter__(self) -> None:
        self._token = otel.attach(self._context)

    def __exit__(self, *_: object) -> None:
        otel.detach(self._token)


def entered(store: RequestStore, context: Context | None = None) -> AbstractContextManager[None]:
    """Attach *store* for the length of a ``with`` block, as `attach()` does."""
    return _Entered(_with_cell(store, context))


def resumed(context: Context) -> AbstractContextManager[None]:
    """Go on in *context*, which somebody has entered before, for the length of a ``with`` block."""
    return _Entered(context)


def bind_trace(trace_id: str | None, context: Context | None = None) -> RequestStore:
    """
    Make *trace_id* the correlation id where none came in; a fresh id where tracing is off.

    Called when the SERVER or process span starts. Does nothing outside a request.
    """
    cell = otel.get_value(_KEY, context)
    if not isinstance(cell, _Cell):
        return _EMPTY
    if cell.value.correlation_id is None:
        cell.value = replace(cell.value, correlation_id=trace_id or uuid.uuid4().hex)
    return cell.value


def authenticate(user_id: str | None, **custom: str | None) -> RequestStore:
    """
    Record who the caller is, and custom fields that authentication knows.

    Raises:
        TypeError: *custom* names a field that the store does not declare, or one of its own: only
            the user is authentication's to say.
    """
    if fixed := _OWN & custom.keys():
        raise TypeError(f"authenticate() cannot set {', '.join(sorted(fixed))}.")
    cell = otel.get_value(_KEY)
    if not isinstance(cell, _Cell):
        return _EMPTY
    changes: dict[str, Any] = {"user_id": user_id, **custom}
    cell.value = replace(cell.value, **changes)
    return cell.value


def custom_fields(store: RequestStore) -> dict[str, str]:
    """Return the declared custom fields of *store* that are set."""
    if type(store) is RequestStore:
        return {}
    names = (field.name for field in fields(store) if field.name not in _OWN)
    return {name: value for name in names if (value := getattr(store, name)) is not None}


def span_attributes(store: RequestStore) -> dict[str, Any]:
    """Return what of *store* is set, under its span-attribute names."""
    known: dict[str, Any] = {}
    if store.correlation_id is not None:
        known[CORRELATION_ID] = store.correlation_id
    if store.user_id is not None:
        known[USER_ID] = store.user_id
    if store.task_id is not None:
        known[TASK_ID] = store.task_id
    if store.attempt is not None:
        known[TASK_ATTEMPT] = store.attempt
    if type(store) is not RequestStore:
        for name, value in custom_fields(store).items():
            known[STORE_PREFIX + name] = value
    return known


def valid_correlation_id(value: str | None) -> str | None:
    """Return *value* if it may serve as a correlation id, else ``None``."""
    return value if value and _CORRELATION_ID.fullmatch(value) else None

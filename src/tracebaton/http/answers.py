"""
What an exception means over HTTP, and the problem document that says so.
"""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final

from opentelemetry import trace
from pydantic_core import PydanticSerializationError, to_json
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from tracebaton.context import current
from tracebaton.errors import (
    Conflict,
    DependencyError,
    DependencyTimeout,
    Forbidden,
    HeadersTooLarge,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    RequestError,
    RequestTimeout,
    TooManyRequests,
    TracebatonError,
    Unauthenticated,
    UnsupportedMediaType,
    ValidationFailed,
    default_detail,
)
from tracebaton.http.exchange import Exchange, exchange_of
from tracebaton.problems import Outcome, outcome_of, problem

__all__ = [
    "JsonResponse",
    "ProblemResponse",
    "ResourceResponse",
    "http_outcome",
    "problem_document",
    "problem_response",
]

MEDIA_TYPE: Final = "application/problem+json"
#: Seconds a caller waits where nothing better is known: long enough for an instance to be replaced
#: behind a load balancer, short enough for a person.
RETRY_AFTER: Final = 5

#: What a bare status means in our tree.
_BY_STATUS: Final[Mapping[int, type[TracebatonError]]] = {
    kind.status: kind
    for kind in (
        RequestError,
        Unauthenticated,
        Forbidden,
        NotFound,
        MethodNotAllowed,
        RequestTimeout,
        Conflict,
        PayloadTooLarge,
        UnsupportedMediaType,
        ValidationFailed,
        TooManyRequests,
        HeadersTooLarge,
        TracebatonError,
        DependencyError,
        DependencyTimeout,
    )
}


class JsonResponse(JSONResponse):
    """JSON in ASCII: a result may hold what is no valid Unicode."""

    def render(self, content: Any) -> bytes:
        """Return *content* as JSON."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


class ResourceResponse(JsonResponse):
    """Tasks, which are JSON already: written in a quarter of the time."""

    def render(self, content: Any) -> bytes:
        """Return *content* as JSON."""
        with suppress(PydanticSerializationError):  # what is no valid Unicode
            text = to_json(content, ensure_ascii=True, inf_nan_mode="constants")
            if b"NaN" not in text and b"Infinity" not in text:
                return text
        return super().render(content)


class ProblemResponse(Response):
    """An RFC 9457 document; a HEAD request gets its headers alone."""

    media_type = MEDIA_TYPE

    def render(self, content: Any) -> bytes:
        """Return *content* as JSON, in ASCII: it may repeat what is no valid Unicode."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the headers with the length of the document, and the document."""
        if scope.get("method") == "HEAD":
            self.body = b""
        await super().__call__(scope, receive, send)


def http_outcome(exc: BaseException, *, status: int | None = None) -> Outcome:
    """
    Return what *exc* means, read as HTTP.

    Args:
        status: What an exception handler of the app answers, where it answers itself: it decides
            whether this is a failure, the exception's class does not.
    """
    said = _as_http(exc)
    meant = outcome_of(exc) if said is None else _of_http(said, exc)
    if status is None or status == meant.status:
        return meant
    return replace(_of_status(status), error_type=meant.error_type)


def problem_document(outcome: Outcome, exchange: Exchange | None) -> dict[str, Any]:
    """Return the document of *outcome* with the ids of *exchange*, else of the current request."""
    if exchange is not None:
        return problem(
            outcome,
            instance=exchange.instance,
            correlation_id=exchange.store.correlation_id,
            trace_id=exchange.trace_id,
        )
    ids = trace.get_current_span().get_span_context()
    return problem(
        outcome,
        instance=None,
        correlation_id=current().correlation_id,
        trace_id=trace.format_trace_id(ids.trace_id) if ids.is_valid else None,
    )


def problem_response(outcome: Outcome, scope: Scope) -> ProblemResponse:
    """Return the response that says *outcome* to the caller of *scope*."""
    own = {name.lower(): value for name, value in (outcome.headers or {}).items()}
    headers = {"cache-control": "no-store"} | own
    if outcome.retry_after is not None:
        headers["retry-after"] = str(max(math.ceil(outcome.retry_after), 0))
    elif outcome.status in (429, 503):
        headers.setdefault("retry-after", str(RETRY_AFTER))
    return ProblemResponse(
        problem_document(outcome, exchange_of(scope)), status_code=outcome.status, headers=headers
    )


def _as_http(exc: BaseException) -> HTTPException | None:
    """Return what an exception of Starlette's, FastAPI's or Litestar's says; None of others."""
    if isinstance(exc, HTTPException):
        return exc
    kinds = [kind for kind in type(exc).__mro__ if kind.__name__ == "HTTPException"]
    if not any(kind.__module__.startswith("litestar.") for kind in kinds):
        return None
    found: Any = exc
    return HTTPException(found.status_code, found.detail or None, found.headers)


def _of_http(exc: HTTPException, raised: BaseException) -> Outcome:
    outcome = _of_status(exc.status_code)
    unexplained = exc.detail is None or exc.detail == _phrase(exc.status_code)
    generic = outcome.code == TracebatonError.code
    return replace(
        outcome,
        detail=outcome.detail if unexplained or generic else _text(exc.detail),
        headers=exc.headers,
        errors=_field_errors(getattr(raised, "extra", None)),
        error_type=type(raised).__qualname__,
    )


def _field_errors(extra: Any) -> tuple[Mapping[str, str], ...]:
    """Return what Litestar found wrong with each field, pointed to as with FastAPI's."""
    found = []
    for one in extra if isinstance(extra, list) else ():
        if isinstance(one, dict) and "message" in one:
            source = str(one.get("source") or "body")
            path = [source] if source != "body" else []
            path += [part for part in str(one.get("key") or "").split(".") if part]
            pointer = "".join(f"/{part}" for part in path)
            found.append({"pointer": pointer, "detail": str(one["message"])})
    return tuple(found)


def _of_status(status: int) -> Outcome:
    kind = _BY_STATUS.get(status)
    if kind is not None:
        return outcome_of(kind())
    phrase = _phrase(status) or f"Status {status}"
    failed = status >= 500
    return Outcome(
        code=phrase.lower().replace("'", "").replace("-", "_").replace(" ", "_"),
        status=status,
        title=phrase,
        detail=default_detail(TracebatonError) if failed else f"{phrase}.",
        retryable=status == HTTPStatus.BAD_GATEWAY,
        level="error" if failed else "warning",
        reported=failed,
        outage=False,
        error_type=str(status),
    )


def _phrase(status: int) -> str | None:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return None


def _text(detail: Any) -> str:
    return detail if isinstance(detail, str) else json.dumps(detail, default=str)

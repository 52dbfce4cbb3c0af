"""
Exception handlers: the app's own, told to the error story, and ours where it has none.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.responses import Response
from starlette.routing import BaseRoute, Router
from starlette.types import ExceptionHandler
from starlette.websockets import WebSocket

from tracebaton.errors import TracebatonError, ValidationFailed
from tracebaton.http.answers import http_outcome, problem_response
from tracebaton.http.failures import noting
from tracebaton.http.routes import allowed_methods
from tracebaton.http.validation import field_errors

__all__ = ["told_handlers"]

#: Where FastAPI keeps the handlers it registers for its user; they are defaults like Starlette's.
_FASTAPI_DEFAULTS: Final = "fastapi.exception_handlers"


def told_handlers(
    handlers: Mapping[Any, ExceptionHandler], *, routes: Sequence[BaseRoute], problems: bool
) -> dict[Any, ExceptionHandler]:
    """
    Return what stands in for *handlers* in the stack.

    Those for 500 and ``Exception`` stay as they are: they belong to Starlette's outermost layer.

    Args:
        routes: Whose methods a 405 names.
        problems: Whether to answer what has no handler of the app's own.
    """
    ours: dict[Any, ExceptionHandler] = {
        TracebatonError: _answer_ours,
        HTTPException: _http_exception_handler(routes) if problems else _starlettes(),
    }
    told: dict[Any, ExceptionHandler] = {key: noting(handler) for key, handler in ours.items()}
    for key, handler in handlers.items():
        if key in (500, Exception):
            told[key] = handler
        elif not (problems and _is_default(handler)):
            told[key] = noting(handler)
        elif key.__name__ == "RequestValidationError":
            told[key] = noting(_answer_fastapi_validation)
        elif key is not HTTPException:
            told[key] = noting(handler)
    return told


def _starlettes() -> ExceptionHandler:
    """Return what Starlette answers an ``HTTPException`` with."""
    return ExceptionMiddleware(Router()).http_exception


def _is_default(handler: ExceptionHandler) -> bool:
    return getattr(handler, "__module__", None) == _FASTAPI_DEFAULTS


async def _answer_ours(connection: Any, exc: Exception) -> Response:
    return problem_response(http_outcome(exc), connection.scope)


async def _answer_fastapi_validation(connection: Any, exc: Any) -> Response:
    body = getattr(exc, "body", None)
    failed = ValidationFailed(errors=field_errors(exc.errors(), body, skip=("body",)))
    return problem_response(http_outcome(failed), connection.scope)


def _http_exception_handler(routes: Sequence[BaseRoute]) -> ExceptionHandler:
    async def answer(connection: Any, exc: Exception) -> Response:
        assert isinstance(exc, HTTPException)
        if exc.status_code < 400:
            return Response(status_code=exc.status_code, headers=exc.headers)
        outcome = http_outcome(exc)
        response = problem_response(outcome, connection.scope)
        if exc.status_code == 405 and not isinstance(connection, WebSocket):
            methods = allowed_methods(routes, dict(connection.scope))
            if methods:
                response.headers["allow"] = ", ".join(sorted(methods))
        return response

    return answer

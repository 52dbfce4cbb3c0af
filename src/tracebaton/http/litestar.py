"""
Litestar, which is no Starlette app: where its routes, its exceptions and its stack are found.

Nothing of it is imported. It answers every exception itself, so each is noted by its own hook on
the way, and what the app has no handler for is answered by ours.
"""

from collections.abc import Callable
from typing import Any, Final, TypeGuard

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Scope

from tracebaton.errors import TracebatonError
from tracebaton.http.answers import http_outcome, problem_response
from tracebaton.http.exchange import exchange_of
from tracebaton.http.failures import Failures

__all__ = ["adopt_exceptions", "instrumentation_of", "is_litestar", "litestar_route"]

_PACKAGE: Final = "litestar."


def is_litestar(app: object) -> TypeGuard[Any]:
    """Tell whether *app* is a Litestar application."""
    names = ("asgi_handler", "asgi_router", "after_exception", "exception_handlers")
    return _is_litestars(type(app)) and all(hasattr(app, name) for name in names)


def litestar_route(app: Any) -> Callable[[Scope], str | None]:
    """Return what finds the template of the route that a request to *app* will take."""

    def route(scope: Scope) -> str | None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        try:
            asked = "/" + path.strip("/")
            found = app.asgi_router.handle_routing(path=asked, method=scope.get("method"))
            below, template = str(found[2]), str(found[-1])
            return template or asked.removesuffix(below.rstrip("/"))  # a mount has no template
        except Exception:  # no such route or method; the router will say so where errors are told
            return None

    return route


def instrumentation_of(app: Any) -> Any:
    """Return the OpenTelemetry middleware that the app's own plugin put around it, if any."""
    return getattr(app.asgi_handler, "open_telemetry_middleware", None)


def adopt_exceptions(app: Any, failures: Failures, *, problems: bool) -> None:
    """
    Have every exception of *app* told, and answered by us where the app does not.

    Args:
        problems: Whether to answer what has no handler of the app's own.
    """

    async def noted(exc: Exception, scope: Scope) -> None:
        exchange = exchange_of(scope)
        if exchange is None:
            return
        if type(exc).__name__ == "WebSocketDisconnect":
            exchange.left()
        elif scope["type"] == "websocket":
            failures.tell(exchange, exc)
        else:
            exchange.handled = exc

    app.after_exception.append(noted)
    handlers: dict[Any, Any] = app.exception_handlers
    handlers.setdefault(TracebatonError, _answer)
    if problems and _is_litestars(handlers.get(HTTPException)):  # a default of its own
        handlers[HTTPException] = _answer
    if problems and not app.debug and 500 not in handlers:
        handlers.setdefault(Exception, _answer)


class _Answer:
    """A response of ours in the form that Litestar asks its exception handlers for."""

    def __init__(self, response: ASGIApp) -> None:
        self._response = response

    def to_asgi_response(self, *args: Any, **kwargs: Any) -> ASGIApp:
        return self._response


def _answer(request: Any, exc: Exception) -> _Answer:
    return _Answer(problem_response(http_outcome(exc), request.scope))


def _is_litestars(kind: Any) -> bool:
    return f"{getattr(kind, '__module__', '')}.".startswith(_PACKAGE) or any(
        f"{base.__module__}.".startswith(_PACKAGE) for base in getattr(kind, "__mro__", ())
    )

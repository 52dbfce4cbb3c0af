"""
``/metrics``: what this process measured, for Prometheus.

Answered where ``OTEL_METRICS_EXPORTER`` names ``prometheus``, to whom the API answers too: numbers
by route and queue are nobody else's business. It leaves no span, no metric and no line.
"""

from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from tracebaton.errors import NotFound
from tracebaton.http.auth import Authenticator

__all__ = ["Exposition", "metrics_route"]

#: Returns the content type that an ``Accept`` header asks for, and the text.
Exposition = Callable[[str], tuple[str, bytes]]


def metrics_route(
    exposition: Callable[[], Exposition | None],
    authenticator: Callable[[], Authenticator] | None = None,
) -> BaseRoute:
    """
    Return the route.

    Args:
        exposition: Looked up at each request, since an app knows its settings when it runs; None
            where nobody asked for Prometheus.
        authenticator: Tells who may ask, where no `AuthLayer` stands in front.
    """

    async def answer(request: Request) -> Response:
        if authenticator is not None:
            await authenticator().user_of(request.scope["headers"])
        found = exposition()
        if found is None:
            raise NotFound("No metrics here: OTEL_METRICS_EXPORTER does not name prometheus.")
        # Thousands of series take milliseconds, which requests need not wait for.
        content_type, text = await run_in_threadpool(found, request.headers.get("accept", ""))
        return Response(text, media_type=content_type, headers={"cache-control": "no-store"})

    return Route("/metrics", answer)

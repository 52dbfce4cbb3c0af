"""
``/livez``, ``/readyz`` and ``/startupz``: asked without credentials, answered without detail.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from tracebaton.errors import DependencyError
from tracebaton.http.answers import http_outcome, problem_response
from tracebaton.semconv import EVENT_SERVICE_NOT_READY, EVENT_SERVICE_READY

__all__ = ["Ready", "health_routes"]

Ready = Callable[[], Awaitable[Mapping[str, bool]]]

_log = logging.getLogger("tracebaton.http")
#: Seconds the dependencies have to answer; Kubernetes asks every ten by default.
PATIENCE: Final = 5.0


def health_routes(ready: Ready) -> list[BaseRoute]:
    """
    Return the three probes.

    Args:
        ready: Tells what of the dependencies answers; names go to the log, never to the caller.
    """
    failing_before: frozenset[str] = frozenset()

    async def alive(request: Request) -> Response:
        # Also /startupz: a server answers once its lifespan has started.
        return JSONResponse({"status": "ok"})

    async def readiness(request: Request) -> Response:
        nonlocal failing_before
        failing = await _failing(ready)
        if failing != failing_before:  # a line a change, not a line a probe
            failing_before = failing
            if failing:
                _log.warning(
                    EVENT_SERVICE_NOT_READY, extra={"fields": {"failing": sorted(failing)}}
                )
            else:
                _log.info(EVENT_SERVICE_READY, extra={"fields": {}})
        if failing:
            outcome = http_outcome(DependencyError("This instance is not ready."))
            return problem_response(outcome, request.scope)
        return JSONResponse({"status": "ok"})

    return [
        Route("/livez", alive),
        Route("/readyz", readiness),
        Route("/startupz", alive),
    ]


async def _failing(ready: Ready) -> frozenset[str]:
    try:
        with anyio.fail_after(PATIENCE):
            return frozenset(name for name, works in (await ready()).items() if not works)
    except Exception as exc:  # whatever stops the question stops the service
        return frozenset({type(exc).__qualname__})

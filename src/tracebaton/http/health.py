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
from tracebaton.semconv import (
    EVENT_SERVICE_ALIVE,
    EVENT_SERVICE_NOT_ALIVE,
    EVENT_SERVICE_NOT_READY,
    EVENT_SERVICE_NOT_STARTED,
    EVENT_SERVICE_READY,
    EVENT_SERVICE_STARTED,
)

__all__ = ["Probe", "health_routes"]

#: Names what works and what does not.
Probe = Callable[[], Awaitable[Mapping[str, bool]]]

_log = logging.getLogger("tracebaton.http")
#: What a probe is about: the word, and the events of its turning true and false.
_State = tuple[str, str, str]
_ALIVE: Final[_State] = ("alive", EVENT_SERVICE_ALIVE, EVENT_SERVICE_NOT_ALIVE)
_READY: Final[_State] = ("ready", EVENT_SERVICE_READY, EVENT_SERVICE_NOT_READY)
_STARTED: Final[_State] = ("started", EVENT_SERVICE_STARTED, EVENT_SERVICE_NOT_STARTED)
#: Seconds that what is asked has to answer; Kubernetes asks every ten by default.
PATIENCE: Final = 5.0


def health_routes(
    ready: Probe, *, alive: Probe | None = None, started: Probe | None = None
) -> list[BaseRoute]:
    """
    Return the three probes; what they are told by name goes to the log, never to the caller.

    Args:
        ready: Whether work may be given to this process: its dependencies answer.
        alive: Whether a new process would do no better than this one; None: it answers, so it is.
        started: Whether it is up; None: it answers, so it is.
    """
    return [
        Route("/livez", _endpoint(alive, _ALIVE)),
        Route("/readyz", _endpoint(ready, _READY)),
        Route("/startupz", _endpoint(started, _STARTED)),
    ]


def _endpoint(probe: Probe | None, state: _State) -> Callable[[Request], Awaitable[Response]]:
    failing_before: frozenset[str] = frozenset()

    async def answer(request: Request) -> Response:
        nonlocal failing_before
        failing = await _failing(probe) if probe is not None else frozenset()
        if failing != failing_before:  # a line a change, not a line a probe
            failing_before = failing
            _say(state, failing)
        if failing:
            outcome = http_outcome(DependencyError(f"This instance is not {state[0]}."))
            return problem_response(outcome, request.scope)
        return JSONResponse({"status": "ok"})

    return answer


def _say(state: _State, failing: frozenset[str]) -> None:
    _, holds, fails = state
    if failing:
        level = logging.ERROR if state is _ALIVE else logging.WARNING
        _log.log(level, fails, extra={"fields": {"failing": sorted(failing)}})
    else:
        _log.info(holds, extra={"fields": {}})


async def _failing(probe: Probe) -> frozenset[str]:
    try:
        with anyio.fail_after(PATIENCE):
            return frozenset(name for name, works in (await probe()).items() if not works)
    except Exception as exc:  # whatever stops the question stops the service
        return frozenset({type(exc).__qualname__})

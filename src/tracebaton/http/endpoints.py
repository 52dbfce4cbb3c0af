"""
Endpoints of the application that name the model of their request's body.
"""

import inspect
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from tracebaton.http.body import body

__all__ = ["BodyEndpoint"]


class BodyEndpoint:
    """
    An endpoint that gets the body of its request, validated, as its second argument.

    Attributes:
        endpoint: What the application registered.
        model: What the body has to fit; it stands in the OpenAPI document.
    """

    def __init__(self, endpoint: Callable[[Request, Any], Any], model: type[BaseModel]) -> None:
        """Let *endpoint* be given a *model*."""
        self.endpoint = endpoint
        self.model = model
        self._on_loop = inspect.iscoroutinefunction(endpoint)

    async def __call__(self, request: Request) -> Any:
        """
        Return what the endpoint returns.

        Raises:
            RequestError: The body does not fit; see `body()`.
        """
        data = await body(request, self.model)
        if self._on_loop:
            return await self.endpoint(request, data)
        return await run_in_threadpool(self.endpoint, request, data)

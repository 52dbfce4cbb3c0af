"""The one way from a command into the event loop."""

from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["run"]

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run *work* to its end and return what it returned."""
    import asyncio  # a tenth of the time that ``--help`` takes, which has no use for it

    return asyncio.run(work)

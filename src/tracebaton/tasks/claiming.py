"""
Idempotency keys: what a store says of one, and the one that the current request holds, for whoever
saves a task on its behalf.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from opentelemetry import context as otel

__all__ = ["Claim", "Claimed", "claiming", "current_claim"]

_KEY = otel.create_key("tracebaton-claim")


@dataclass(frozen=True, slots=True)
class Claim:
    """
    An idempotency key in the hands of one request.

    Attributes:
        scope: The user and the route that the key belongs to.
        token: The request that holds it, so that a late one cannot write over its successor.
    """

    scope: str
    key: str
    token: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """
    What `TaskStore.claim()` found.

    Attributes:
        outcome: ``won`` (the request is to be handled), ``busy`` (the first one is being handled),
            ``done`` (it was answered, or it saved its task and was never heard of again), or
            ``differs`` (the key was used with another body).
        response: What `settle_claim()` kept, None where the first request did not come so far.
        task_id: The first task that was created under the claim, if any.
    """

    outcome: Literal["won", "busy", "done", "differs"]
    response: str | None = None
    task_id: str | None = None


class _Cell:
    """Holds the claim until the request is answered: what runs on behind it holds no key."""

    __slots__ = ("claim",)

    def __init__(self, claim: Claim) -> None:
        self.claim: Claim | None = claim


@contextmanager
def claiming(claim: Claim) -> Iterator[None]:
    """Let tasks that are saved inside the block belong to *claim*."""
    cell = _Cell(claim)
    token = otel.attach(otel.set_value(_KEY, cell))
    try:
        yield
    finally:
        cell.claim = None
        otel.detach(token)


def current_claim() -> Claim | None:
    """Return the claim of the current request, None where it holds none."""
    cell = otel.get_value(_KEY)
    return cell.claim if isinstance(cell, _Cell) else None

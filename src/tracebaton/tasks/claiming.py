"""
The idempotency key that the current request holds, for whoever saves a task on its behalf.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import context as otel

from tracebaton.tasks.store import Claim

__all__ = ["claiming", "current_claim"]

_KEY = otel.create_key("tracebaton-claim")


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

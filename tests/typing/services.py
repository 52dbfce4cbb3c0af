"""What a type checker says of audited services; checked by mypy, never run."""

from collections.abc import AsyncIterator, Iterator
from typing import assert_type

from tracebaton.audit import audited


class Plain:
    """A service."""

    async def fetch(self, number: int) -> str:
        """Fetch."""
        return str(number)

    def pages(self) -> Iterator[int]:
        """Yield."""
        yield 1

    async def stream(self) -> AsyncIterator[int]:
        """Yield, later."""
        yield 1


@audited
class Decorated(Plain):
    """A service that is audited as a class."""


@audited("billing")
class Named(Plain):
    """A service that is audited under another name."""


async def checks() -> None:
    """Pin the types."""
    assert_type(audited(Plain), type[Plain])
    assert_type(audited(Plain()), Plain)
    assert_type(audited("ledger")(Plain()), Plain)
    assert_type(Decorated(), Decorated)
    assert_type(Named(), Named)
    assert_type(await audited(Plain()).fetch(1), str)
    assert_type(Decorated().pages(), Iterator[int])
    assert_type(Named().stream(), AsyncIterator[int])

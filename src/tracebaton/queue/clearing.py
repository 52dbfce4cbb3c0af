"""
Clearing a DLQ or a quarantine queue: what is meant leaves, at the pace that was asked for.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tracebaton.errors import QueueUnavailable
from tracebaton.queue.letters import Choice, Letter, Letters
from tracebaton.queue.sqs import BATCH, Queue, Sqs
from tracebaton.queue.walk import Walk

__all__ = ["Act", "Clearing", "Pace", "Tally"]

#: Seconds that messages which are not meant stay out of the walk's way.
_VISIBILITY_SECONDS = 120
#: Tries of a delete that SQS failed for its own reasons, and the pause before the second one.
_TRIES, _PAUSE = 4, 0.1
_UNDELETED = "it could not be deleted here, so it is in both queues"


class Act(Protocol):
    """What becomes of the letters that leave, before they are deleted here."""

    def refusal(self, letter: Letter) -> str | None:
        """Return why *letter* has to stay, None where it may leave."""
        ...

    def new(self, letter: Letter) -> bool:
        """Tell whether *letter* was here before this run."""
        ...

    async def __call__(self, letters: Sequence[Letter]) -> Sequence[str | None]:
        """Return what went wrong with each letter, None where it may be deleted."""
        ...


@dataclass(slots=True)
class Tally:
    """
    What a run did.

    Attributes:
        seen: Letters that were looked at.
        done: Letters that left; in a dry run, that would have left.
        refused: Letters that were meant and stay, by the reason.
    """

    seen: int = 0
    done: int = 0
    refused: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """
    How a run goes.

    Attributes:
        rate: Letters a second, None for as fast as it goes.
        limit: The most letters that leave.
    """

    dry_run: bool = False
    rate: float | None = None
    limit: int | None = None

    @property
    def batch(self) -> int:
        """Return how many letters to take at once, so that none waits for its turn in our hands."""
        most = BATCH if self.rate is None else max(1, min(BATCH, int(self.rate)))
        return most if self.limit is None else max(1, min(most, self.limit))


class Clearing:
    """One run over *queue*: a walk on which what *choice* means leaves by *act*."""

    def __init__(
        self,
        sqs: Sqs,
        queue: Queue,
        *,
        letters: Letters,
        choice: Choice,
        act: Act,
        pace: Pace,
        wait_seconds: int = 1,
        tell: Callable[[Tally], None] = lambda tally: None,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """
        Set what leaves, and how.

        Args:
            tell: Called after each batch, for a progress bar.
        """
        self.tally: Tally = Tally()
        self._sqs = sqs
        self._queue = queue
        self._letters = letters
        self._choice = choice
        self._act = act
        self._pace = pace
        self._wait = wait_seconds
        self._tell = tell
        self._now = now
        self._sleep = sleep

    async def run(self) -> Tally:
        """
        Go once through the queue.

        Raises:
            TracebatonError: The queue or the task store is away; what had left is gone, the rest
                stays.
        """
        pace, tally = self._pace, self.tally
        walk = Walk(
            self._sqs,
            self._queue,
            visibility_seconds=_VISIBILITY_SECONDS,
            wait_seconds=self._wait,
            most=pace.batch,
        )
        async with walk:
            async for batch in self._letters.of(walk):
                tally.seen += len(batch)
                before = tally.done
                walk.taken(letter.message for letter in await self._leave(self._meant(batch)))
                self._tell(tally)
                if pace.limit is not None and tally.done >= pace.limit:
                    break
                if pace.rate is not None and not pace.dry_run:
                    await self._sleep((tally.done - before) / pace.rate)
        return tally

    def _meant(self, batch: Sequence[Letter]) -> list[Letter]:
        """Return what of *batch* is to leave now."""
        now, act = self._now(), self._act
        meant = [one for one in batch if act.new(one) and self._choice.matches(one, now=now)]
        refusals = [act.refusal(letter) for letter in meant]
        self.tally.refused.update(reason for reason in refusals if reason is not None)
        allowed = [one for one, reason in zip(meant, refusals, strict=True) if reason is None]
        limit = self._pace.limit
        return allowed if limit is None else allowed[: limit - self.tally.done]

    async def _leave(self, letters: Sequence[Letter]) -> list[Letter]:
        """Return which of *letters* are gone."""
        if self._pace.dry_run or not letters:
            self.tally.done += len(letters)
            return []
        outcomes = await self._act(letters)
        self.tally.refused.update(wrong for wrong in outcomes if wrong is not None)
        good = [one for one, wrong in zip(letters, outcomes, strict=True) if wrong is None]
        gone = await self._deleted(good)
        self.tally.done += len(gone)
        if len(gone) < len(good):
            self.tally.refused[_UNDELETED] += len(good) - len(gone)
        return gone

    async def _deleted(self, letters: Sequence[Letter]) -> list[Letter]:
        """Delete *letters* and return those that SQS confirmed."""
        url, left, gone = await self._queue.url(), list(letters), list[Letter]()
        for number in range(_TRIES):
            if not left:
                break
            if number:
                await self._sleep(_PAUSE * 2**number)
            try:
                handles = [letter.message.receipt_handle for letter in left]
                outcomes = await self._sqs.delete(url, handles)
            except QueueUnavailable:
                continue
            pairs = list(zip(left, outcomes, strict=True))
            gone += [one for one, outcome in pairs if outcome == "ok"]
            left = [one for one, outcome in pairs if outcome == "again"]
        return gone

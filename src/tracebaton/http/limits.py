"""
How much one user, or one address, may ask: writes a minute, and refused credentials a minute.

Counted in this process alone, by the generic cell rate algorithm: a burst of a whole minute's worth
at once, then one each time that its share of the minute is over.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tracebaton.errors import TooManyRequests
from tracebaton.settings import Settings

__all__ = ["Allowance", "RateLimit", "limits"]

_WINDOW: Final = 60.0
#: Users and addresses that are remembered; the one heard of longest ago is forgotten first.
_REMEMBERED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Allowance:
    """
    What somebody has left.

    Attributes:
        reset: Seconds until all of it is there again.
        wait: Seconds until the next request makes sense; 0 where this one may pass.
    """

    limit: int
    remaining: int
    reset: int
    wait: int

    @property
    def headers(self) -> dict[str, str]:
        """Return what a client is told: the draft's headers, and those most clients know."""
        return {
            "ratelimit-limit": str(self.limit),
            "ratelimit-remaining": str(self.remaining),
            "ratelimit-reset": str(self.reset),
            "ratelimit-policy": f'"default";q={self.limit};w={_WINDOW:.0f}',
            "ratelimit": f'"default";r={self.remaining};t={self.reset}',
        }

    def check(self) -> None:
        """Raise ``TooManyRequests`` where this one may not pass."""
        if self.wait:
            raise TooManyRequests(retry_after=self.wait, headers=self.headers)


class RateLimit:
    """A limit of so many a minute for each of many; without one everything passes."""

    def __init__(
        self, per_minute: int | None, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = per_minute or 0
        self._now = now
        #: When each one's allowance is whole again.
        self._whole: OrderedDict[str, float] = OrderedDict()

    def take(self, who: str) -> Allowance | None:
        """Count a request of *who* and return what is left; None where nothing is limited."""
        if not self._limit:
            return None
        now, share = self._now(), _WINDOW / self._limit
        used = max(0.0, self._whole.pop(who, 0.0) - now)
        # A hair of tolerance: sixty seconds are not always sixty shares in floating point.
        passes = used + share <= _WINDOW + share * 1e-6
        wait = 0 if passes else max(1, math.ceil(used + share - _WINDOW))
        used += share if passes else 0.0
        self._whole[who] = now + used
        if len(self._whole) > _REMEMBERED:
            self._whole.popitem(last=False)
        left = max(0, math.floor((_WINDOW - used) / share + 1e-6))
        return Allowance(self._limit, left, math.ceil(used), wait)


def limits(settings: Settings) -> RateLimit:
    """Return the limit that ``TRACEBATON_RATE_PER_MINUTE`` names."""
    return RateLimit(settings.write_rate)

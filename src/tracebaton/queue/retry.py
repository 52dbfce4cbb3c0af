"""
When a failed message is tried again: exponential back-off with full jitter.

https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["RetryPolicy"]

#: The contract's default for ``TRACEBATON_MAX_ATTEMPTS``.
_MAX_ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """
    How long a message waits after each failed attempt, and how many attempts it has.

    Attributes:
        base_seconds: Upper end of the first delay.
        cap_seconds: Upper end of every delay.
        max_attempts: Equals the queue's ``maxReceiveCount``, 5 where not given; the same for every
            task type of the queue.
        uniform: Source of the jitter.
    """

    base_seconds: float = 1.0
    cap_seconds: float = 300.0
    max_attempts: int | None = None
    uniform: Callable[[float, float], float] = random.uniform

    def delay(self, attempt: int) -> int:
        """
        Return the seconds to wait after *attempt* failed, at least 1.

        SQS knows whole seconds only; rounding down would let a burst of failures come back at once.
        """
        # 2**60 s is past every cap: no overflow however often a message came.
        ceiling = min(self.cap_seconds, self.base_seconds * 2 ** min(attempt - 1, 60))
        return max(1, math.ceil(self.uniform(0, ceiling)))

    def is_last(self, attempt: int) -> bool:
        """Tell whether SQS moves the message to the DLQ if *attempt* fails."""
        return attempt >= (self.max_attempts or _MAX_ATTEMPTS)

"""
The service's clock, as far as it had to tell us that ours is wrong.
"""

import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime

__all__ = ["Clock"]

#: What SQS answers where the clock of the signature is not its own.
_SKEWED = frozenset(
    {
        "AuthFailure",
        "InvalidSignatureException",
        "RequestExpired",
        "RequestInTheFuture",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
    }
)
#: Seconds that a clock has to be wrong before it is the reason; AWS allows 300.
_SKEW = 240.0


class Clock:
    """This machine's clock, put right by what the service says."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._ahead = 0.0

    def now(self) -> float:
        """Return the present as the service sees it, in seconds since the epoch."""
        return self._now() + self._ahead

    def learn(self, headers: Mapping[str, str], code: object) -> bool:
        """
        Tell whether a request was refused for its date alone, so that a second one may do.

        Args:
            headers: Those of the answer, by lower-case name.
            code: The error in it.
        """
        if code not in _SKEWED:
            return False
        try:
            theirs = parsedate_to_datetime(headers.get("date", "")).timestamp()
        except ValueError:
            return False
        if abs(theirs - self.now()) < _SKEW:
            return False
        self._ahead = theirs - self._now()
        return True

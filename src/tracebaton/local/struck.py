"""How a call goes that faults befall."""

from collections.abc import Callable

from tracebaton.local.call import ClientExchange, Reply, refused
from tracebaton.local.fault import Fault
from tracebaton.local.refusal import Refusal
from tracebaton.local.strike import Strike

__all__ = ["Cancel", "StruckExchange"]

#: Forgets a request whose answer is still to come: its client is gone.
Cancel = Callable[[], None]


class StruckExchange:
    """
    An exchange that holds back, replaces or loses what passes through it.

    Args:
        later: Calls a function after some seconds.
    """

    def __init__(
        self,
        exchange: ClientExchange,
        strike: Strike,
        later: Callable[[float, Callable[[], None]], None],
    ) -> None:
        self._exchange = exchange
        self._strike = strike
        self._later = later
        self._left = False
        self._cancel: Cancel | None = None

    def start(self, perform: Callable[[], Cancel | None]) -> Cancel:
        """Carry out a call by *perform*, now or later, if at all; return how to forget it."""

        def arrive() -> None:
            if self._strike.end_before is not None:
                self._end(self._strike.end_before)
                return
            self._cancel = perform()
            if self._left:
                self._forget()

        if self._strike.delay_before:
            self._later(self._strike.delay_before, arrive)
        else:
            arrive()
        return self._forget

    def alive(self) -> bool:
        """Return whether the client is still there."""
        return not self._left and self._exchange.alive()

    def reply(self, reply: Reply) -> None:
        """Send the answer, or what stands in for it, now or later."""

        def finish() -> None:
            if self._strike.end_after is not None:
                self._end(self._strike.end_after)
            elif self.alive():
                self._exchange.reply(reply)

        if self._strike.delay_after:
            self._later(self._strike.delay_after, finish)
        else:
            finish()

    def _forget(self) -> None:
        # What is on its way has its effect all the same, as on a network.
        self._left = True
        if self._cancel is not None:
            self._cancel()

    def _end(self, fault: Fault) -> None:
        if not self.alive():
            return
        match fault.effect:
            case "reset":
                self._exchange.reset()
            case "throttle":
                text = "The request was denied due to request throttling."
                self._exchange.reply(refused(Refusal("RequestThrottled", text)))
            case "error":
                shape = {500: "InternalFailure", 503: "ServiceUnavailable"}[fault.status]
                self._exchange.reply(refused(Refusal(shape, "A fault was asked for.")))

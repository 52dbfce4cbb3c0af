"""What faults do to one call."""

from collections import Counter
from collections.abc import Sequence
from random import Random

from tracebaton.local.fault import Effect, Fault
from tracebaton.local.message import Message
from tracebaton.local.queues import Queue

__all__ = ["Befallen", "Strike"]


class Befallen:
    """
    A fault at work: it counts the calls it is for, and those it struck.

    Attributes:
        order: Decides an order, apart from the verdicts: these depend on nothing but the seed.
    """

    __slots__ = ("_injected_by_queue", "_verdicts", "calls", "fault", "id", "injected", "order")

    def __init__(self, fault_id: str, fault: Fault, injected_by_queue: Counter[str | None]) -> None:
        self.id: str = fault_id
        self.fault: Fault = fault
        self._verdicts = Random(fault.seed)
        self.order: Random = Random(fault.seed)
        self.calls: int = 0
        self.injected: int = 0
        self._injected_by_queue = injected_by_queue

    def due(self) -> bool:
        """Return whether this call, entry or message is to be struck; asked once for each."""
        fault = self.fault
        self.calls += 1
        drawn = self._verdicts.random()  # needed or not: each call has its own number
        return (
            (fault.first is None or self.calls <= fault.first)
            and self.calls % fault.every == 0
            and drawn < fault.probability
        )

    def count(self, queue: str | None) -> None:
        """Take note that it struck."""
        self.injected += 1
        self._injected_by_queue[queue] += 1


class Strike:
    """
    The faults that befall one call.

    Attributes:
        queue: The name of the queue that the call is on.
        delay_before, delay_after: Seconds between the request, its effect and the answer.
        end_before, end_after: The fault that stands in for the effect, or for the answer.
    """

    __slots__ = ("_parts", "delay_after", "delay_before", "end_after", "end_before", "queue")

    def __init__(self, befallen: Sequence[Befallen], queue: str | None) -> None:
        self.queue: str | None = queue
        self._parts = [one for one in befallen if one.fault.of_parts]
        due = [one for one in befallen if not one.fault.of_parts and one.due()]
        before = [one for one in due if not one.fault.after]
        self.delay_before: float
        self.end_before: Fault | None
        self.delay_before, self.end_before = self._course(before)
        # What never has an effect has no answer that could be lost.
        after = [one for one in due if one.fault.after and self.end_before is None]
        self.delay_after: float
        self.end_after: Fault | None
        self.delay_after, self.end_after = self._course(after)

    def arrive(self, queue: Queue) -> None:
        """Befall the queue before a receive looks into it."""
        for one in self._of("reorder"):
            if one.due() and queue.stock.line.shuffle(one.order):
                one.count(self.queue)

    def failure(self) -> Fault | None:
        """Return what befalls the next entry of a batch."""
        struck = [one for one in self._of("fail_entries") if one.due()]
        if not struck:
            return None
        struck[0].count(self.queue)
        return struck[0].fault

    def struck(self, effect: Effect) -> bool:
        """Return whether *effect* befalls the next message, or the next receive; asked once."""
        struck = [one for one in self._of(effect) if one.due()]
        for one in struck[:1]:
            one.count(self.queue)
        return bool(struck)

    def deliver(self, queue: Queue, messages: Sequence[Message]) -> None:
        """Befall messages once the answer that hands them out is written."""
        for message in messages:
            for one in self._of("duplicate"):
                if one.due() and _repeat(queue, message):
                    one.count(self.queue)
            for one in self._of("lose_handle"):
                if one.due():
                    message.handle = message.twin = ""
                    one.count(self.queue)

    def _of(self, effect: str) -> list[Befallen]:
        return [one for one in self._parts if one.fault.effect == effect]

    def _course(self, befallen: Sequence[Befallen]) -> tuple[float, Fault | None]:
        delays = [one for one in befallen if one.fault.effect == "delay"]
        ends = [one for one in befallen if one.fault.effect != "delay"][:1]
        for one in (*delays, *ends):
            one.count(self.queue)
        return sum(one.fault.seconds for one in delays), ends[0].fault if ends else None


def _repeat(queue: Queue, message: Message) -> bool:
    policy = queue.attributes.redrive_policy
    # One more receive would move it to the DLQ under the hands of its consumer.
    exhausted = policy is not None and message.receives_here >= policy.max_receive_count
    if message.twin or exhausted or message not in queue.stock.in_flight:
        return False
    return queue.stock.line.repeat(message)

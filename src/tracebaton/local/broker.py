"""All queues of one local SQS."""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Final

from tracebaton.local.clock import Clock, SystemClock
from tracebaton.local.fifo import FifoQueue
from tracebaton.local.moves import Moves, MoveTask
from tracebaton.local.queue_attributes import Fifo, QueueAttributes, allows_source
from tracebaton.local.queues import IN_FLIGHT_LIMIT, Queue
from tracebaton.local.refusal import Refusal, invalid, no_queue
from tracebaton.local.timetable import Alarms

__all__ = ["ACCOUNT", "Broker"]

#: The account and the region that everything belongs to.
ACCOUNT: Final = "000000000000"
_REGION: Final = "us-east-1"
#: Seconds before the name of a deleted queue can be used again.
_NAME_BLOCKED: Final = 60
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,80}")
#: The suffix counts.
_FIFO_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,75}\.fifo")


class Broker:
    """
    The queues by name, and what ties them together.

    Nothing happens by itself: whoever drives the broker calls ``tick()`` when ``due()`` says so.
    """

    def __init__(
        self, clock: Clock | None = None, *, in_flight_limit: int = IN_FLIGHT_LIMIT
    ) -> None:
        self._clock = clock or SystemClock()
        self._in_flight_limit = in_flight_limit
        self._queues: dict[str, Queue] = {}
        self._deleted: dict[str, float] = {}
        self._alarms = Alarms()
        self.moves: Moves = Moves(self._clock, self._alarms, self.find)

    def create(
        self, name: str, given: Mapping[str, str], tags: Mapping[str, str] | None = None
    ) -> Queue:
        """Return the queue called *name*, made if it is not there with other attributes."""
        fifo = given.get("FifoQueue", "").lower() == "true"
        _check_name(name, fifo=fifo)
        existing = self._queues.get(name)
        if existing is not None:
            _check_same(existing, given)
            return existing
        if self._clock.monotonic() < self._deleted.get(name, float("-inf")) + _NAME_BLOCKED:
            text = "You must wait 60 seconds after deleting a queue before you can create another "
            raise Refusal("QueueDeletedRecently", f"{text}with the same name.")
        arn = f"arn:aws:sqs:{_REGION}:{ACCOUNT}:{name}"
        attributes = QueueAttributes(fifo=Fifo() if fifo else None).changed(given)
        self._check_redrive(arn, attributes)
        queue = (FifoQueue if fifo else Queue)(
            name=name,
            arn=arn,
            attributes=attributes,
            clock=self._clock,
            alarms=self._alarms,
            find=self.find,
            in_flight_limit=self._in_flight_limit,
            tags=dict(tags or {}),
        )
        self._deleted.pop(name, None)
        self._queues[name] = queue
        return queue

    def get(self, name: str) -> Queue:
        """Return the queue called *name* or refuse."""
        queue = self._queues.get(name)
        if queue is None:
            raise no_queue()
        return queue

    def find(self, arn: str) -> Queue | None:
        """Return the queue of *arn*, None if there is none."""
        queue = self._queues.get(arn.rpartition(":")[2])
        return queue if queue is not None and queue.arn == arn else None

    def names(self, prefix: str = "") -> list[str]:
        """Return the names that begin with *prefix*, sorted."""
        return sorted(name for name in self._queues if name.startswith(prefix))

    def sources(self, arn: str) -> list[str]:
        """Return the names of the queues whose DLQ is *arn*, sorted."""
        return sorted(
            queue.name
            for queue in self._queues.values()
            if (policy := queue.attributes.redrive_policy) and policy.target_arn == arn
        )

    def change(self, queue: Queue, given: Mapping[str, str]) -> None:
        """Set attributes of *queue*; nothing changes if one is refused."""
        self._check_redrive(queue.arn, queue.attributes.changed(given))
        queue.change(given)

    def delete(self, name: str) -> None:
        """Delete a queue with its messages; polls that wait on it are refused."""
        queue = self.get(name)
        del self._queues[name]
        self._deleted[name] = self._clock.monotonic()
        queue.close(no_queue())

    def start_move(
        self, source_arn: str, *, destination_arn: str | None, rate: int | None
    ) -> MoveTask:
        """Start a move task out of a queue that is the DLQ of another."""
        source = self.find(source_arn)
        if source is None:
            text = "The resource that you specified for the SourceArn parameter doesn't exist."
            raise Refusal("ResourceNotFoundException", text)
        if not self.sources(source_arn):
            text = "Source queue must be configured as a Dead Letter Queue."
            raise Refusal("InvalidParameterValueException", text)
        destination = self.find(destination_arn) if destination_arn is not None else None
        if destination is not None and not _same_type(destination.attributes, source.attributes):
            text = "Destination queue must be same type of queue as the source."
            raise Refusal("InvalidParameterValueException", text)
        return self.moves.start(source, destination_arn=destination_arn, rate=rate)

    def later(self, seconds: float, work: Callable[[], None]) -> None:
        """Call *work* once *seconds* have passed."""
        self._alarms.set(work, self._clock.monotonic() + seconds)

    def due(self) -> float | None:
        """Return the monotonic time of the next ``tick()``, None if nothing waits for one."""
        return self._alarms.due()

    def tick(self) -> None:
        """Do what is due by now."""
        self._alarms.ring(self._clock.monotonic())

    def close(self) -> None:
        """Answer every waiting poll with nothing received."""
        for queue in self._queues.values():
            queue.close()

    def stats(self) -> dict[str, dict[str, int]]:
        """Return for each queue what happened to its messages and where they are."""
        return {
            name: {**asdict(queue.counters), **queue.counts()}
            for name, queue in sorted(self._queues.items())
        }

    def _check_redrive(self, arn: str, attributes: QueueAttributes) -> None:
        policy = attributes.redrive_policy
        if policy is None:
            return
        target = self.find(policy.target_arn)
        if target is None:
            raise invalid(policy, "RedrivePolicy", "Dead letter target does not exist.")
        if not _same_type(target.attributes, attributes):
            reason = "Dead-letter queue must be same type of queue as the source."
            raise invalid(policy, "RedrivePolicy", reason)
        if not allows_source(target.attributes, arn):
            reason = "Queue is not allowed by the RedriveAllowPolicy of the dead letter target."
            raise invalid(policy, "RedrivePolicy", reason)


def _check_name(name: str, *, fifo: bool) -> None:
    if fifo and not _FIFO_NAME.fullmatch(name):
        text = "The name of a FIFO queue can only include alphanumeric characters, hyphens, or "
        text += "underscores, must end with .fifo suffix and be 1 to 80 in length."
        raise Refusal("InvalidParameterValueException", text)
    if not fifo and not _NAME.fullmatch(name):
        text = "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in "
        raise invalid(name, "QueueName", f"{text}length")


def _same_type(one: QueueAttributes, other: QueueAttributes) -> bool:
    return (one.fifo is None) == (other.fifo is None)


def _check_same(existing: Queue, given: Mapping[str, str]) -> None:
    have = existing.attributes.texts()
    want = existing.attributes.changed(given).texts()
    for name in given:
        if have.get(name) != want.get(name):
            text = "A queue already exists with the same name and a different value for attribute "
            raise Refusal("QueueNameExists", text + name)

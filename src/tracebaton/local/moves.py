"""Message move tasks: from a DLQ back to where the messages came from, or elsewhere."""

import base64
import binascii
import json
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from tracebaton.local.clock import Clock
from tracebaton.local.message import Message
from tracebaton.local.queues import Queue
from tracebaton.local.refusal import Refusal, invalid
from tracebaton.local.timetable import Alarms

__all__ = ["MoveTask", "Moves"]

#: Messages moved before other requests get their turn, when no rate is set.
_CHUNK: Final = 100
#: Tasks remembered for each source, the most that ListMessageMoveTasks shows.
_REMEMBERED: Final = 10
#: The highest rate, in messages a second, that can be asked for.
_HIGHEST_RATE: Final = 500

Find = Callable[[str], Queue | None]


@dataclass(slots=True, eq=False, kw_only=True)
class MoveTask:
    """One move task, from its start on."""

    handle: str
    source: Queue
    destination_arn: str | None
    rate: int | None
    to_move: int
    started_at: int
    clock: Clock
    alarms: Alarms
    find: Find
    moved: int = 0
    status: Literal["RUNNING", "COMPLETED", "CANCELLED", "FAILED"] = "RUNNING"
    failure: str | None = None
    due: float = field(init=False)

    def __post_init__(self) -> None:
        self.due = self.clock.monotonic()
        self.alarms.set(self.step, self.due)

    def step(self) -> None:
        """Move one message, or a chunk if there is no rate, and set the alarm for the next."""
        for _ in range(1 if self.rate else _CHUNK):
            if not self._move_one():
                return
        self.due = self.due + 1 / self.rate if self.rate else self.clock.monotonic()
        self.alarms.set(self.step, self.due)

    def cancel(self) -> None:
        """Leave what was not moved where it is."""
        self.alarms.discard(self.step)
        self.status = "CANCELLED"

    def describe(self) -> dict[str, Any]:
        """Return the task as ListMessageMoveTasks spells it."""
        optional = {
            "TaskHandle": self.handle if self.status == "RUNNING" else None,
            "DestinationArn": self.destination_arn,
            "MaxNumberOfMessagesPerSecond": self.rate,
            "FailureReason": self.failure,
        }
        return {
            "Status": self.status,
            "SourceArn": self.source.arn,
            "ApproximateNumberOfMessagesMoved": self.moved,
            "ApproximateNumberOfMessagesToMove": self.to_move,
            "StartedTimestamp": self.started_at,
            **{name: value for name, value in optional.items() if value is not None},
        }

    def _move_one(self) -> bool:
        if self.find(self.source.arn) is not self.source:
            return self._fail("AWS.SimpleQueueService.NonExistentQueue")
        message = self.source.take_out() if self.moved < self.to_move else None
        if message is None:
            self.status = "COMPLETED"
            return False
        arn = self.destination_arn or message.source_arn
        destination = self.find(arn) if arn is not None else None
        if destination is None:
            self.source.put_back(message)
            reason = "AWS.SimpleQueueService.NonExistentQueue"
            return self._fail(reason if arn is not None else "CouldNotDetermineMessageSource")
        # Developer guide: redriven messages are new ones, with a new id and enqueue time.
        destination.put_in(Message.new(message.content, self.clock))
        self.moved += 1
        return True

    def _fail(self, reason: str) -> bool:
        self.status = "FAILED"
        self.failure = reason
        return False


class Moves:
    """The move tasks of all queues, at most one running for each source."""

    def __init__(self, clock: Clock, alarms: Alarms, find: Find) -> None:
        self._clock = clock
        self._alarms = alarms
        self._find = find
        self._tasks: dict[str, deque[MoveTask]] = {}

    def start(self, source: Queue, *, destination_arn: str | None, rate: int | None) -> MoveTask:
        """Start to move what is visible in *source* now."""
        if rate is not None and not 1 <= rate <= _HIGHEST_RATE:
            reason = f"Must be between 1 and {_HIGHEST_RATE}, if provided."
            raise invalid(rate, "MaxNumberOfMessagesPerSecond", reason)
        if destination_arn is not None and self._find(destination_arn) is None:
            raise _no_resource("DestinationArn")
        tasks = self._tasks.setdefault(source.arn, deque(maxlen=_REMEMBERED))
        if tasks and tasks[0].status == "RUNNING":
            text = "There is already a task running. Only one active task is allowed for a "
            raise Refusal(
                "InvalidParameterValueException", f"{text}source queue arn at a given time."
            )
        name = {"taskId": str(uuid.uuid4()), "sourceArn": source.arn}
        task = MoveTask(
            handle=base64.b64encode(json.dumps(name).encode()).decode(),
            source=source,
            destination_arn=destination_arn,
            rate=rate,
            to_move=source.counts()["visible"],
            started_at=int(self._clock.wall() * 1000),
            clock=self._clock,
            alarms=self._alarms,
            find=self._find,
        )
        tasks.appendleft(task)
        return task

    def recent(self, source_arn: str, most: int) -> list[MoveTask]:
        """Return the tasks of a source, the latest first."""
        if self._find(source_arn) is None:
            raise _no_resource("SourceArn")
        return list(self._tasks.get(source_arn, ()))[:most]

    def cancel(self, handle: str) -> MoveTask:
        """Stop the task of *handle*; what it moved stays moved."""
        arn = _source_arn(handle)
        if self._find(arn) is None:
            raise _no_resource("SourceArn")
        for task in self._tasks.get(arn, ()):
            if task.handle == handle and task.status == "RUNNING":
                task.cancel()
                return task
        raise Refusal("ResourceNotFoundException", "Task does not exist.")


def _source_arn(handle: str) -> str:
    try:
        return str(json.loads(base64.b64decode(handle, validate=True))["sourceArn"])
    except (binascii.Error, ValueError, KeyError, TypeError) as exc:
        text = "Value for parameter TaskHandle is invalid."
        raise Refusal("InvalidParameterValueException", text) from exc


def _no_resource(parameter: str) -> Refusal:
    text = f"The resource that you specified for the {parameter} parameter doesn't exist."
    return Refusal("ResourceNotFoundException", text)

"""Hostile messages among good ones, to a worker that runs: every one is accounted for."""

import asyncio
import json
import re
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import strategies as st

from tracebaton import Tracebaton, current
from tracebaton.context import RequestStore, entered
from tracebaton.queue.foreign import ForeignMessage
from tracebaton.queue.incoming import Reader
from tracebaton.queue.message import Received
from tracebaton.tasks import ENDED, Task
from tracebaton.testing import Stage

from .conftest import Cases
from .desk import Note
from .hostile_messages import VICTIM, WAITING, HostileMessage, messages
from .wire import Wire

pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")

#: Seconds in which a batch has to be settled: nothing in it takes any time.
PATIENCE = 20.0
_OURS = {"tracebaton-reason", "tracebaton-detail", "tracebaton-quarantine"}
_WRONG = re.compile("Failed to detach|different Context|worker.failure|receive.failed")


@dataclass
class Handled:
    """What a handler saw."""

    task_id: str | None
    user_id: str | None
    correlation_id: str | None
    text: str


@dataclass
class Works:
    """
    A stage whose worker never stops, and everything that its handler saw.

    Attributes:
        pending: Every message whose fate is not known yet, by message id.
        fates: How many messages ended in which way.
    """

    runner: asyncio.Runner
    stage: Stage
    app: Tracebaton
    handled: list[Handled]
    pending: dict[str, HostileMessage] = field(default_factory=dict)
    fates: Counter[str] = field(default_factory=Counter)
    good: int = 0

    def __post_init__(self) -> None:
        self.wire = Wire(self.stage.sqs.url, self.stage.sqs.queue_url("tasks"))
        self._service = self.app.worker(wait_seconds=1)
        self._running: asyncio.Task[Any] | None = None
        self._seen = 0

    async def start(self) -> None:
        """Start the worker."""
        await self._service.prepare()
        self._running = asyncio.create_task(self._service.run())

    def check_alive(self) -> None:
        """Fail if the worker ended by itself."""
        assert self._running is not None
        assert not self._running.done(), "the worker died"

    async def stop(self) -> None:
        """Stop the worker, which gives back at once what it cannot finish."""
        if self._running is not None:
            self._service.stop()
            self._service.stop()
            await asyncio.wait_for(self._running, 30)
        await self.wire.close()

    async def deliver(self, hostile: list[HostileMessage]) -> None:
        """Send *hostile* between good ones, and wait until the good ones are handled."""
        good = [await self._good()]
        for start in range(0, len(hostile), 5):  # five of the largest are one batch of SQS's
            await self._send([await self._with_its_task(one) for one in hostile[start : start + 5]])
        good.append(await self._good())
        for task_id, said in good:
            await self._handled(task_id, said)
        self._check_lines()

    async def settle(self, *, seconds: float = PATIENCE) -> None:
        """Wait until nothing is left in the queue, and find out where each message is."""
        deadline = time.monotonic() + seconds
        while True:
            now = self.stage.sqs.stats()["tasks"]
            if now["visible"] == now["in_flight"] == now["delayed"] == 0:
                break
            assert time.monotonic() < deadline, f"not settled: {now}"
            await asyncio.sleep(0.01)
        self._check_lines()
        for copy in await self.wire.take("tasks-quarantine"):
            story = json.loads(copy["MessageAttributes"]["tracebaton-quarantine"]["StringValue"])
            _check_copy(self.pending.pop(story["message_id"]), copy, story)
            self.fates["quarantined"] += 1
        for dead in await self._dead():
            assert dead["Body"] == self.pending.pop(dead["MessageId"]).body
            self.fates["dead"] += 1
        for message_id, message in self.pending.items():
            task = await self.stage.task(_task_id(message_id, message))
            assert task.status in ENDED, "acked silently"
            self.fates["ended"] += 1
        self.pending.clear()
        self.forget()

    async def _dead(self) -> list[dict[str, Any]]:
        """Take all of the DLQ, those too that the worker's watch holds for the time of a walk."""
        deadline, found = time.monotonic() + PATIENCE, list[dict[str, Any]]()
        while True:
            found += await self.wire.take("tasks-dlq")
            now = self.stage.sqs.stats()["tasks-dlq"]
            if now["visible"] == now["in_flight"] == 0:
                return found
            assert time.monotonic() < deadline, f"held in the DLQ: {now}"
            await asyncio.sleep(0.01)

    async def held(self, queue: str) -> None:
        """Wait for a message in *queue* and hide it for a second."""
        while not (await self.wire.call("ReceiveMessage", queue, VisibilityTimeout=1)):
            await asyncio.sleep(0.01)

    async def _send(self, some: list[HostileMessage]) -> None:
        entries = [message.entry(number) for number, message in enumerate(some)]
        answer = await self.wire.call("SendMessageBatch", "tasks", Entries=entries)
        assert "Successful" in answer or "Failed" in answer, answer
        for sent in answer.get("Successful", ()):  # the others SQS refused
            self.pending[sent["MessageId"]] = some[int(sent["Id"])]

    async def _with_its_task(self, message: HostileMessage) -> HostileMessage:
        if WAITING not in message.body:
            return message
        store = self.app.runtime("api").store
        assert store is not None
        task_id, now = str(uuid.uuid4()), time.time()
        await store.create(Task(id=task_id, type="note", created_at=now, updated_at=now))
        return replace(message, body=message.body.replace(WAITING, task_id))

    async def _good(self) -> tuple[str, str]:
        self.good += 1
        said = f"good-{self.good}"
        with entered(RequestStore(correlation_id=said, user_id=f"user-{self.good}")):
            task = await self.app.enqueue("note", {"text": said})
        return task.id, said

    async def _handled(self, task_id: str, said: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while (task := await self.stage.task(task_id)).status not in ENDED:
            self.check_alive()
            assert time.monotonic() < deadline, task
            await asyncio.sleep(0.002)
        assert task.status == "succeeded", task
        seen = [one for one in self.handled if one.task_id == task_id]
        assert seen == [Handled(task_id, said.replace("good", "user"), said, said)]

    def _check_lines(self) -> None:
        lines = self.stage.logs[self._seen :]
        self._seen += len(lines)
        assert [line for line in lines if _WRONG.search(json.dumps(line, default=str))] == []

    def users(self) -> set[Any]:
        """Return whom spans, log lines and handlers name."""
        named = {(span.attributes or {}).get("tracebaton.user_id") for span in self.stage.spans}
        named |= {line["user_id"] for line in self.stage.logs}
        return named | {one.user_id for one in self.handled}

    def forget(self) -> None:
        """Forget what was told and seen."""
        told = (self.stage.spans, self.stage.logs, self.stage.events, self.handled)
        for captured in told:
            captured.clear()
        self._seen = 0


def _task_id(message_id: str, message: HostileMessage) -> str:
    """Return the task that *message* is: a foreign one's comes from the message's id."""
    reader = Reader(queue_name="tasks", routes=[lambda _: "note"])
    received = Received(message_id=message_id, receipt_handle="", body=message.body)
    event = reader.read(received).event
    assert event is not None, "acked silently"
    return event.id


def _check_copy(message: HostileMessage, copy: dict[str, Any], story: dict[str, Any]) -> None:
    """Hold a quarantined copy against its original: the same bytes, and all of its attributes."""
    assert copy["Body"] == message.body
    given = copy["MessageAttributes"]
    assert given["tracebaton-reason"]["StringValue"] == story["reason"]
    folded = story.get("attributes", {})
    for name, value in message.entry(0)["MessageAttributes"].items():
        if name in _OURS:
            continue  # what we say there ourselves
        kind, content = value["DataType"], value.get("StringValue", value.get("BinaryValue"))
        assert given.get(name) == value or {"type": kind}.items() <= folded[name].items()
        assert name in given or content in folded[name].values()


@contextmanager
def working(env: dict[str, str]) -> Iterator[Works]:
    """Run a worker on a stage, with a handler that keeps what it sees."""
    app, handled = Tracebaton(), list[Handled]()

    @app.task("note", model=Note)
    async def note(data: Note) -> str:
        store = current()
        handled.append(Handled(store.task_id, store.user_id, store.correlation_id, data.text))
        await asyncio.sleep(0)
        assert current() == store
        return data.text

    @app.foreign
    def by_kind(message: ForeignMessage) -> str | None:
        return str(message.data["kind"])

    with asyncio.Runner() as runner:
        # One attempt each: what fails is dead at once, and no back-off is waited for.
        stage = Stage(app, env={"TRACEBATON_MAX_ATTEMPTS": "1"} | env)
        runner.run(stage.__aenter__())
        works = Works(runner, stage, app, handled)
        try:
            runner.run(works.start())
            yield works
            works.check_alive()
        finally:
            runner.run(works.stop())
            runner.run(stage.__aexit__(None, None, None))


_batches = st.lists(messages, min_size=8, max_size=30)


def test_every_message_is_accounted_for(cases: Cases) -> None:
    """Done, quarantined or dead; the good ones between them are handled, as whose they are."""
    with working({}) as works:

        def batch(hostile: list[HostileMessage]) -> int:
            works.runner.run(works.deliver(hostile))
            waiting = [message for message in works.pending.values() if message.is_event]
            claimed = any(VICTIM in _all(message) for message in waiting)
            assert claimed or VICTIM not in works.users(), "a foreign message named somebody"
            return len(hostile)

        def settle() -> None:
            works.runner.run(works.settle())

        cases.explore("messages, unsigned", _batches, batch, share=0.6, between=settle)
        cases.lines.append(f"  {dict(works.fates)}, {works.good} good ones")


def test_with_a_key_nothing_forged_is_handled(cases: Cases) -> None:
    """Not one handler runs and nobody is named; all of it is quarantined."""
    with working({"TRACEBATON_MESSAGE_KEY": "k" * 32}) as works:

        def batch(hostile: list[HostileMessage]) -> int:
            works.runner.run(works.deliver(hostile))
            assert all(one.text.startswith("good-") for one in works.handled)
            assert VICTIM not in works.users()
            return len(hostile)

        def settle() -> None:
            works.runner.run(works.settle())
            assert works.fates.keys() <= {"quarantined"}

        cases.explore("messages, with a key", _batches, batch, share=0.4, between=settle)


def _event(**changes: Any) -> HostileMessage:
    event = {"specversion": "1.0", "id": WAITING, "source": "/api", "type": "note"}
    return HostileMessage(json.dumps(event | {"data": {"text": "hello"}} | changes))


_FOREIGN = {"kind": "note", "text": "hello"}


def test_each_fate_is_told_from_the_others() -> None:
    """The account of the suites below is right where the fate is known."""
    known = {
        "ended": [_event(), HostileMessage(json.dumps(_FOREIGN)), _event(type="note", userid="u")],
        "quarantined": [_event(type="nosuch"), _event(data={}), HostileMessage("no JSON")],
        "dead": [_event(id="of-no-task")],
    }
    for fate, some in known.items():
        with working({}) as works:
            works.runner.run(works.deliver(some))
            works.runner.run(works.settle())

            assert works.fates == {fate: len(some)}


def test_a_dead_message_that_is_looked_at_is_accounted_for() -> None:
    """The worker's own watch hides what is in the DLQ while it walks through it."""
    with working({}) as works:
        works.runner.run(works.deliver([_event(id="of-no-task")]))
        works.runner.run(works.held("tasks-dlq"))
        works.runner.run(works.settle())

        assert works.fates == {"dead": 1}


_NOTIFICATION = {"Type": "Notification", "MessageId": "\ud800", "Message": json.dumps(_FOREIGN)}


@pytest.mark.parametrize(
    "message",
    [_event(id="\ud800"), _event(delayseconds=10**400), HostileMessage(json.dumps(_NOTIFICATION))],
    ids=["half a surrogate pair as id", "endless delay", "half a surrogate pair from SNS"],
)
def test_what_cannot_be_stored_or_counted_is_settled_at_once(message: HostileMessage) -> None:
    """Whatever the JSON holds, the message is handled or quarantined, and nothing escapes."""
    with working({}) as works:
        works.runner.run(works.deliver([message]))
        works.runner.run(works.settle(seconds=2))


def test_a_forged_message_cannot_end_a_task() -> None:
    """With a key set, a message that nobody signed leaves the task alone whose id it took."""
    with working({"TRACEBATON_MESSAGE_KEY": "k" * 32}) as works:
        task = works.runner.run(works.app.enqueue("note", {"text": "real"}, delay_seconds=1))
        works.runner.run(works.deliver([_event(id=task.id)]))
        works.runner.run(works.settle())

        assert works.runner.run(works.stage.task(task.id)).status == "succeeded"


def _all(message: HostileMessage) -> str:
    return message.body + "".join(str(value) for _, _, value in message.attributes)

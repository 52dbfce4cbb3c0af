"""Concurrent sends share calls, and each has its own outcome."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tracebaton.errors import QueueUnavailable
from tracebaton.queue import coalescing
from tracebaton.queue.coalescing import Coalescer, Departure
from tracebaton.queue.message import Outgoing, Sent
from tracebaton.queue.sqs import Queue
from tracebaton.semconv import MESSAGING_MESSAGE_ID

from .conftest import Bench, Note
from .scripted_sqs import Answer, ScriptedSqs


class Gate:
    """Answers every send, while it is open; tells how many calls stand before it."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._arrived: asyncio.Queue[str] = asyncio.Queue()

    def open(self) -> None:
        """Let everybody through from now on."""
        self._open.set()

    async def arrived(self, calls: int = 1) -> list[str]:
        """Wait until that many calls have come to the gate."""
        return [await asyncio.wait_for(self._arrived.get(), 5) for _ in range(calls)]

    def __call__(self, action: str, request: dict[str, Any]) -> Any:
        self._loop.call_soon_threadsafe(self._arrived.put_nowait, action)
        self._open.wait(10)
        return taken(action, request)


def taken(action: str, request: dict[str, Any]) -> Any:
    """Take every message; its id is its body."""
    if action == "SendMessage":
        return {"MessageId": request["MessageBody"]}
    entries = request["Entries"]
    ids = [{"Id": entry["Id"], "MessageId": entry["MessageBody"]} for entry in entries]
    return {"Successful": ids, "Failed": []}


@asynccontextmanager
async def scripted(
    answer: Answer, *, name: str = "tasks", **options: Any
) -> AsyncIterator[tuple[ScriptedSqs, Coalescer]]:
    """An SQS that answers by script, and a coalescer on it."""
    with ScriptedSqs(answer) as sqs:
        client = sqs.client()
        queue = Queue(client, url=f"{sqs.url}/000000000000/{name}")
        coalescer = Coalescer(client, queue, **options)
        yield sqs, coalescer
        await coalescer.flush()
        await client.close()


def posted(coalescer: Coalescer, *bodies: str, **options: Any) -> list[Departure]:
    """Post a message for each body."""
    return [coalescer.post(Outgoing(body=body, **options)) for body in bodies]


async def settled(departures: list[Departure]) -> list[Sent]:
    """Wait for all of them."""
    return await asyncio.wait_for(asyncio.gather(*(one.done for one in departures)), 10)


def calls(sqs: ScriptedSqs) -> list[list[str]]:
    """The bodies of each call."""
    return [
        [entry["MessageBody"] for entry in request.get("Entries", [request])]
        for _, request in sqs.requests
    ]


async def test_a_message_alone_leaves_at_once() -> None:
    """By a call of its own: nothing waits for company."""
    async with scripted(taken) as (sqs, coalescer):
        (sent,) = await settled(posted(coalescer, "a"))

    assert sent == Sent("a")
    assert [action for action, _ in sqs.requests] == ["SendMessage"]


async def test_what_comes_in_one_turn_goes_together() -> None:
    """Up to ten messages a call, in their order, each with its own id."""
    bodies = [str(number) for number in range(23)]
    async with scripted(taken, calls=1) as (sqs, coalescer):
        sent = await settled(posted(coalescer, *bodies))

    assert [one.message_id for one in sent] == bodies
    assert calls(sqs) == [bodies[:10], bodies[10:20], bodies[20:]]


async def test_messages_gather_only_while_calls_are_under_way() -> None:
    """The first leave alone, as many as calls may run; the next batch fills meanwhile."""
    gate = Gate()
    async with scripted(gate, calls=2) as (sqs, coalescer):
        first = posted(coalescer, "a")
        await gate.arrived()
        second = posted(coalescer, "b")
        await gate.arrived()
        rest = posted(coalescer, "c") + posted(coalescer, "d")
        gate.open()
        await settled(first + second + rest)

    assert calls(sqs) == [["a"], ["b"], ["c", "d"]]
    assert sqs.at_once == 2


async def test_bytes_end_a_batch() -> None:
    """A call never has more than SQS takes in all."""
    big = "x" * 400_000
    async with scripted(taken, calls=1) as (sqs, coalescer):
        await settled(posted(coalescer, big, big, big, "y"))

    assert [len(bodies) for bodies in calls(sqs)] == [2, 2]


async def test_a_fifo_queue_has_one_call_at_a_time() -> None:
    """So that no message overtakes another of its group."""
    bodies = [str(number) for number in range(25)]
    async with scripted(taken, name="tasks.fifo") as (sqs, coalescer):
        await settled(posted(coalescer, *bodies, group_id="g", deduplication_id="d"))

    assert sqs.at_once == 1
    assert [body for bodies_ in calls(sqs) for body in bodies_] == bodies


async def test_a_failing_call_is_told_to_each() -> None:
    """Each has an error object of its own, because each records it on its span."""
    async with scripted(lambda *_: (500, "InternalError")) as (_, coalescer):
        sent = await settled(posted(coalescer, "a", "b"))
    errors = [one.error for one in sent]

    assert [type(error) for error in errors] == [QueueUnavailable] * 2
    assert errors[0] is not errors[1]


async def test_a_failed_entry_is_its_own_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused for its own fault it is told at once; failed for SQS's it is tried again."""
    monkeypatch.setattr(coalescing, "PAUSE", 0.001)
    busy = iter([True, False])

    def answer(action: str, request: dict[str, Any]) -> Any:
        if action == "SendMessage":
            return taken(action, request)
        answered = taken(action, request)
        kept = {"ok": [], "bad": [], "busy": []}
        for entry, success in zip(request["Entries"], answered["Successful"], strict=True):
            kept[entry["MessageBody"]].append(success)
        failed = [
            {"Id": one["Id"], "Code": "InvalidMessageContents", "SenderFault": True}
            for one in kept["bad"]
        ]
        if next(busy):
            failed += [
                {"Id": one["Id"], "Code": "InternalError", "SenderFault": False}
                for one in kept["busy"]
            ]
            kept["busy"] = []
        return {"Successful": kept["ok"] + kept["busy"], "Failed": failed}

    async with scripted(answer) as (sqs, coalescer):
        sent = await settled(posted(coalescer, "ok", "bad", "busy"))

    assert [one.message_id for one in sent] == ["ok", None, "busy"]
    assert calls(sqs) == [["ok", "bad", "busy"], ["busy"]]


async def test_what_fails_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a few tries its caller hears of it."""
    monkeypatch.setattr(coalescing, "PAUSE", 0.001)

    def answer(action: str, request: dict[str, Any]) -> Any:
        failed = [
            {"Id": entry["Id"], "Code": "InternalError", "SenderFault": False}
            for entry in request["Entries"]
        ]
        return {"Successful": [], "Failed": failed}

    async with scripted(answer) as (sqs, coalescer):
        sent = await settled(posted(coalescer, "a", "b"))

    assert [type(one.error) for one in sent] == [QueueUnavailable] * 2
    assert len(sqs.requests) == coalescing.TRIES


async def test_an_entry_that_is_not_answered_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """What SQS neither took nor failed is tried again, and taken for sent by nobody."""
    monkeypatch.setattr(coalescing, "PAUSE", 0.001)

    def answer(action: str, request: dict[str, Any]) -> Any:
        if action == "SendMessage":
            return taken(action, request)
        return {"Successful": taken(action, request)["Successful"][:1]}

    async with scripted(answer) as (sqs, coalescer):
        sent = await settled(posted(coalescer, "a", "b", "c"))

    assert [one.message_id for one in sent] == ["a", "b", "c"]
    assert calls(sqs) == [["a", "b", "c"], ["b", "c"], ["c"]]


async def test_one_bad_message_refuses_nobody_else() -> None:
    """A broker that refuses the whole batch for it gets the messages one by one, in order."""

    def answer(action: str, request: dict[str, Any]) -> Any:
        if action == "SendMessageBatch" or request["MessageBody"] == "bad":
            return 400, "InvalidMessageContents"
        return taken(action, request)

    async with scripted(answer) as (sqs, coalescer):
        sent = await settled(posted(coalescer, "a", "bad", "c"))

    assert [one.message_id for one in sent] == ["a", None, "c"]
    assert calls(sqs) == [["a", "bad", "c"], ["a"], ["bad"], ["c"]]


async def test_a_queue_that_is_not_found_is_told_to_each() -> None:
    """A URL that cannot be looked up fails the messages and not the sender."""
    with ScriptedSqs(lambda *_: (400, "QueueDoesNotExist")) as sqs:
        client = sqs.client()
        coalescer = Coalescer(client, Queue(client, name="tasks"))
        sent = await settled(posted(coalescer, "a", "b"))
        await client.close()

    assert [type(one.error) for one in sent] == [QueueUnavailable] * 2


async def test_who_leaves_in_time_is_not_sent() -> None:
    """A message that no call has taken can be withdrawn; the others of its batch go."""
    gate = Gate()
    async with scripted(gate, calls=1) as (sqs, coalescer):
        first = posted(coalescer, "a")
        await gate.arrived()
        second, third = posted(coalescer, "b", "c")
        withdrawn = [one.withdraw() for one in (first[0], second)]
        gate.open()
        sent = await settled([*first, third])

    assert withdrawn == [False, True]
    assert calls(sqs) == [["a"], ["c"]]
    assert [one.message_id for one in sent] == ["a", "c"]


async def test_a_mistake_of_ours_hangs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a call raises, those in it hear of it, and the next ones are sent."""
    async with scripted(taken) as (_, coalescer):
        with monkeypatch.context() as broken:
            broken.setattr(coalescing, "send_alone", None)
            (departure,) = posted(coalescer, "a")
            with pytest.raises(TypeError):
                await asyncio.wait_for(departure.done, 5)
        (sent,) = await settled(posted(coalescer, "b"))

    assert sent == Sent("b")


async def test_the_end_of_the_loop_cancels_who_waits() -> None:
    """A cancelled call leaves no caller behind."""
    gate = Gate()
    async with scripted(gate) as (_, coalescer):
        departures = posted(coalescer, "a", "b")
        await gate.arrived()
        for task in set(coalescer._running):
            task.cancel()
        await asyncio.wait([one.done for one in departures], timeout=5)
        gate.open()

    assert all(one.done.cancelled() for one in departures)


async def nothing(note: Note) -> None:
    """Handle nothing."""


async def test_concurrent_requests_share_calls(bench: Bench) -> None:
    """Each has its own task, span and message id, in one trace of its own."""
    bench.handle(nothing)
    producer = bench.producer()
    tasks = await asyncio.gather(*(producer.enqueue("note", Note(number=n)) for n in range(30)))
    spans = [span for span in bench.exporter.get_finished_spans() if span.name == "send tasks"]
    received = [message for _ in range(3) for message in await bench.take("tasks", seconds=0)]
    carried = {message.attributes["traceparent"].split("-")[1] for message in received}
    ids = {span.attributes[MESSAGING_MESSAGE_ID] for span in spans if span.attributes}

    assert bench.local.stats()["tasks"]["sent"] == 30
    assert len({task.id for task in tasks}) == 30
    assert carried == {task.trace_id for task in tasks}
    assert ids == {message.message_id for message in received}


@pytest.mark.parametrize("arrives", [True, False])
async def test_a_caller_who_leaves_too_late(bench: Bench, arrives: bool) -> None:
    """The message is on its way: its task stays if it arrives, and goes if not."""
    gate = Gate()

    def answer(action: str, request: dict[str, Any]) -> Any:
        if action == "GetQueueAttributes":
            return {"Attributes": {}}
        answered = gate(action, request)
        return answered if arrives else (403, "AccessDenied")

    bench.handle(nothing)
    with ScriptedSqs(answer) as sqs:
        client = sqs.client()
        producer = bench.producer(queue=Queue(client, url=sqs.queue_url), sqs=client)
        sending = asyncio.create_task(producer.enqueue("note", Note()))
        await gate.arrived()
        sending.cancel()
        await asyncio.wait([sending])
        gate.open()
        await producer.close()
        await client.close()
    span = await bench.spanned("send tasks")
    task = await bench.store.get(str((span.attributes or {})["tracebaton.task.id"]))

    assert sending.cancelled()
    assert (task is not None) is arrives
    assert bool(span.status.description or span.events) is not arrives


async def test_a_caller_who_leaves_in_time(bench: Bench) -> None:
    """Neither the message nor its task remains, and who shares the wait is not hurt."""
    gate = Gate()

    def answer(action: str, request: dict[str, Any]) -> Any:
        if action == "GetQueueAttributes":
            return {"Attributes": {}}
        return gate(action, request)

    bench.handle(nothing)
    with ScriptedSqs(answer) as sqs:
        client = sqs.client()
        producer = bench.producer(queue=Queue(client, url=sqs.queue_url), sqs=client)
        busy = [asyncio.create_task(producer.enqueue("note", Note())) for _ in range(1)]
        await gate.arrived()
        others = []
        for _ in range(2):
            busy.append(asyncio.create_task(producer.enqueue("note", Note())))
            await gate.arrived()
        others = [asyncio.create_task(producer.enqueue("note", Note())) for _ in range(2)]
        async with asyncio.timeout(5):
            while len(producer._coalescer._waiting) < 2:
                await asyncio.sleep(0.001)
        others[0].cancel()
        await asyncio.wait([others[0]])
        gate.open()
        kept = await asyncio.gather(*busy, others[1])
        await client.close()

    assert others[0].cancelled()
    assert len(kept) == 4
    assert len(sqs.requests) == 5


async def test_a_mistake_of_ours_ends_the_span(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And takes the task back, like any failed send."""
    monkeypatch.setattr(coalescing, "send_alone", None)
    bench.handle(nothing)
    with pytest.raises(TypeError):
        await bench.producer().enqueue("note", Note())
    span = bench.spans()["send tasks"]

    assert await bench.store.get(str((span.attributes or {})["tracebaton.task.id"])) is None


async def test_a_close_sends_what_waits(bench: Bench) -> None:
    """Whoever still waits at a stop gets an answer first."""
    bench.handle(nothing)
    producer = bench.producer()
    sending = [asyncio.create_task(producer.enqueue("note", Note())) for _ in range(15)]
    async with asyncio.timeout(5):
        while not producer._coalescer._running:
            await asyncio.sleep(0)
    await producer.close()
    tasks = await asyncio.gather(*sending)

    assert len(tasks) == 15
    assert bench.count() == 15


async def test_a_close_does_not_wait_for_ever(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that hangs is left to its own timeout."""
    from tracebaton.queue import producer as module

    monkeypatch.setattr(module, "_CLOSE_SECONDS", 0.05)
    gate = Gate()

    def answer(action: str, request: dict[str, Any]) -> Any:
        if action == "GetQueueAttributes":
            return {"Attributes": {}}
        return gate(action, request)

    bench.handle(nothing)
    with ScriptedSqs(answer) as sqs:
        client = sqs.client()
        producer = bench.producer(queue=Queue(client, url=sqs.queue_url), sqs=client)
        sending = asyncio.create_task(producer.enqueue("note", Note()))
        await gate.arrived()
        await asyncio.wait_for(producer.close(), 5)
        unanswered = not sending.done()
        gate.open()
        await sending
        await client.close()

    assert unanswered


@pytest.mark.parametrize("fails", [False, True])
async def test_many_ask_for_a_queues_limit_by_one_call(fails: bool) -> None:
    """Whoever leaves takes no other along, and a failure is asked about again."""
    asked: list[str] = []

    def attributes(action: str, request: dict[str, Any]) -> Any:
        asked.append(action)
        if fails and len(asked) == 1:
            return 400, "AccessDenied"
        return {"Attributes": {"MaximumMessageSize": "2048"}}

    async with scripted(attributes) as (sqs, _):
        client = sqs.client()
        queue = Queue(client, url=sqs.queue_url)
        asking = [asyncio.ensure_future(queue.message_limit()) for _ in range(50)]
        await asyncio.sleep(0)
        asking[0].cancel()
        found = await asyncio.gather(*asking, return_exceptions=True)
        again = await queue.message_limit()
        await client.close()

    kinds = {type(one).__name__ for one in found[1:]}
    assert isinstance(found[0], asyncio.CancelledError)
    assert (kinds, again) == ({"QueueUnavailable" if fails else "int"}, 2048)
    assert len(asked) == 1 + fails

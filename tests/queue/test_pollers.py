"""Poll loops: as many as there is work for, and none that stays dead."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tracebaton.queue.message import Received
from tracebaton.queue.pollers import Pollers
from tracebaton.queue.receiver import Polls
from tracebaton.queue.room import Room
from tracebaton.queue.sqs import Queue
from tracebaton.queue.stop import Stop

from .conftest import said, until
from .scripted_sqs import Answer, ScriptedSqs


class Line:
    """Pollers of a scripted queue, and what they brought."""

    def __init__(self, sqs: ScriptedSqs, **options: Any) -> None:
        self.client = sqs.client(fast=options.pop("fast", True))
        self.stop = Stop()
        self.room = Room(options.pop("size", 40))
        self.share = self.room.share()
        self.messages: list[Received] = []
        self.mistakes: Iterator[Exception] = iter(())
        self.keep = options.pop("keep", False)
        count = options.pop("count", 4)
        patience = options.pop("patience", None)
        defaults: dict[str, Any] = {"visibility_seconds": 30, "wait_seconds": 20}
        polls = Polls(
            sqs=self.client,
            queue=Queue(self.client, url=sqs.queue_url),
            share=self.share,
            stop=self.stop,
            deliver=self.take,
            **defaults | options,
        )
        self.pollers = Pollers(polls, count, patience=patience)

    def take(self, message: Received, moment: float) -> None:
        """Handle *message* at once, or keep it."""
        self.messages.append(message)
        if not self.keep:
            self.share.give_back(1)
        for mistake in self.mistakes:
            raise mistake


@asynccontextmanager
async def polling(answer: Answer, **options: Any) -> AsyncIterator[tuple[ScriptedSqs, Line]]:
    """Poll a queue that answers by script."""
    with ScriptedSqs(answer) as sqs:
        line = Line(sqs, **options)
        running = asyncio.create_task(line.pollers.run())
        try:
            yield sqs, line
        finally:
            line.stop.ask()
            await asyncio.wait_for(running, 10)
            await line.client.close()


def messages(count: int) -> dict[str, Any]:
    """An answer with *count* messages."""
    made = [{"MessageId": f"m{n}", "ReceiptHandle": "h", "Body": ""} for n in range(count)]
    return {"Messages": made}


async def reached(ask: Any, good: Any) -> Any:
    """Wait until *ask* returns what is *good*."""

    async def asking() -> Any:
        return ask()

    return await until(asking, good)


async def test_an_idle_queue_costs_one_poll_at_a_time() -> None:
    """Three more loops stand by; they join when a poll brings plenty, and rest when it is over."""
    full, together = iter(range(9)), threading.Barrier(2)

    def answer(action: str, request: dict[str, Any]) -> dict[str, Any]:
        if (number := next(full, None)) is not None:
            if number:
                together.wait(5)  # the first poll is alone, from then on there are others
            return messages(10)
        time.sleep(0.02)  # a long poll that brings nothing
        return {}

    async with polling(answer) as (sqs, line):
        await reached(lambda: len(line.messages), lambda count: count == 90)
        others = line.pollers.receivers[1:]
        tasks = line.pollers._tasks
        work = line.pollers._polls.work

        def working() -> bool:
            return work.is_set() or not all(tasks[one].done() for one in others if one in tasks)

        await reached(working, lambda busy: not busy)
        sqs.at_once = 0
        before = len(sqs.requests)
        await reached(lambda: len(sqs.requests), lambda count: count > before + 5)
        idle = sqs.at_once

    assert idle == 1


async def test_a_little_work_wakes_nobody() -> None:
    """One message now and then is for one poll to bring."""

    def answer(action: str, request: dict[str, Any]) -> dict[str, Any]:
        return messages(2) if len(sqs.requests) % 3 == 0 else {}

    async with polling(answer) as (sqs, line):
        await reached(lambda: len(line.messages), lambda count: count >= 10)

    assert sqs.at_once == 1


async def test_a_poll_loop_that_dies_is_started_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed from outside or by a mistake of ours: said, and polling goes on."""
    monkeypatch.setattr("tracebaton.queue.pollers._RESTART_SECONDS", 0.01)

    def answer(action: str, request: dict[str, Any]) -> dict[str, Any]:
        time.sleep(0.01)
        return messages(1)

    with caplog.at_level(logging.ERROR):
        async with polling(answer, count=1) as (_, line):
            line.mistakes = iter([RuntimeError("a mistake")])
            await reached(lambda: len(line.messages), lambda count: count > 1)
            line.pollers._tasks[line.pollers.receivers[0]].cancel()
            before = len(line.messages)
            await reached(lambda: len(line.messages), lambda count: count > before + 1)

    restarts = said(caplog, "poller.restarted")
    assert [bool(record.exc_info) for record in restarts] == [True, False]
    assert line.room.in_use == 0


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "boto3"])
async def test_a_receive_that_hangs_is_not_waited_for(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    """Not alive, said, closed where it can be, and a fresh receive; alive once one is answered."""
    monkeypatch.setattr("tracebaton.queue.pollers._RESTART_SECONDS", 0.01)
    go, hung = threading.Event(), threading.Event()

    def answer(action: str, request: dict[str, Any]) -> dict[str, Any]:
        if action == "ReceiveMessage" and not hung.is_set():
            hung.set()
            go.wait(20)
            return messages(1)
        if action == "ReceiveMessage":
            alive.append(line.pollers.alive)
            time.sleep(0.01)
            return messages(1)
        released.set()
        return {}

    alive: list[bool] = []
    released = threading.Event()
    with caplog.at_level(logging.ERROR):
        async with polling(answer, count=1, patience=0.3 if fast else 1.5, fast=fast) as (_, line):
            await reached(lambda: len(line.messages), lambda count: count > 1)
            recovered = line.pollers.alive
            go.set()
            # What boto3 still brings is given back; nobody reads a connection that is closed.
            assert fast or await asyncio.to_thread(released.wait, 10)

    stalls = said(caplog, "poller.stalled")
    assert (alive[0], recovered) == (False, True)
    assert [vars(record)["fields"]["queue"] for record in stalls] == ["tasks"]
    assert line.room.in_use == 0


async def test_waiting_for_room_is_no_stall() -> None:
    """A full worker makes no receive calls, and is alive."""

    def answer(action: str, request: dict[str, Any]) -> dict[str, Any]:
        return messages(request["MaxNumberOfMessages"])

    async with polling(answer, count=2, size=10, patience=0.05, keep=True) as (sqs, line):
        await reached(lambda: len(line.messages), lambda count: count == 10)
        before = len(sqs.requests)
        await asyncio.wait([asyncio.create_task(line.stop.sleep(0.3))])
        calls, alive = len(sqs.requests) - before, line.pollers.alive

    assert (calls, alive, line.room.in_use) == (0, True, 10)

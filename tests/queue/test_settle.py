"""Batched deletes: every ack is answered, whatever SQS says."""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
from sqs_client import sqs_client

from tracebaton.local import LocalSqs
from tracebaton.queue import settle
from tracebaton.queue.settle import Settler

from .scripted_sqs import Answer, ScriptedSqs, failed


@asynccontextmanager
async def scripted(answer: Answer) -> AsyncIterator[tuple[ScriptedSqs, Callable[..., Settler]]]:
    """An SQS that answers by script, and what makes a settler on it."""
    with ScriptedSqs(answer) as sqs:
        client = sqs.client()
        yield sqs, lambda **options: Settler(client, sqs.queue_url, **options)
        await client.close()


def done(action: str, request: dict[str, Any]) -> dict[str, Any]:
    """Every entry is deleted."""
    return {"Successful": [{"Id": entry["Id"]} for entry in request["Entries"]], "Failed": []}


def sizes(sqs: ScriptedSqs) -> list[int]:
    """The number of entries of each delete."""
    return [len(request["Entries"]) for _, request in sqs.requests]


async def test_an_acked_message_is_gone() -> None:
    """On a real SQS, and only after the ack."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Future[Any] = loop.create_future()

    def deliver(outcome: Any) -> bool:
        loop.call_soon_threadsafe(arrived.set_result, outcome)
        return True

    async with LocalSqs() as local:
        sqs = sqs_client(local.url)
        url = local.create_queue("tasks")
        await sqs.send(url, "work", attributes={})
        sqs.poll(url, most=10, wait_seconds=1, visibility_seconds=30, deliver=deliver)
        (message,) = await asyncio.wait_for(arrived, 5)
        before = local.stats()["tasks"]["deleted"]
        acked = await Settler(sqs, url).ack(message.receipt_handle)
        await sqs.close()

    assert (before, acked, local.stats()["tasks"]["deleted"]) == (0, True, 1)


async def test_acks_wait_for_each_other_only_while_a_call_runs() -> None:
    """The first leaves alone at once; those that come meanwhile share one call."""
    go = threading.Event()
    arrived = threading.Event()

    def answer(action: str, request: dict[str, Any]) -> dict[str, Any]:
        arrived.set()
        assert go.wait(5)
        return done(action, request)

    async with scripted(answer) as (sqs, make):
        settler = make(calls=1)
        first = asyncio.create_task(settler.ack("first"))
        await asyncio.to_thread(arrived.wait, 5)
        rest = [asyncio.create_task(settler.ack(str(number))) for number in range(12)]
        await asyncio.sleep(0)
        go.set()
        acks = await asyncio.gather(first, *rest)

    assert acks == [True] * 13
    assert sizes(sqs) == [1, 10, 2]


async def test_at_most_so_many_calls_run_at_once() -> None:
    """Ten to a call, two calls at a time, every message in exactly one."""
    meeting = threading.Barrier(2)

    def answer(action: str, request: dict[str, Any]) -> dict[str, Any]:
        meeting.wait(5)
        return done(action, request)

    async with scripted(answer) as (sqs, make):
        settler = make(calls=2)
        acks = await asyncio.gather(*(settler.ack(str(number)) for number in range(40)))

    handles = [
        entry["ReceiptHandle"] for _, request in sqs.requests for entry in request["Entries"]
    ]

    assert acks == [True] * 40
    assert (sizes(sqs), sqs.at_once) == ([10] * 4, 2)
    assert sorted(handles, key=int) == [str(number) for number in range(40)]


async def test_an_entry_that_sqs_failed_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, and its neighbour is not deleted twice."""
    monkeypatch.setattr(settle, "_PAUSE", 0.001)

    def answer(action: str, request: dict[str, Any]) -> dict[str, Any]:
        if len(sqs.requests) < 3:
            return failed("0", code="InternalError", sender=False)
        return done(action, request)

    async with scripted(answer) as (sqs, make):
        settler = make()
        acks = await asyncio.gather(settler.ack("bad"), settler.ack("good"))

    handles = [
        [entry["ReceiptHandle"] for entry in request["Entries"]] for _, request in sqs.requests
    ]

    assert acks == [True, True]
    assert handles == [["bad", "good"], ["bad"], ["bad"]]


@pytest.mark.parametrize(
    ("answer", "calls"),
    [
        (lambda *_: failed("0", code="InternalError", sender=False), 8),
        (lambda *_: failed("0", code="ReceiptHandleIsInvalid", sender=True), 1),
        (lambda *_: (403, "AccessDenied"), 8),
    ],
    ids=["failing entry", "lost handle", "refused call"],
)
async def test_what_is_never_confirmed_is_reported(
    monkeypatch: pytest.MonkeyPatch, answer: Answer, calls: int
) -> None:
    """False after a bounded number of tries, at once where another try is pointless."""
    monkeypatch.setattr(settle, "_PAUSE", 0.001)
    async with scripted(answer) as (sqs, make):
        acked = await asyncio.wait_for(make().ack("handle"), 5)

    assert (acked, len(sqs.requests)) == (False, calls)


async def test_one_that_no_longer_waits_is_deleted_all_the_same() -> None:
    """Its task was cancelled, the work was done."""
    go, arrived = threading.Event(), threading.Event()

    def answer(action: str, request: dict[str, Any]) -> dict[str, Any]:
        arrived.set()
        assert go.wait(5)
        return done(action, request)

    async with scripted(answer) as (sqs, make):
        settler = make()
        gone, stays = (asyncio.create_task(settler.ack(handle)) for handle in ("gone", "stays"))
        await asyncio.to_thread(arrived.wait, 5)
        gone.cancel()
        go.set()
        acked = await stays

    assert (acked, gone.cancelled(), sizes(sqs)) == (True, True, [2])


async def test_a_cancelled_call_leaves_nobody_waiting() -> None:
    """When the loop is torn down, acks end as cancelled instead of never."""
    go, arrived = threading.Event(), threading.Event()

    def answer(action: str, request: dict[str, Any]) -> dict[str, Any]:
        arrived.set()
        assert go.wait(5)
        return done(action, request)

    async with scripted(answer) as (_, make):
        ack = asyncio.create_task(make().ack("handle"))
        await asyncio.to_thread(arrived.wait, 5)
        calls = [task for task in asyncio.all_tasks() if task.get_name() == "tracebaton-settle"]
        for call in calls:
            call.cancel()
        go.set()
        await asyncio.wait([ack], timeout=5)

    assert (len(calls), ack.cancelled()) == (1, True)


async def test_an_ack_right_after_another_is_not_stranded() -> None:
    """The next one is sent although the last call's task is only about to end."""
    async with scripted(done) as (_, make):
        settler = make(calls=1)
        async with asyncio.timeout(1):
            acks = [await settler.ack(str(number)) for number in range(2)]

    assert acks == [True, True]


async def test_a_flush_waits_for_the_last_delete() -> None:
    """Whoever leaves after it leaves no finished message behind."""
    go = threading.Event()

    def answer(action: str, request: dict[str, Any]) -> Any:
        go.wait(5)
        return done(action, request)

    async with scripted(answer) as (_, make):
        settler = make()
        ack = asyncio.create_task(settler.ack("1"))
        await asyncio.sleep(0)  # one turn of the loop, in which the ack is taken
        flushing = asyncio.create_task(settler.flush())
        await asyncio.wait({flushing}, timeout=0.05)
        early = flushing.done()
        go.set()
        await asyncio.wait_for(flushing, 5)

    assert (early, await ack) == (False, True)


async def test_one_that_fails_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it waits for its next try, the others are deleted."""
    monkeypatch.setattr(settle, "_PAUSE", 60.0)

    def answer(action: str, request: dict[str, Any]) -> dict[str, Any]:
        bad = [one["Id"] for one in request["Entries"] if one["ReceiptHandle"] == "bad"]
        return failed(*bad, code="InternalError", sender=False)

    async with scripted(answer) as (_, make):
        settler = make(calls=1)
        bad = asyncio.create_task(settler.ack("bad"))
        async with asyncio.timeout(5):
            acks = [await settler.ack(str(number)) for number in range(2)]
        waiting = not bad.done()
        for task in [one for one in asyncio.all_tasks() if one.get_name() == "tracebaton-settle"]:
            task.cancel()
        await asyncio.wait([bad], timeout=5)

    assert (acks, waiting, bad.cancelled()) == ([True, True], True, True)


async def test_a_lease_that_ran_out_settles_nothing() -> None:
    """Neither at first nor at a later try: the message is another worker's."""
    moments = iter([0.0, 2.0])

    def answer(action: str, request: dict[str, Any]) -> dict[str, Any]:
        return failed("0", code="InternalError", sender=False)

    async with scripted(answer) as (sqs, make):
        late = await make(now=lambda: 1.0).ack("late", until=1.0)
        settler = make(now=lambda: next(moments))
        nacked = await settler.nack("later", 5, until=1.0)

    assert (late, nacked) == (False, False)
    assert [action for action, _ in sqs.requests] == ["ChangeMessageVisibilityBatch"]


async def test_changes_of_visibility_share_a_call() -> None:
    """Each with its own seconds, and apart from the deletes."""
    async with scripted(done) as (sqs, make):
        settler = make()
        outcomes = await asyncio.gather(
            settler.nack("a", 5), settler.nack("b", 0), settler.ack("c"), settler.nack("d", 43_000)
        )

    changes = [request for action, request in sqs.requests if action.startswith("Change")]
    assert outcomes == [True] * 4
    assert [
        [(entry["ReceiptHandle"], entry["VisibilityTimeout"]) for entry in request["Entries"]]
        for request in changes
    ] == [[("a", 5), ("b", 0), ("d", 43_000)]]


async def test_no_ack_is_lost_however_they_come(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """
    In bursts of any size, while entries and calls fail: each is deleted, and told so.

    The long form is ``--cases 10000``.
    """
    monkeypatch.setattr(settle, "_PAUSE", 0.001)
    chance, lock = Random(3), threading.Lock()
    deleted: Counter[str] = Counter()

    def answer(action: str, request: dict[str, Any]) -> Any:
        with lock:
            if chance.random() < 0.1:
                return 503, "ServiceUnavailable"
            entries = request["Entries"]
            bad = [one["Id"] for one in entries if chance.random() < 0.2]
            deleted.update(one["ReceiptHandle"] for one in entries if one["Id"] not in bad)
        return failed(*bad, code="InternalError", sender=False)

    count: int = request.config.getoption("--cases") or 1_000
    bursts = Random(4)
    async with scripted(answer) as (_, make):
        settler, acks = make(), []
        while len(acks) < count:
            for _ in range(bursts.randint(1, 25)):
                acks.append(asyncio.create_task(settler.ack(f"h{len(acks)}")))
            for _ in range(bursts.randint(0, 3)):
                await asyncio.sleep(0)
        confirmed = await asyncio.gather(*acks)

    # Eight tries of an entry may all fail; then the caller is told so.
    told = {f"h{number}" for number, ok in enumerate(confirmed) if ok}
    assert told == set(deleted)
    assert set(deleted.values()) == {1}
    assert len(told) >= count - 2


@pytest.mark.parametrize("kind", ["ack", "nack"])
async def test_an_entry_that_nobody_mentions_is_settled_again(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQS may not have done it: it does not count as settled, and the next call has it."""
    monkeypatch.setattr(settle, "_PAUSE", 0.0)
    silent = [True]

    def answer(action: str, request: dict[str, Any]) -> Any:
        return {} if silent and silent.pop() else failed(code="", sender=False)

    async with scripted(answer) as (sqs, make):
        settler = make()
        settled = await (settler.ack("one") if kind == "ack" else settler.nack("one", 0))

    assert settled
    assert sizes(sqs) == [1, 1]

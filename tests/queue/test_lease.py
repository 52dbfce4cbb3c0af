"""Leases on a clock that is moved by hand, against a real SQS on the same clock."""

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)
from sqs_client import sqs_client

from tracebaton.errors import TracebatonError
from tracebaton.local import LocalSqs, ManualClock
from tracebaton.queue.heartbeat import Leases
from tracebaton.queue.lease import Lease, State, current_lease
from tracebaton.queue.meters import WorkerMeters
from tracebaton.queue.sqs import Received, Sqs

from .conftest import until
from .scripted_sqs import ScriptedSqs, failed
from .test_meters import Meters

HOUR = 3600.0


def message(number: int = 0) -> Received:
    """Return a message that only a scripted SQS knows."""
    return Received(message_id=f"m{number}", receipt_handle=f"h{number}", body="")


async def beat(leases: Leases) -> None:
    """Run one round of the heartbeat, which otherwise runs by the wall clock."""
    calls = leases.beat()
    if calls:
        await asyncio.wait(calls)


@dataclass
class Bench:
    """An SQS, its clock, and the leases of one worker with a visibility timeout of 60 s."""

    local: LocalSqs
    clock: ManualClock
    sqs: Sqs
    url: str
    visibility: int = 60
    ends: list[State] = field(default_factory=list)
    meters: Meters = field(default_factory=Meters)

    def __post_init__(self) -> None:
        self.work_with(self.visibility)

    def work_with(self, visibility: int) -> None:
        """Take leases of *visibility* seconds from here on."""
        self.visibility = visibility
        self.leases = Leases(
            self.sqs,
            self.url,
            visibility_seconds=visibility,
            meters=WorkerMeters(self.meters.provider),
            now=self.clock.monotonic,
        )

    @property
    def counted(self) -> dict[str, int]:
        """What became of leases, as the metric tells it."""
        return self.meters.by("tracebaton.lease.extensions", "tracebaton.lease.outcome")

    async def receive(self) -> list[Received]:
        """Receive what is visible now, up to ten messages."""
        loop = asyncio.get_running_loop()
        arrived: asyncio.Future[list[Received] | TracebatonError] = loop.create_future()

        def deliver(outcome: list[Received] | TracebatonError) -> bool:
            loop.call_soon_threadsafe(arrived.set_result, outcome)
            return True

        self.sqs.poll(
            self.url,
            most=10,
            wait_seconds=0,
            visibility_seconds=self.visibility,
            deliver=deliver,
        )
        outcome = await asyncio.wait_for(arrived, 5)
        assert isinstance(outcome, list)
        return outcome

    async def lease(self, *, messages: int = 1) -> list[Lease]:
        """Send messages, receive them and take their leases."""
        for number in range(messages):
            await self.sqs.send(self.url, str(number), attributes={})
        asked = self.clock.monotonic()
        leases = []
        while len(leases) < messages:
            for received in await self.receive():
                leases.append(lease := self.leases.add(received, received_at=asked))
                lease.when_over(partial(self._over, lease))
        return leases

    def _over(self, lease: Lease) -> None:
        self.ends.append(lease.state)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """A fresh one for each test."""
    clock = ManualClock()
    async with LocalSqs(clock=clock) as local:
        sqs = sqs_client(local.url)
        url = local.create_queue("tasks")
        bench = Bench(local, clock, sqs, url)
        yield bench
        await sqs.close()
        bench.meters.provider.shutdown()


async def test_a_lease_lasts_as_long_as_the_visibility_timeout(bench: Bench) -> None:
    """Counted from before the receive call: never too long."""
    (lease,) = await bench.lease()

    assert (lease.held, lease.deadline, lease.left(0)) == (True, 60, 43_200)


async def test_the_heartbeat_keeps_a_message_invisible(bench: Bench) -> None:
    """One beat each 20 s for ten timeouts; nobody else ever receives it."""
    (lease,) = await bench.lease()
    stolen: list[Received] = []
    for _ in range(30):
        bench.local.advance(20)
        await beat(bench.leases)
        stolen += await bench.receive()

    assert (lease.held, lease.deadline) == (True, 600 + 60)
    assert (stolen, bench.ends) == ([], [])


async def test_without_a_heartbeat_the_message_comes_again(bench: Bench) -> None:
    """The control of the test before: the clock of the queue does run."""
    await bench.lease()
    bench.local.advance(61)

    assert len(await bench.receive()) == 1


async def test_a_lease_is_extended_only_when_it_is_due(bench: Bench) -> None:
    """A third of the timeout after it was confirmed, not at each round."""
    (lease,) = await bench.lease()
    bench.local.advance(19)
    await beat(bench.leases)
    early = lease.deadline
    bench.local.advance(1)
    await beat(bench.leases)

    assert (early, lease.deadline) == (60, 80)


async def test_an_unconfirmed_lease_is_lost_before_its_deadline(bench: Bench) -> None:
    """2 s before SQS could hand the message to another worker; nothing is asked any more."""
    (lease,) = await bench.lease()
    bench.local.advance(58)
    await beat(bench.leases)

    assert (lease.state, lease.held, lease.deadline, bench.ends) == ("lost", False, 60, ["lost"])
    assert bench.leases.settle(lease) is False
    assert bench.counted == {"lost": 1}


async def test_a_lease_that_sqs_refuses_is_lost(bench: Bench) -> None:
    """The message was deleted behind our back, so its handle is no longer in flight."""
    (lease,) = await bench.lease()
    await bench.sqs.delete(bench.url, [lease.message.receipt_handle])
    bench.local.advance(20)
    await beat(bench.leases)

    assert (lease.state, bench.ends) == ("lost", ["lost"])
    assert bench.counted == {"lost": 1}


async def test_the_handler_is_stopped_before_the_twelve_hours_end(bench: Bench) -> None:
    """60 s before; SQS refuses to extend any message past them."""
    (lease,) = await bench.lease()
    lease.deadline = lease.due = 12 * HOUR  # as if it had been extended until here
    bench.local.advance(12 * HOUR - 61)
    await beat(bench.leases)
    before = lease.state
    bench.local.advance(1)
    await beat(bench.leases)

    assert (before, lease.state, bench.ends) == ("held", "expired", ["expired"])
    assert bench.counted == {"expired": 1}


async def test_the_last_extension_ends_with_the_twelve_hours(bench: Bench) -> None:
    """SQS would refuse a second more, and the lease would be lost for nothing."""
    bench.work_with(visibility=int(3 * HOUR))
    (lease,) = await bench.lease()
    for _ in range(11):
        bench.local.advance(HOUR)
        await beat(bench.leases)

    assert (lease.state, lease.deadline, bench.ends) == ("held", 12 * HOUR, [])


async def test_leases_are_extended_ten_to_a_call(bench: Bench) -> None:
    """All that are due, in one round."""
    leases = await bench.lease(messages=23)
    bench.local.advance(20)
    await beat(bench.leases)

    assert {lease.deadline for lease in leases} == {80}


async def test_a_settling_message_is_left_alone(bench: Bench) -> None:
    """Neither extended nor declared lost: its delete is on the way."""
    (lease,) = await bench.lease()
    settled = bench.leases.settle(lease)
    bench.local.advance(59)
    await beat(bench.leases)

    assert (settled, lease.state, lease.deadline, bench.ends) == (True, "settling", 60, [])
    assert bench.counted == {}


async def test_an_extension_that_is_refused_after_the_delete_is_no_loss(bench: Bench) -> None:
    """The message is finished: the alarm must not ring for it."""
    (lease,) = await bench.lease()
    await bench.sqs.delete(bench.url, [lease.message.receipt_handle])
    bench.local.advance(20)
    calls = bench.leases.beat()
    settled = bench.leases.settle(lease)
    await asyncio.wait(calls)

    assert (settled, lease.state, bench.counted) == (True, "settling", {})


async def test_a_redelivery_takes_the_lease_over(bench: Bench) -> None:
    """The old one ran out unseen; the new handle is the one that counts."""
    (old,) = await bench.lease()
    bench.local.advance(61)
    (again,) = await bench.receive()
    new = bench.leases.add(again, received_at=bench.clock.monotonic())

    assert (old.state, new.state, bench.ends) == ("lost", "held", ["lost"])
    assert bench.counted == {"lost": 1}
    assert len(bench.leases) == 1
    bench.leases.drop(old)
    assert len(bench.leases) == 1
    bench.leases.drop(new)
    assert len(bench.leases) == 0


def test_a_lease_ends_once() -> None:
    """Whatever comes second is not told, and an end that nobody watches is none the worse."""
    ends: list[State] = []
    lease = Lease(message(), received_at=0, visibility=60)
    lease.when_over(lambda: ends.append(lease.state))
    lease.over("lost")
    lease.over("expired")
    unwatched = Lease(message(), received_at=0, visibility=60)
    unwatched.over("lost")

    assert (lease.state, ends, unwatched.state) == ("lost", ["lost"], "lost")


def scripted_leases(sqs: ScriptedSqs, client: Sqs, clock: ManualClock) -> Leases:
    """Return leases on an SQS that answers by script."""
    return Leases(client, sqs.queue_url, visibility_seconds=60, now=clock.monotonic)


@pytest.mark.parametrize(
    "answer",
    [(403, "AccessDenied"), failed("0", code="InternalError", sender=False)],
    ids=["the call", "the entry"],
)
async def test_an_extension_that_failed_is_tried_again_soon(answer: Any) -> None:
    """The lease is held until its deadline says otherwise."""
    clock = ManualClock()
    with ScriptedSqs(lambda action, request: answer) as sqs:
        client = sqs.client()
        leases = scripted_leases(sqs, client, clock)
        lease = leases.add(message(), received_at=0)
        clock.advance(20)
        await beat(leases)
        held = lease.state
        await beat(leases)
        early = len(sqs.requests)
        clock.advance(1)
        await beat(leases)
        clock.advance(37)
        await beat(leases)
        await client.close()

    assert (held, lease.state, early, len(sqs.requests)) == ("held", "lost", 1, 2)


async def test_an_entry_that_is_lost_does_not_take_the_others_along() -> None:
    """Each lease of a batch has an outcome of its own."""
    clock = ManualClock()
    with ScriptedSqs(lambda *_: failed("1", code="ReceiptHandleIsInvalid", sender=True)) as sqs:
        client = sqs.client()
        leases = scripted_leases(sqs, client, clock)
        held = [leases.add(message(number), received_at=0) for number in range(3)]
        clock.advance(20)
        await beat(leases)
        await client.close()

    assert [lease.state for lease in held] == ["held", "lost", "held"]


async def test_an_answer_about_an_old_handle_is_nothing_to_the_new_one() -> None:
    """The message came again, and was adopted, while the beat was on its way."""
    clock = ManualClock()
    asked, go = threading.Event(), threading.Event()

    def answer(action: str, request: dict[str, Any]) -> Any:
        asked.set()
        go.wait(5)
        return failed("0", code="ReceiptHandleIsInvalid", sender=True)

    with ScriptedSqs(answer) as sqs:
        client = sqs.client()
        leases = scripted_leases(sqs, client, clock)
        lease = leases.add(message(), received_at=0)
        clock.advance(20)
        beating = asyncio.create_task(beat(leases))
        assert await asyncio.to_thread(asked.wait, 5)
        again = Received(message_id="m0", receipt_handle="new", body="")
        adopted = leases.adopt(again, received_at=20)
        go.set()
        await beating
        await client.close()

    assert adopted
    assert (lease.state, lease.message, lease.deadline) == ("held", again, 80)


def test_only_a_lease_that_holds_adopts(bench: Bench) -> None:
    """Not of a message that nobody has, nor one that is over or about to be settled."""
    nobodys = bench.leases.adopt(message(), received_at=0)
    lease = bench.leases.add(message(), received_at=0)
    bench.clock.advance(58)
    too_late = bench.leases.adopt(message(), received_at=58)
    lease = bench.leases.add(message(), received_at=58)
    bench.leases.settle(lease)

    assert (nobodys, too_late) == (False, False)
    assert bench.leases.adopt(message(), received_at=58) is False


def test_a_handler_outside_of_a_message_has_no_lease() -> None:
    """As in the API."""

    assert current_lease() is None


class Broken(Exception):
    """Nothing that boto3 is known to raise."""


@pytest.mark.parametrize(
    "failure",
    [
        ClientError({"Error": {"Code": "ThrottlingException", "Message": "slow"}}, "Change"),
        EndpointConnectionError(endpoint_url="http://x"),
        ReadTimeoutError(endpoint_url="http://x"),
        NoCredentialsError(),
        Broken("no idea"),
        asyncio.CancelledError(),
    ],
    ids=lambda failure: type(failure).__name__,
)
async def test_the_heartbeat_survives_whatever_a_call_raises(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    """Beat k fails, beat k+1 extends."""
    calls: list[int] = []
    whole = bench.sqs.change_visibility

    async def change(*arguments: Any) -> Any:
        calls.append(len(calls))
        if len(calls) == 1:
            raise failure
        return await whole(*arguments)

    (lease,) = await bench.lease()
    monkeypatch.setattr(bench.sqs, "change_visibility", change)
    heartbeat = asyncio.create_task(bench.leases.run())
    bench.local.advance(20)
    await until(_count(calls), lambda count: count == 1)
    bench.local.advance(1)
    await until(_deadline(lease), lambda deadline: deadline > 60)
    heartbeat.cancel()
    await asyncio.wait([heartbeat])

    assert (lease.state, lease.deadline) == ("held", 81)


def _count(values: list[int]) -> Any:
    async def ask() -> int:
        return len(values)

    return ask


def _deadline(lease: Lease) -> Any:
    async def ask() -> float:
        return lease.deadline

    return ask


async def test_a_call_that_hangs_holds_up_no_other() -> None:
    """Ten leases wait for an answer that never comes; the eleventh is extended all the same."""
    clock, go = ManualClock(), threading.Event()

    def answer(action: str, request: dict[str, Any]) -> Any:
        if len(request["Entries"]) == 10:
            go.wait(10)
        return {"Successful": [], "Failed": []}

    with ScriptedSqs(answer) as sqs:
        client = sqs.client()
        leases = scripted_leases(sqs, client, clock)
        hung = [leases.add(message(number), received_at=0) for number in range(10)]
        clock.advance(20)
        leases.beat()
        late = leases.add(message(10), received_at=10)
        clock.advance(10)
        await asyncio.wait(leases.beat())
        during = (late.deadline, {lease.deadline for lease in hung})
        on_time = leases.on_time
        clock.advance(28)
        leases.beat()
        health = (leases.on_time, {lease.state for lease in hung}, late.state)
        go.set()
        await client.close()

    assert (during, on_time) == ((90, {60}), True)
    assert health == (True, {"lost"}, "held")


async def test_a_late_heartbeat_is_known(bench: Bench) -> None:
    """Later than half the timeout is not on time; by how much is known before."""
    await bench.lease()
    on_time = []
    for seconds in (20, 29, 2):
        bench.local.advance(seconds)
        on_time.append((bench.leases.late, bench.leases.on_time))

    assert on_time == [(0, True), (29, True), (31, False)]


async def test_a_hundred_messages_need_ten_calls_an_interval() -> None:
    """Although they came one by one: a call is filled up with what is due next."""
    clock = ManualClock()
    with ScriptedSqs(lambda *_: {"Successful": [], "Failed": []}) as sqs:
        client = sqs.client()
        leases = scripted_leases(sqs, client, clock)
        for number in range(100):
            leases.add(message(number), received_at=number / 5)
        clock.advance(20)
        counts = []
        for _ in range(4):
            before = len(sqs.requests)
            for _ in range(20):
                await beat(leases)
                clock.advance(1)
            counts.append(len(sqs.requests) - before)
        held = {lease.state for lease in leases._held.values()}
        await client.close()

    assert max(counts) <= 10
    assert held == {"held"}


async def test_what_comes_after_a_beat_waits_for_it() -> None:
    """A back-off must not be overwritten by an extension that was sent before it."""
    clock, go, asked = ManualClock(), threading.Event(), threading.Event()

    def answer(action: str, request: dict[str, Any]) -> Any:
        asked.set()
        go.wait(10)
        return {"Successful": [], "Failed": []}

    with ScriptedSqs(answer) as sqs:
        client = sqs.client()
        leases = scripted_leases(sqs, client, clock)
        lease = leases.add(message(), received_at=0)
        clock.advance(20)
        leases.beat()
        assert await asyncio.to_thread(asked.wait, 5)
        settled = leases.settle(lease)
        waiting = asyncio.create_task(leases.quiet(lease))
        await asyncio.wait({waiting}, timeout=0.05)
        early = waiting.done()
        go.set()
        quiet = await waiting
        await client.close()

    assert (settled, early, quiet) == (True, False, True)


async def test_a_beat_that_never_ends_does_not_keep_the_message(bench: Bench) -> None:
    """Once the lease ran out it is another worker's, and left alone."""
    (lease,) = await bench.lease()
    lease.beat = asyncio.create_task(asyncio.Event().wait())  # type: ignore[arg-type]
    bench.local.advance(60)
    quiet = await bench.leases.quiet(lease)
    lease.beat.cancel()

    assert quiet is False


async def test_the_heartbeat_runs_by_itself() -> None:
    """As a task, from one extension to the next, until it is cancelled."""
    beats = threading.Semaphore(0)

    def answer(action: str, request: dict[str, Any]) -> Any:
        beats.release()
        clock.advance(20)
        return {"Successful": [], "Failed": []}

    clock = ManualClock()
    with ScriptedSqs(answer) as sqs:
        client = sqs.client()
        leases = scripted_leases(sqs, client, clock)
        lease = leases.add(message(), received_at=-20)
        leases._tick = 0.01
        heartbeat = asyncio.create_task(leases.run())
        beaten = [await asyncio.to_thread(beats.acquire, timeout=5) for _ in range(3)]
        heartbeat.cancel()
        await asyncio.wait([heartbeat])
        await client.close()

    assert beaten == [True] * 3
    assert (heartbeat.cancelled(), lease.held) == (True, True)


async def test_nothing_is_settled_after_the_deadline(bench: Bench) -> None:
    """Also where the heartbeat hangs in a call, so that nobody has declared the lease lost."""
    (lease,) = await bench.lease()
    bench.local.advance(58)

    assert bench.leases.settle(lease) is False
    assert bench.counted == {"lost": 1}

"""The fault proxy in front of an SQS that knows of nothing, as boto3 meets it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from sqs_client import sqs_client

from tracebaton.errors import QueueUnavailable, TracebatonError
from tracebaton.local import LocalSqs
from tracebaton.queue.message import Outgoing, Received
from tracebaton.queue.sqs import Sqs
from tracebaton.testing import Fault, FaultProxy


@dataclass
class Road:
    """A client, the proxy it talks to, and the SQS behind."""

    sqs: LocalSqs
    proxy: FaultProxy
    client: Sqs

    @property
    def url(self) -> str:
        """The queue as the client knows it."""
        return self.proxy.queue_url("tasks")

    async def send(self, *bodies: str) -> list[Any]:
        """Send a batch."""
        return await self.client.send_batch(self.url, [Outgoing(body=body) for body in bodies])

    async def receive(self, most: int = 10) -> list[Received]:
        """Receive once."""
        loop = asyncio.get_running_loop()
        arrived: asyncio.Future[list[Received] | TracebatonError] = loop.create_future()

        def deliver(outcome: list[Received] | TracebatonError) -> bool:
            loop.call_soon_threadsafe(arrived.set_result, outcome)
            return True

        self.client.poll(
            self.url, most=most, wait_seconds=0, visibility_seconds=30, deliver=deliver
        )
        outcome = await arrived
        assert isinstance(outcome, list)
        return outcome

    def count(self, what: str) -> int:
        """What the SQS behind says of the queue."""
        return self.sqs.stats()["tasks"][what]


@pytest.fixture
async def road() -> AsyncIterator[Road]:
    """A queue behind a proxy."""
    async with LocalSqs() as sqs, FaultProxy(sqs.url) as proxy:
        sqs.create_queue("tasks")
        client = sqs_client(proxy.url)
        yield Road(sqs, proxy, client)
        await client.close()


async def test_without_faults_it_is_not_there(road: Road) -> None:
    """What is sent arrives, is deleted, and is counted."""
    sent = await road.send("a", "b")
    messages = await road.receive()
    deleted = await road.client.delete(road.url, [one.receipt_handle for one in messages])

    assert [one.error for one in sent] == [None, None]
    assert ([one.body for one in messages], deleted) == (["a", "b"], ["ok", "ok"])
    assert road.count("deleted") == 2
    assert road.proxy.calls["DeleteMessageBatch"] == 1


@pytest.mark.parametrize("effect", ["error", "throttle", "reset"])
@pytest.mark.parametrize("after", [False, True])
async def test_a_call_fails_before_or_after_its_effect(
    road: Road, effect: Any, after: bool
) -> None:
    """The client is told of a failure either way; the queue has the message or has it not."""
    road.proxy.faults.add(Fault(effect=effect, action="SendMessage", after=after))
    with pytest.raises(QueueUnavailable):
        await road.client.send(road.url, "a", attributes={})

    assert (road.count("visible") > 0) is after


async def test_a_call_takes_longer(road: Road) -> None:
    """And has its effect."""
    road.proxy.faults.add(Fault(effect="delay", seconds=0.2))
    began = asyncio.get_running_loop().time()
    await road.send("a")

    assert asyncio.get_running_loop().time() - began >= 0.2
    assert road.count("visible") == 1


async def test_a_call_is_never_answered(road: Road) -> None:
    """Until the client goes."""
    road.proxy.faults.add(Fault(effect="black_hole", action="SendMessageBatch"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(road.send("a"), 0.2)

    assert road.count("visible") == 0


async def test_entries_of_a_batch_fail(road: Road) -> None:
    """Every second one: it is not sent, or it is and the answer says that it is not."""
    fault = road.proxy.faults.add(Fault(effect="fail_entries", every=2))
    before = [one.message_id is not None for one in await road.send("a", "b", "c", "d")]
    there = road.count("visible")
    road.proxy.faults.remove(fault)
    road.proxy.faults.add(Fault(effect="fail_entries", every=2, after=True))
    after = [one.message_id is not None for one in await road.send("e", "f")]

    assert (before, there) == ([True, False, True, False], 2)
    assert (after, road.count("visible")) == ([True, False], 4)


async def test_a_message_arrives_twice(road: Road) -> None:
    """Under the same handle, counted once more, even when it has been deleted."""
    road.proxy.faults.add(Fault(effect="duplicate", first=1))
    await road.send("a")
    (first,) = await road.receive()
    await road.client.delete(road.url, [first.receipt_handle])
    (again,) = await road.receive()

    assert (again.message_id, again.receipt_handle) == (first.message_id, first.receipt_handle)
    assert (first.receive_count, again.receive_count) == (1, 2)
    assert await road.receive() == []


async def test_messages_arrive_out_of_order_and_none_is_lost(road: Road) -> None:
    """Half of a receive comes with a later one."""
    road.proxy.faults.add(Fault(effect="reorder", first=1))
    sent = list("abcdefgh")
    await road.send(*sent)
    first, second = await road.receive(), await road.receive()
    arrived = [one.body for one in (*first, *second)]

    assert (len(first), len(second)) == (4, 4)
    assert arrived != sent
    assert sorted(arrived) == sent


async def test_a_handle_is_worth_nothing(road: Road) -> None:
    """Whoever holds it has lost the lease and does not know."""
    road.proxy.faults.add(Fault(effect="lose_handle"))
    await road.send("a")
    (message,) = await road.receive()

    assert await road.client.delete(road.url, [message.receipt_handle]) == ["lost"]
    assert road.count("in_flight") == 1


async def test_an_sqs_that_is_away_is_an_error(road: Road) -> None:
    """The proxy answers for it."""
    await road.sqs.close()
    with pytest.raises(QueueUnavailable):
        await road.client.queue_attributes(road.url)

"""Calls on an event loop: what is theirs alone, beside what every call has to do."""

import asyncio
import datetime
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import BotoCoreError
from wire_server import QUEUE, Request, WireServer, error, ok

from tracebaton.queue.fastpath import Direct, FastPath
from tracebaton.queue.threads import DaemonThreads

Servers = Callable[..., WireServer]
SEND = {"QueueUrl": QUEUE, "MessageBody": "b"}


@asynccontextmanager
async def direct(url: str, *, read_timeout: float = 5, **options: Any) -> AsyncIterator[Direct]:
    """Make the calls of a client of *url* on this loop."""
    session = options.pop("session", None) or boto3.session.Session("AKID", "secret")
    retries = {"mode": "standard", "total_max_attempts": 2}
    config = Config(read_timeout=read_timeout, retries=retries)  # type: ignore[arg-type]
    client = session.client("sqs", region_name="eu-west-1", endpoint_url=url, config=config)
    path = FastPath.install(client)
    assert path is not None
    threads = DaemonThreads(2)
    calls = Direct(client, path, threads, **options)
    yield calls
    calls.close()
    threads.close()
    await asyncio.sleep(0)
    client.close()


def answered(request: Request) -> bytes:
    """Take whatever is sent."""
    return ok({"MessageId": request.document["MessageBody"]})


async def test_calls_at_once_have_connections_of_their_own(servers: Servers) -> None:
    """And share them one after the other."""
    together = threading.Barrier(3)

    def meet(request: Request) -> bytes:
        together.wait(10)
        return answered(request)

    server = servers(meet)
    async with direct(server.url) as calls:
        for _ in range(2):
            await asyncio.gather(*(calls.call("SendMessage", SEND) for _ in range(3)))

    assert {request.connection for request in server.requests} == {0, 1, 2}
    assert len(server.requests) == 6


async def test_a_caller_who_leaves_cuts_nothing(servers: Servers) -> None:
    """The exchange comes to its end, and its connection is the next one's."""
    arrived, go = threading.Event(), threading.Event()

    def answer(request: Request) -> bytes:
        arrived.set()
        go.wait(10)
        return answered(request)

    server = servers(answer)
    async with direct(server.url) as calls:
        leaving = asyncio.create_task(calls.call("SendMessage", {**SEND, "MessageBody": "left"}))
        assert await asyncio.to_thread(arrived.wait, 10)
        leaving.cancel()
        await asyncio.wait([leaving])
        go.set()
        (wire,) = calls._prepared["SendMessage"].route.target.exchanges._all  # type: ignore[union-attr]
        async with asyncio.timeout(5):
            while wire._answer is not None:
                await asyncio.sleep(0.001)
        mine = await calls.call("SendMessage", {**SEND, "MessageBody": "mine"})

    assert mine["MessageId"] == "mine"
    assert [request.connection for request in server.requests] == [0, 0]


async def test_a_close_ends_what_is_under_way(servers: Servers) -> None:
    """With botocore's error, and without another attempt."""
    arrived, go = threading.Event(), threading.Event()

    def answer(request: Request) -> bytes:
        arrived.set()
        go.wait(10)
        return answered(request)

    server = servers(answer)
    async with direct(server.url) as calls:
        parked = asyncio.create_task(calls.call("SendMessage", SEND))
        assert await asyncio.to_thread(arrived.wait, 10)
        calls.close()
        await asyncio.wait([parked], timeout=5)
        go.set()

    assert isinstance(parked.exception(), BotoCoreError)
    assert len(server.requests) == 1


async def test_the_second_attempt_is_of_the_same_invocation(servers: Servers) -> None:
    """A thread goes on where the loop left off: its number is two."""
    answers = [error(500, "InternalError"), ok({"MessageId": "m"})]
    server = servers(lambda _: answers.pop(0))
    async with direct(server.url) as calls:
        answer = await calls.call("SendMessage", SEND)
    one, two = (request.headers for request in server.requests)

    assert answer["ResponseMetadata"]["RetryAttempts"] == 1
    assert one["amz-sdk-invocation-id"] == two["amz-sdk-invocation-id"]
    assert (one["amz-sdk-request"], two["amz-sdk-request"][:9]) == ("attempt=1", "attempt=2")


async def test_credentials_are_asked_for_once_in_a_while(servers: Servers) -> None:
    """In a thread, because renewing them may ask a server."""
    server, threads, moment = servers(answered), [], [0.0]

    def fetch() -> dict[str, str]:
        threads.append(threading.current_thread())
        expiry = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=1)
        token = f"token{len(threads)}"
        keys = {"access_key": "AKID", "secret_key": "secret", "token": token}
        return {**keys, "expiry_time": expiry.isoformat()}

    session = boto3.session.Session()
    session._session._credentials = RefreshableCredentials.create_from_metadata(
        fetch(), refresh_using=fetch, method="test"
    )
    async with direct(server.url, session=session, now=lambda: moment[0]) as calls:
        for now in (0.0, 29.0, 31.0):
            moment[0] = now
            await calls.call("SendMessage", SEND)
    tokens = [request.headers["x-amz-security-token"] for request in server.requests]

    assert tokens == ["token2", "token2", "token3"]
    assert threading.current_thread() not in threads[1:]


async def test_a_success_refills_the_quota_of_retries(servers: Servers) -> None:
    """botocore's handlers hear of it: else failures of months would end all retries."""
    server, heard = servers(answered), []
    async with direct(server.url) as calls:
        events = calls._client.meta.events
        events.register("after-call.sqs.SendMessage", lambda **told: heard.append(told["parsed"]))
        await calls.call("SendMessage", SEND)
        answer = await calls.call("SendMessage", SEND)

    assert heard[-1] == answer


async def test_what_is_no_hot_call_is_boto3s(servers: Servers) -> None:
    """By its own connection, in a thread."""
    server = servers(lambda _: ok({"QueueUrl": QUEUE}))
    async with direct(server.url) as calls:
        answer = await calls.call("GetQueueUrl", {"QueueName": "tasks"})

    assert answer["QueueUrl"] == QUEUE
    assert "accept-encoding" in server.requests[0].headers


async def test_binary_attributes_travel(servers: Servers) -> None:
    """As base64, like botocore's; what is no value at all is an error."""
    server = servers(answered)
    attributes = {"raw": {"DataType": "Binary", "BinaryValue": b"\x00\xff"}}
    async with direct(server.url) as calls:
        for _ in range(2):
            await calls.call("SendMessage", {**SEND, "MessageAttributes": attributes})
        with pytest.raises(TypeError):
            await calls.call("SendMessage", {**SEND, "MessageAttributes": {"raw": object()}})
    one, two = (json.loads(request.body) for request in server.requests)

    assert one == two
    assert one["MessageAttributes"]["raw"]["BinaryValue"] == "AP8="


async def test_a_slow_answer_that_moves_is_waited_for(servers: Servers) -> None:
    """The read timeout counts from the last byte, like boto3's."""
    whole = ok({"MessageId": "m"})
    pause = threading.Event()
    sockets: list[Any] = []

    def drip(request: Request) -> bytes:
        connection = server._open[-1]
        sockets.append(connection)
        for position in range(0, len(whole) - 10, len(whole) // 4):
            connection.sendall(whole[position : position + len(whole) // 4])
            pause.wait(0.15)
        return whole[(len(whole) // 4) * -(-(len(whole) - 10) // (len(whole) // 4)) :]

    server = servers(drip)
    async with direct(server.url, read_timeout=0.4) as calls:
        answer = await calls.call("SendMessage", SEND)

    assert answer["MessageId"] == "m"
    assert len(server.requests) == 1

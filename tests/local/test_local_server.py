"""The local SQS as a server: where it listens, how it waits, how it ends."""

import asyncio
import json
import socket
import threading

import httpx
import pytest

from tracebaton.local import LocalSqs, ManualClock, SystemClock
from tracebaton.local.message import Content
from tracebaton.local.refusal import Refusal

SECONDS = 5


class LeapingClock(SystemClock):
    """The machine's clock, which a test may set forward."""

    ahead = 0.0

    def monotonic(self):
        return super().monotonic() + self.ahead


@pytest.fixture
async def client():
    async with httpx.AsyncClient(trust_env=False, timeout=SECONDS) as client:
        yield client


async def call(client, sqs, action, **request):
    """Return the JSON answer to one SQS call."""
    headers = {"X-Amz-Target": f"AmazonSQS.{action}"}
    answer = await client.post(sqs.url, headers=headers, json=request)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def until(condition):
    """Let other tasks run until *condition* holds."""
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0)


def waiting(sqs):
    return sqs.stats()["q"]["waiting"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.com", ""])
def test_only_loopback_is_listened_on(host):
    """It has no authentication."""
    with pytest.raises(ValueError, match="listens on loopback only"):
        LocalSqs(host)


@pytest.mark.parametrize(("host", "shown"), [("localhost", "127.0.0.1"), ("::1", "[::1]")])
async def test_other_names_of_loopback(host, shown, client):
    """localhost is the IPv4 one; IPv6 works too."""
    async with LocalSqs(host) as sqs:
        assert sqs.url.startswith(f"http://{shown}:")
        assert await call(client, sqs, "ListQueues") == {}


async def test_queues_made_in_the_process(client):
    """create_queue() is CreateQueue: idempotent, checked, visible to clients."""
    async with LocalSqs() as sqs:
        url = sqs.create_queue("q", {"VisibilityTimeout": "7"})

        assert url == sqs.queue_url("q") == sqs.create_queue("q", {"VisibilityTimeout": "7"})
        assert await call(client, sqs, "GetQueueUrl", QueueName="q") == {"QueueUrl": url}
        with pytest.raises(Refusal, match="different value for attribute VisibilityTimeout"):
            sqs.create_queue("q", {"VisibilityTimeout": "8"})


async def test_stats_account_for_every_message(client):
    """GET /stats shows what stats() returns."""
    async with LocalSqs() as sqs:
        url = sqs.create_queue("q")
        for _ in range(3):
            await call(client, sqs, "SendMessage", QueueUrl=url, MessageBody="x")
        received = await call(client, sqs, "ReceiveMessage", QueueUrl=url, MaxNumberOfMessages=2)
        handle = received["Messages"][0]["ReceiptHandle"]
        await call(client, sqs, "DeleteMessage", QueueUrl=url, ReceiptHandle=handle)

        shown = (await client.get(f"{sqs.url}/stats")).json()

    assert shown == {
        "q": {
            "sent": 3,
            "deduplicated": 0,
            "received": 2,
            "redelivered": 0,
            "deleted": 1,
            "expired": 0,
            "purged": 0,
            "moved_in": 0,
            "moved_out": 0,
            "empty_receives": 0,
            "visible": 1,
            "in_flight": 1,
            "delayed": 0,
            "waiting": 0,
            "faults": 0,
        }
    }


async def test_parked_poll_wakes_at_once(client):
    """A send answers the poll that waits for it."""
    async with LocalSqs(clock=ManualClock()) as sqs:
        url = sqs.create_queue("q")
        poll = asyncio.create_task(
            call(client, sqs, "ReceiveMessage", QueueUrl=url, WaitTimeSeconds=20)
        )
        await until(lambda: waiting(sqs))

        await call(client, sqs, "SendMessage", QueueUrl=url, MessageBody="x")

        assert len((await poll)["Messages"]) == 1


async def test_poll_waits_as_long_as_the_queue_says(client):
    """ReceiveMessageWaitTimeSeconds is the default, an explicit 0 beats it."""
    async with LocalSqs(clock=ManualClock()) as sqs:
        url = sqs.create_queue("q", {"ReceiveMessageWaitTimeSeconds": "20"})
        assert await call(client, sqs, "ReceiveMessage", QueueUrl=url, WaitTimeSeconds=0) == {}
        poll = asyncio.create_task(call(client, sqs, "ReceiveMessage", QueueUrl=url))
        await until(lambda: waiting(sqs))

        sqs.advance(19)
        assert waiting(sqs) == 1
        sqs.advance(1)

        assert await poll == {}


async def test_timer_of_the_machine_wakes_a_poll(client):
    """A delay that ends in real time serves the poll without any other request."""
    clock = LeapingClock()
    async with LocalSqs(clock=clock) as sqs:
        url = sqs.create_queue("q")
        request = {"QueueUrl": url, "MessageBody": "x", "DelaySeconds": 900}
        await call(client, sqs, "SendMessage", **request)
        clock.ahead = 899.95

        received = await call(client, sqs, "ReceiveMessage", QueueUrl=url, WaitTimeSeconds=20)

    assert len(received["Messages"]) == 1


async def test_poll_ends_by_the_timer_of_the_machine(client):
    """An earlier end than the one the timer was set for is noticed."""
    async with LocalSqs() as sqs:
        url = sqs.create_queue("q")
        long = asyncio.create_task(
            call(client, sqs, "ReceiveMessage", QueueUrl=url, WaitTimeSeconds=20)
        )
        await until(lambda: waiting(sqs))

        short = await call(client, sqs, "ReceiveMessage", QueueUrl=url, WaitTimeSeconds=1)

        assert short == {}
        assert not long.done()
        await call(client, sqs, "SendMessage", QueueUrl=url, MessageBody="x")
        assert len((await long)["Messages"]) == 1


def poll_request(url, **more):
    body = json.dumps({"QueueUrl": url, "WaitTimeSeconds": 20, **more}).encode()
    head = "POST / HTTP/1.1\r\nHost: localhost\r\nX-Amz-Target: AmazonSQS.ReceiveMessage\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def content(size):
    return Content.parse({"MessageBody": "x" * size})


def port(sqs):
    return int(sqs.url.rpartition(":")[2])


async def test_poller_that_left_is_forgotten():
    """Its waiter goes with the connection; the message stays."""
    async with LocalSqs() as sqs:
        url = sqs.create_queue("q")
        _, writer = await asyncio.open_connection("127.0.0.1", port(sqs))
        writer.write(poll_request(url))
        await until(lambda: waiting(sqs))

        writer.close()
        await writer.wait_closed()
        await until(lambda: not waiting(sqs))


@pytest.mark.parametrize("goodbye", ["close", "shutdown", "abort"])
async def test_message_does_not_go_to_a_client_that_has_just_left(goodbye):
    """Not even when the event loop has not seen the goodbye yet."""
    async with LocalSqs() as sqs:
        url = sqs.create_queue("q")
        with socket.create_connection(("127.0.0.1", port(sqs))) as ghost:
            ghost.sendall(poll_request(url))
            await until(lambda: waiting(sqs))

            # From here on no await: the loop cannot notice.
            (connection,) = sqs._connections
            match goodbye:
                case "close":
                    ghost.close()
                case "shutdown":
                    ghost.shutdown(socket.SHUT_WR)
                case "abort":
                    connection.abort()
            queue = sqs.broker.get("q")
            queue.send(content(1))

            assert queue.counts() == {"visible": 1, "in_flight": 0, "delayed": 0, "waiting": 0}


async def test_requests_behind_a_poll_wait_for_it():
    """Pipelined behind a long poll, they are answered after it, in order."""
    async with LocalSqs(clock=ManualClock()) as sqs:
        url = sqs.create_queue("q")
        reader, writer = await asyncio.open_connection("127.0.0.1", port(sqs))
        writer.write(poll_request(url) + b"GET /stats HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: waiting(sqs))

        sqs.advance(20)
        async with asyncio.timeout(SECONDS):
            answers = [await reader.readuntil(b"}") for _ in range(2)]

        assert b"x-amz-json" in answers[0]
        assert b'"empty_receives": 1' in answers[1]
        writer.close()
        await writer.wait_closed()


async def test_flood_behind_a_poll_is_not_taken_in():
    """What comes behind a parked poll is left in the socket beyond a limit."""
    async with LocalSqs(clock=ManualClock()) as sqs:
        url = sqs.create_queue("q")
        reader, writer = await asyncio.open_connection("127.0.0.1", port(sqs))
        stats = b"GET /stats HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 30_000 + b"\r\n\r\n"
        writer.write(poll_request(url))
        writer.write(stats * 1500)
        (connection,) = sqs._connections
        await until(lambda: not connection._transport.is_reading())
        assert writer.transport.get_write_buffer_size() > 10_000_000

        sqs.advance(20)
        async with asyncio.timeout(SECONDS):
            answers = [await reader.readuntil(b"}") for _ in range(20)]

        assert len(answers) == 20
        writer.transport.abort()


async def test_close_answers_parked_polls_and_leaves_nothing(client):
    """Every poll gets its empty answer, no task is left, no port is open."""
    before = asyncio.all_tasks()
    sqs = LocalSqs()
    await sqs.start()
    url = sqs.create_queue("q")
    polls = [
        asyncio.create_task(call(client, sqs, "ReceiveMessage", QueueUrl=url, WaitTimeSeconds=20))
        for _ in range(3)
    ]
    await until(lambda: waiting(sqs) == 3)

    async with asyncio.timeout(1):
        await sqs.close()

    assert await asyncio.gather(*polls) == [{}, {}, {}]
    assert asyncio.all_tasks() == before
    with pytest.raises(httpx.ConnectError):
        await client.get(f"{sqs.url}/stats")
    await sqs.close()


async def test_close_does_not_wait_for_a_client_that_does_not_read():
    """A connection that cannot be flushed is cut after half a second."""
    async with LocalSqs() as sqs:
        url = sqs.create_queue("q")
        for _ in range(10):
            sqs.broker.get("q").send(content(1_000_000))
        _, writer = await asyncio.open_connection("127.0.0.1", port(sqs), limit=1)
        for _ in range(20):
            writer.write(poll_request(url, MaxNumberOfMessages=10, VisibilityTimeout=0))
        await until(lambda: sqs.stats()["q"]["received"])

        async with asyncio.timeout(1):
            await sqs.close()

        writer.transport.abort()


async def test_port_is_free_again():
    """The same port can be taken at once by the next one."""
    async with LocalSqs() as sqs:
        url = sqs.url
    async with LocalSqs(port=port(sqs)) as again:
        assert again.url == url


def test_in_a_thread():
    """The same methods for code without an event loop; the thread ends with the block."""
    with LocalSqs.in_thread(clock=ManualClock()) as sqs:
        url = sqs.create_queue("q")
        assert url == sqs.queue_url("q") == f"{sqs.url}/000000000000/q"
        assert httpx.get(f"{sqs.url}/stats", trust_env=False).json() == sqs.stats()
        sqs.advance(1)
        with pytest.raises(Refusal, match="Can only include"):
            sqs.create_queue("a b")

    assert "tracebaton-local-sqs" not in {thread.name for thread in threading.enumerate()}


def test_taken_port_is_told_to_the_thread_that_asked():
    """A start that fails raises where it was asked for."""
    with (
        LocalSqs.in_thread() as sqs,
        pytest.raises(OSError, match="address already in use"),
        LocalSqs.in_thread(port=port(sqs)),
    ):
        pass


async def test_only_a_manual_clock_is_moved():
    """Real time passes by itself."""
    async with LocalSqs() as sqs:
        with pytest.raises(TypeError, match="ManualClock"):
            sqs.advance(1)

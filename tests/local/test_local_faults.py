"""Faults that tests ask for, as a client sees them."""

import asyncio
import socket

import boto3
import httpx
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError

from tracebaton.local import Fault, LocalSqs, ManualClock

SECONDS = 5


@pytest.fixture(scope="module")
def running():
    with LocalSqs.in_thread(clock=ManualClock()) as sqs:
        yield sqs


@pytest.fixture
def sqs(running):
    yield running
    running.faults.clear()


@pytest.fixture(scope="module")
def client(running):
    client = boto3.client(
        "sqs",
        endpoint_url=running.url,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
        config=Config(retries={"total_max_attempts": 1}, read_timeout=0.2),
    )
    yield client
    client.close()


@pytest.fixture
def url(sqs, request):
    return sqs.create_queue(queue_name(request.node.name))


def queue_name(test):
    return "".join(letter if letter.isalnum() else "-" for letter in test)[-80:]


def send(client, url, *bodies):
    for body in bodies or ("body",):
        client.send_message(QueueUrl=url, MessageBody=body)


def receive(client, url, **more):
    request = {"MaxNumberOfMessages": 10, "MessageSystemAttributeNames": ["All"], **more}
    return client.receive_message(QueueUrl=url, **request).get("Messages", [])


def bodies(messages):
    return [message["Body"] for message in messages]


def outcome(call):
    """Return how a call ends for the client."""
    try:
        call()
    except ClientError as exc:
        return exc.response["ResponseMetadata"]["HTTPStatusCode"], exc.response["Error"]["Code"]
    except (ConnectionClosedError, ReadTimeoutError) as exc:
        return type(exc)
    return None


ENDS = [
    ({"effect": "error"}, (500, "InternalFailure")),
    ({"effect": "error", "status": 503}, (503, "ServiceUnavailable")),
    ({"effect": "throttle"}, (400, "RequestThrottled")),
    ({"effect": "reset"}, ConnectionClosedError),
    ({"effect": "black_hole"}, ReadTimeoutError),
]
ENDS_IDS = ["500", "503", "throttle", "reset", "black hole"]


@pytest.mark.parametrize(("fault", "seen"), ENDS, ids=ENDS_IDS)
def test_fault_before_the_effect(sqs, client, url, fault, seen):
    """The message is not sent; the next call goes well."""
    sqs.faults.add(Fault(action="SendMessage", first=1, **fault))

    assert outcome(lambda: send(client, url)) == seen
    assert receive(client, url) == []
    send(client, url)


@pytest.mark.parametrize(("fault", "seen"), ENDS, ids=ENDS_IDS)
def test_fault_after_the_effect(sqs, client, url, fault, seen):
    """The client is told the same, and the message is sent."""
    sqs.faults.add(Fault(action="SendMessage", first=1, after=True, **fault))

    assert outcome(lambda: send(client, url)) == seen
    assert bodies(receive(client, url)) == ["body"]


def test_received_messages_that_never_arrived_are_invisible(sqs, client, url):
    """A receive whose answer is lost costs a receive and the visibility timeout."""
    send(client, url)
    sqs.faults.add(Fault(effect="reset", action="ReceiveMessage", first=1, after=True))
    outcome(lambda: receive(client, url))
    assert receive(client, url) == []

    sqs.advance(30)

    (message,) = receive(client, url)
    assert message["Attributes"]["ApproximateReceiveCount"] == "2"


def test_reset_is_a_reset_to_the_client(sqs, url):
    """Not an orderly end, which a client could take for a stop of the server."""
    sqs.faults.add(Fault(effect="reset", queue=url.rpartition("/")[2]))
    address = sqs.url.removeprefix("http://").split(":")
    body = f'{{"QueueUrl": "{url}"}}'.encode()
    head = "POST / HTTP/1.1\r\nHost: localhost\r\nX-Amz-Target: AmazonSQS.PurgeQueue\r\n"
    with socket.create_connection((address[0], int(address[1])), timeout=SECONDS) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_only_the_action_and_the_queue_asked_for(sqs, client, url):
    """Other actions, and other queues, go well."""
    other = sqs.create_queue("another")
    sqs.faults.add(Fault(effect="error", action="SendMessage", queue=url.rpartition("/")[2]))

    assert outcome(lambda: send(client, url)) == (500, "InternalFailure")
    assert outcome(lambda: send(client, other)) is None
    assert outcome(lambda: receive(client, url)) is None


@pytest.mark.parametrize(
    ("request_", "queue"),
    [
        (("list_queues", {}), None),
        (("get_queue_url", {"QueueName": "by-name"}), "by-name"),
        (
            ("list_message_move_tasks", {"SourceArn": "arn:aws:sqs:us-east-1:000000000000:by-arn"}),
            "by-arn",
        ),
    ],
    ids=["none", "name", "arn"],
)
def test_queue_is_known_by_url_name_or_arn(sqs, client, request_, queue):
    """Whatever the action calls it; what has no queue is struck by faults of all queues."""
    action, parameters = request_
    sqs.faults.add(Fault(effect="error", queue=queue))

    seen = outcome(lambda: getattr(client, action)(**parameters))

    assert seen == (500, "InternalFailure")


@pytest.mark.parametrize(
    ("which", "struck"),
    [
        ({"first": 2}, [1, 2]),
        ({"every": 3}, [3, 6]),
        ({"every": 2, "first": 5}, [2, 4]),
        ({"probability": 0.0}, []),
        ({"probability": 1.0}, [1, 2, 3, 4, 5, 6, 7]),
    ],
    ids=repr,
)
def test_which_calls_are_struck(sqs, client, url, which, struck):
    """The first, every so many, with a probability: all must hold."""
    sqs.faults.add(Fault(effect="throttle", action="SendMessage", **which))

    seen = [number for number in range(1, 8) if outcome(lambda: send(client, url))]

    assert seen == struck


def verdicts(sqs, client, url, seed):
    fault_id = sqs.faults.add(
        Fault(effect="throttle", action="SendMessage", probability=0.5, seed=seed)
    )
    seen = [bool(outcome(lambda: send(client, url))) for _ in range(40)]
    sqs.faults.remove(fault_id)
    return seen


def test_same_seed_strikes_the_same_calls(sqs, client, url):
    """Probability is no chance; another seed gives other calls."""
    first = verdicts(sqs, client, url, 7)

    assert verdicts(sqs, client, url, 7) == first
    assert verdicts(sqs, client, url, 8) != first
    assert 5 < sum(first) < 35


def test_removed_fault_strikes_no_more(sqs, client, url):
    """remove() ends one, and says whether it was there."""
    kept = sqs.faults.add(Fault(effect="throttle", action="ReceiveMessage"))
    removed = sqs.faults.add(Fault(effect="throttle", action="SendMessage"))

    assert [sqs.faults.remove(removed), sqs.faults.remove(removed)] == [True, False]
    assert outcome(lambda: send(client, url)) is None
    assert [fault["id"] for fault in sqs.faults.list()] == [kept]


def test_injected_faults_are_counted(sqs, client, url):
    """By queue in the counters, by fault in the list; calls that went well are no faults."""
    name = url.rpartition("/")[2]
    sqs.faults.add(Fault(effect="error", action="SendMessage", every=2))
    for _ in range(5):
        outcome(lambda: send(client, url))

    (listed,) = sqs.faults.list()
    assert (listed["calls"], listed["injected"]) == (5, 2)
    assert sqs.stats()[name]["faults"] == 2


def test_first_of_two_ends_wins(sqs, client, url):
    """A call ends once; what it hides is not counted as injected."""
    sqs.faults.add(Fault(effect="throttle", after=True))
    sqs.faults.add(Fault(effect="error", status=503))
    sqs.faults.add(Fault(effect="error", status=500))

    assert outcome(lambda: send(client, url)) == (503, "ServiceUnavailable")
    assert [fault["injected"] for fault in sqs.faults.list()] == [0, 1, 0]


def entries(*ids, **more):
    return [{"Id": one, **more} for one in ids]


def ids(answer, key):
    return [one["Id"] for one in answer.get(key, [])]


def test_entries_of_a_send_fail_alone(sqs, client, url):
    """Each entry counts as a call; the failed ones are not sent."""
    sqs.faults.add(Fault(effect="fail_entries", action="SendMessageBatch", every=2))
    request = {"QueueUrl": url, "Entries": entries("1", "2", "3", MessageBody="x")}

    answers = [client.send_message_batch(**request) for _ in range(2)]

    assert [ids(answer, "Failed") for answer in answers] == [["2"], ["1", "3"]]
    assert [ids(answer, "Successful") for answer in answers] == [["1", "3"], ["2"]]
    assert answers[0]["Failed"][0]["Code"] == "InternalError"
    assert answers[0]["Failed"][0]["SenderFault"] is False
    assert len(receive(client, url)) == 3


def test_entry_that_fails_after_its_effect(sqs, client, url):
    """It is sent all the same, so a retry sends it twice."""
    sqs.faults.add(Fault(effect="fail_entries", first=1, after=True))

    answer = client.send_message_batch(QueueUrl=url, Entries=entries("1", "2", MessageBody="x"))

    assert (ids(answer, "Failed"), ids(answer, "Successful")) == (["1"], ["2"])
    assert len(receive(client, url)) == 2


def test_entries_of_deletes_and_visibility_changes_fail(sqs, client, url):
    """By the sender's fault, with a code of one's own."""
    send(client, url)
    (message,) = receive(client, url)
    code = "ReceiptHandleIsInvalid"
    sqs.faults.add(Fault(effect="fail_entries", code=code, sender_fault=True))
    batch = entries("1", ReceiptHandle=message["ReceiptHandle"])

    deleted = client.delete_message_batch(QueueUrl=url, Entries=batch)
    changed = client.change_message_visibility_batch(
        QueueUrl=url, Entries=[{**batch[0], "VisibilityTimeout": 0}]
    )

    for answer in (deleted, changed):
        assert [(one["Code"], one["SenderFault"]) for one in answer["Failed"]] == [(code, True)]
    assert receive(client, url) == []


def test_bad_entry_fails_by_itself(sqs, client, url):
    """A fault does not hide what is wrong with an entry that it lets have its effect."""
    sqs.faults.add(Fault(effect="fail_entries", after=True, sender_fault=True))
    batch = entries("1", ReceiptHandle="nonsense")

    (failed,) = client.delete_message_batch(QueueUrl=url, Entries=batch)["Failed"]

    assert failed["Code"] == "ReceiptHandleIsInvalid"


def test_duplicate_is_handed_out_while_it_is_invisible(sqs, client, url):
    """Once more, as another receive of the same message; then it is as invisible as ever."""
    send(client, url)
    sqs.faults.add(Fault(effect="duplicate"))
    (first,) = receive(client, url)

    (second,) = receive(client, url)

    assert receive(client, url) == []
    assert first["MessageId"] == second["MessageId"]
    assert first["ReceiptHandle"] != second["ReceiptHandle"]
    assert second["Attributes"]["ApproximateReceiveCount"] == "2"


@pytest.mark.parametrize("which", [0, 1], ids=["first", "second"])
def test_both_handles_of_a_duplicate_hold_it(sqs, client, url, which):
    """Whoever deletes first deletes it, and the other's delete succeeds."""
    send(client, url)
    sqs.faults.add(Fault(effect="duplicate"))
    handles = [receive(client, url)[0]["ReceiptHandle"] for _ in range(2)]
    sqs.faults.clear()

    for handle in (handles[which], handles[1 - which]):
        client.delete_message(QueueUrl=url, ReceiptHandle=handle)

    stats = sqs.stats()[url.rpartition("/")[2]]
    assert (stats["deleted"], stats["in_flight"], stats["visible"]) == (1, 0, 0)


def test_duplicate_of_what_is_deleted_meanwhile_never_comes(sqs, client, url):
    """There is nothing to hand out any more."""
    send(client, url)
    sqs.faults.add(Fault(effect="duplicate"))
    (message,) = receive(client, url)

    client.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])

    assert receive(client, url) == []


def test_duplicate_that_became_visible_comes_once(sqs, client, url):
    """A timeout that ends first takes the place of the duplicate."""
    send(client, url)
    sqs.faults.add(Fault(effect="duplicate", first=1))
    receive(client, url, VisibilityTimeout=5)

    sqs.advance(5)

    assert len(receive(client, url)) == 1
    assert receive(client, url) == []


def test_exhausted_message_is_not_duplicated(sqs, client, url):
    """Another receive would move it to the DLQ under the hands of its consumer."""
    arn = {"deadLetterTargetArn": "arn:aws:sqs:us-east-1:000000000000:grave", "maxReceiveCount": 1}
    sqs.create_queue("grave")
    policy = str(arn).replace("'", '"')
    client.set_queue_attributes(QueueUrl=url, Attributes={"RedrivePolicy": policy})
    send(client, url)
    sqs.faults.add(Fault(effect="duplicate"))
    receive(client, url)

    assert receive(client, url) == []
    assert sqs.faults.list()[0]["injected"] == 0


def test_reordered_queue(sqs, client, url):
    """The same messages in another order, the same for the same seed."""
    sent = [str(number) for number in range(15)]
    orders = []
    for _ in range(2):
        send(client, url, *sent)
        fault_id = sqs.faults.add(Fault(effect="reorder", seed=3))
        got = receive(client, url) + receive(client, url)
        sqs.faults.remove(fault_id)
        for message in got:
            client.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        orders.append(bodies(got))

    assert orders[0] == orders[1] != sent
    assert sorted(orders[0], key=int) == sent


def test_one_message_cannot_be_reordered(sqs, client, url):
    """And is no injected fault."""
    send(client, url)
    sqs.faults.add(Fault(effect="reorder"))

    assert bodies(receive(client, url)) == ["body"]
    assert sqs.faults.list()[0]["injected"] == 0


def test_fifo_queue_keeps_order_and_lock(sqs, client):
    """There is neither a duplicate nor another order, whatever is asked for."""
    fifo = {"FifoQueue": "true", "ContentBasedDeduplication": "true"}
    url = sqs.create_queue("order.fifo", fifo)
    for body in ("1", "2", "3"):
        client.send_message(QueueUrl=url, MessageBody=body, MessageGroupId="g")
    sqs.faults.add(Fault(effect="reorder"))
    sqs.faults.add(Fault(effect="duplicate"))

    assert bodies(receive(client, url)) == ["1", "2", "3"]
    assert receive(client, url) == []
    assert sqs.stats()["order.fifo"]["faults"] == 0


@pytest.mark.parametrize(
    ("fifo", "code"), [(False, "ReceiptHandleIsInvalid"), (True, "InvalidParameterValue")]
)
def test_lost_handle_is_worth_nothing(sqs, client, fifo, code):
    """The message comes back after its timeout, with a handle that holds it."""
    attributes = {"FifoQueue": "true", "ContentBasedDeduplication": "true"} if fifo else {}
    url = sqs.create_queue("handles.fifo" if fifo else "handles", attributes)
    more = {"MessageGroupId": "g"} if fifo else {}
    client.send_message(QueueUrl=url, MessageBody="x", **more)
    sqs.faults.add(Fault(effect="lose_handle", first=1))
    (message,) = receive(client, url)
    lost = {"QueueUrl": url, "ReceiptHandle": message["ReceiptHandle"]}

    assert outcome(lambda: client.delete_message(**lost)) == (400, code)
    assert outcome(lambda: client.change_message_visibility(VisibilityTimeout=9, **lost)) == (
        400,
        code,
    )
    sqs.advance(30)
    (again,) = receive(client, url)
    client.delete_message(QueueUrl=url, ReceiptHandle=again["ReceiptHandle"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"effect": "explode"},
        {"effect": "error", "status": 404},
        {"effect": "error", "action": "SendMesage"},
        {"effect": "duplicate", "action": "SendMessage"},
        {"effect": "fail_entries", "action": "SendMessage"},
        {"effect": "error", "first": 0},
        {"effect": "error", "every": 0},
        {"effect": "error", "every": True},
        {"effect": "error", "every": "2"},
        {"effect": "error", "after": 1},
        {"effect": "error", "probability": 1.5},
        {"effect": "delay", "seconds": -1},
        {"effect": "delay", "seconds": float("inf")},
        {"effect": "error", "colour": "red"},
        {"action": "SendMessage"},
        ["error"],
    ],
    ids=repr,
)
def test_malformed_fault_is_refused(sqs, wrong):
    """Alike in Python and over HTTP; nothing is added."""
    answer = httpx.post(
        f"{sqs.url}/faults", content=str(wrong).replace("'", '"').replace("True", "true")
    )

    assert answer.status_code == 400
    if isinstance(wrong, dict) and "inf" not in str(wrong):
        with pytest.raises(ValueError, match=r".") as refused:
            sqs.faults.add(Fault.parse(wrong))
        assert answer.json() == {"message": str(refused.value)}
    assert sqs.faults.list() == []


def test_faults_over_http(sqs, client, url):
    """Another process adds, lists, removes and clears them."""
    page = f"{sqs.url}/faults"
    fault = {"effect": "throttle", "action": "SendMessage", "first": 1}
    with httpx.Client(trust_env=False) as http:
        added = http.post(page, json=fault)
        http.post(page, json={"effect": "delay", "queue": "nobody"})
        outcome(lambda: send(client, url))
        listed = http.get(page).json()["faults"]
        removed = [http.delete(f"{page}/{added.json()['id']}").status_code for _ in range(2)]
        http.delete(page)

        assert http.get(page).json() == {"faults": []}
    assert added.status_code == 201
    assert [(one["effect"], one["injected"]) for one in listed] == [("throttle", 1), ("delay", 0)]
    assert removed == [200, 404]


def test_faults_of_other_sites_are_refused(sqs):
    """A web page of elsewhere cannot break what runs here."""
    answer = httpx.post(
        f"{sqs.url}/faults", json={"effect": "error"}, headers={"Origin": "http://example.com"}
    )

    assert answer.status_code == 403
    assert sqs.faults.list() == []


async def call(http, sqs, action, **request):
    answer = await http.post(sqs.url, headers={"X-Amz-Target": f"AmazonSQS.{action}"}, json=request)
    return answer.json()


async def until(condition):
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0)


@pytest.fixture
async def http():
    async with httpx.AsyncClient(trust_env=False, timeout=SECONDS) as client:
        yield client


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_delay(http, after):
    """The call takes longer; its effect comes after the delay, or before it."""
    async with LocalSqs(clock=ManualClock()) as sqs:
        url = sqs.create_queue("q")
        sqs.faults.add(Fault(effect="delay", seconds=10, after=after))
        sending = asyncio.create_task(call(http, sqs, "SendMessage", QueueUrl=url, MessageBody="x"))
        await until(lambda: sqs.faults.list()[0]["calls"])
        sqs.advance(9)
        assert (sqs.stats()["q"]["sent"], sending.done()) == (int(after), False)

        sqs.advance(1)

        assert "MessageId" in await sending
        assert sqs.stats()["q"]["sent"] == 1


async def test_delays_add_up(http):
    """Before and after, of several faults."""
    async with LocalSqs(clock=ManualClock()) as sqs:
        for after in (False, True, False):
            sqs.faults.add(Fault(effect="delay", seconds=10, after=after))
        listing = asyncio.create_task(call(http, sqs, "ListQueues"))
        await until(lambda: sqs.faults.list()[0]["calls"])
        sqs.advance(20)
        await asyncio.sleep(0)
        assert not listing.done()

        sqs.advance(10)

        assert await listing == {}


async def test_delayed_call_of_a_client_that_left_has_its_effect(http):
    """What is on its way arrives, but nobody is answered."""
    async with LocalSqs(clock=ManualClock()) as sqs:
        url = sqs.create_queue("q")
        sqs.faults.add(Fault(effect="delay", seconds=10))
        sending = asyncio.create_task(call(http, sqs, "SendMessage", QueueUrl=url, MessageBody="x"))
        await until(lambda: sqs.faults.list()[0]["calls"])
        sending.cancel()
        await until(lambda: not sqs._connections)

        sqs.advance(10)

        assert sqs.stats()["q"]["sent"] == 1


@pytest.mark.parametrize("effect", ["error", "reset"])
async def test_delayed_end_of_a_client_that_left(http, effect):
    """There is no connection any more to answer on, or to reset."""
    async with LocalSqs(clock=ManualClock()) as sqs:
        sqs.faults.add(Fault(effect="delay", seconds=10))
        sqs.faults.add(Fault(effect=effect))
        calling = asyncio.create_task(call(http, sqs, "ListQueues"))
        await until(lambda: sqs.faults.list()[0]["calls"])
        calling.cancel()
        await until(lambda: not sqs._connections)

        sqs.advance(10)
        sqs.faults.clear()

        assert await call(http, sqs, "ListQueues") == {}


@pytest.mark.parametrize("arrived", [False, True], ids=["on its way", "parked"])
async def test_delayed_poll_of_a_client_that_left_is_forgotten(http, arrived):
    """It neither waits on nor swallows a message."""
    async with LocalSqs(clock=ManualClock()) as sqs:
        url = sqs.create_queue("q")
        sqs.faults.add(Fault(effect="delay", seconds=1, action="ReceiveMessage"))
        polling = asyncio.create_task(
            call(http, sqs, "ReceiveMessage", QueueUrl=url, WaitTimeSeconds=20)
        )
        await until(lambda: sqs.faults.list()[0]["calls"])
        if arrived:
            sqs.advance(1)
            assert sqs.stats()["q"]["waiting"] == 1
        polling.cancel()
        await until(lambda: not sqs._connections)
        sqs.advance(1)

        await call(http, sqs, "SendMessage", QueueUrl=url, MessageBody="x")

        stats = sqs.stats()["q"]
        assert (stats["waiting"], stats["visible"]) == (0, 1)


async def test_answer_of_a_poll_is_struck_when_it_comes(http):
    """A receive that waits for its message loses it then."""
    async with LocalSqs(clock=ManualClock()) as sqs:
        url = sqs.create_queue("q")
        sqs.faults.add(Fault(effect="throttle", action="ReceiveMessage", after=True))
        polling = asyncio.create_task(
            call(http, sqs, "ReceiveMessage", QueueUrl=url, WaitTimeSeconds=20)
        )
        await until(lambda: sqs.stats()["q"]["waiting"])

        await call(http, sqs, "SendMessage", QueueUrl=url, MessageBody="x")

        assert "RequestThrottled" in (await polling)["__type"]
        assert sqs.stats()["q"]["in_flight"] == 1


async def test_waiting_poll_gets_the_duplicate(http):
    """Handed out to one, the message goes to the next that waits."""
    async with LocalSqs(clock=ManualClock()) as sqs:
        url = sqs.create_queue("q")
        sqs.faults.add(Fault(effect="duplicate"))
        poll = {"QueueUrl": url, "WaitTimeSeconds": 20}
        polls = [asyncio.create_task(call(http, sqs, "ReceiveMessage", **poll)) for _ in range(2)]
        await until(lambda: sqs.stats()["q"]["waiting"] == 2)

        await call(http, sqs, "SendMessage", QueueUrl=url, MessageBody="x")

        received = [(await one)["Messages"][0]["MessageId"] for one in polls]
        assert received[0] == received[1]


async def test_black_hole_does_not_hold_up_the_end(http):
    """Calls without an answer end with the server."""
    async with LocalSqs() as sqs:
        sqs.faults.add(Fault(effect="black_hole"))
        calling = asyncio.create_task(call(http, sqs, "ListQueues"))
        await until(lambda: sqs.faults.list()[0]["calls"])

        async with asyncio.timeout(1):
            await sqs.close()

        with pytest.raises(httpx.TransportError):
            await calling

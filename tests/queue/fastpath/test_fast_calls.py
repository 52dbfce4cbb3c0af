"""Hot calls over a real connection: what goes out, what comes back, what is tried again."""

import datetime
import threading
import time
from collections.abc import Callable
from email.utils import format_datetime
from typing import Any

import boto3
import pytest
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    ReadTimeoutError,
)
from wire_server import QUEUE, Request, WireServer, error, ok

from tracebaton.queue.fastpath import direct

Clients = Callable[..., Any]
Servers = Callable[..., WireServer]
TWICE = {"mode": "standard", "total_max_attempts": 2}


def sent(request: Request) -> bytes:
    """Take whatever is sent."""
    return ok({"MessageId": "m", "MD5OfMessageBody": "x"})


def script(*answers: bytes | None) -> Callable[[Request], bytes | None]:
    """Answer each request with the next of *answers*."""
    left = list(answers)
    return lambda _: left.pop(0)


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("send_message", {"MessageBody": "grüße 🎉 \u0000"}),
        (
            "send_message_batch",
            {
                "Entries": [
                    {
                        "Id": "0",
                        "MessageBody": "b",
                        "MessageAttributes": {
                            "raw": {"DataType": "Binary", "BinaryValue": b"\x00\xff"}
                        },
                        "MessageSystemAttributes": {
                            "AWSTraceHeader": {"DataType": "String", "StringValue": "Root=1"}
                        },
                    }
                ]
            },
        ),
        ("receive_message", {"MaxNumberOfMessages": 10, "WaitTimeSeconds": 20}),
        ("delete_message", {"ReceiptHandle": "h"}),
        ("delete_message_batch", {"Entries": [{"Id": "0", "ReceiptHandle": "h"}]}),
        ("change_message_visibility", {"ReceiptHandle": "h", "VisibilityTimeout": 0}),
        (
            "change_message_visibility_batch",
            {"Entries": [{"Id": "0", "ReceiptHandle": "h", "VisibilityTimeout": 1}]},
        ),
    ],
)
def test_the_request_is_botocores(
    clients: Clients, servers: Servers, method: str, arguments: dict[str, Any]
) -> None:
    """Same body, same headers but for the signature's, same answer."""
    server = servers(lambda _: ok({"Messages": []} if "receive" in method else {}))
    answers = []
    for fast in (False, True):
        client = clients(server.url, fast=fast, retries=TWICE)
        answers.append(getattr(client, method)(QueueUrl=QUEUE, **arguments))
    stock, ours = server.requests
    varying = {"amz-sdk-invocation-id", "amz-sdk-request", "authorization", "x-amz-date"}
    kept = [
        {name: value for name, value in request.headers.items() if name not in varying}
        for request in (stock, ours)
    ]

    assert ours.body == stock.body
    assert kept[1] | {"accept-encoding": "identity"} == kept[0]
    assert set(ours.headers) | {"accept-encoding"} == set(stock.headers)
    assert answers[0] == answers[1]


def test_connections_are_kept(clients: Clients, servers: Servers) -> None:
    """One call after the other, big and small, goes over the same connection."""
    server = servers(sent)
    client = clients(server.url)
    bodies = ["a", "ü" * 400_000, "x" * 1_000_000, "b"]
    for body in bodies:
        client.send_message(QueueUrl=QUEUE, MessageBody=body)

    assert [request.connection for request in server.requests] == [0, 0, 0, 0]
    assert [request.document["MessageBody"] for request in server.requests] == bodies


def test_calls_at_the_same_time_have_connections_of_their_own(
    clients: Clients, servers: Servers
) -> None:
    """A parked call holds up no other one."""
    together = threading.Barrier(3)

    def meet(request: Request) -> bytes:
        together.wait(10)
        return sent(request)

    server = servers(meet)
    client = clients(server.url)
    send = {"QueueUrl": QUEUE, "MessageBody": "b"}
    threads = [threading.Thread(target=client.send_message, kwargs=send) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(request.connection for request in server.requests) == [0, 1, 2]


def test_a_connection_that_the_server_ended_is_not_used_again(
    clients: Clients, servers: Servers
) -> None:
    """A keep-alive that ran out costs no attempt: the next call has a new connection."""
    server = servers(sent)
    client = clients(server.url)
    client.send_message(QueueUrl=QUEUE, MessageBody="1")
    server.drop()
    client.send_message(QueueUrl=QUEUE, MessageBody="2")

    assert [request.connection for request in server.requests] == [0, 1]


def test_a_server_that_closes_is_believed(clients: Clients, servers: Servers) -> None:
    """``Connection: close`` ends the connection after the answer."""
    server = servers(lambda _: ok({"MessageId": "m"}, headers="connection: close\r\n"))
    client = clients(server.url)
    for body in "12":
        client.send_message(QueueUrl=QUEUE, MessageBody=body)

    assert [request.connection for request in server.requests] == [0, 1]


@pytest.mark.parametrize(
    "first",
    [
        None,
        error(500, "InternalError"),
        error(503, "ServiceUnavailable"),
        error(400, "RequestThrottled", headers="x-amzn-query-error: Throttling;Sender\r\n"),
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\nconnection: close\r\n\r\n{",
        b"nonsense\r\n\r\n",
    ],
    ids=["reset", "500", "503", "throttled", "cut", "nonsense"],
)
def test_what_botocore_tries_again_is_tried_again(
    clients: Clients, servers: Servers, first: bytes | None
) -> None:
    """Its rules, its back-off, its count; each attempt is signed anew and says its number."""
    server = servers(script(first, ok({"MessageId": "m"})))
    answer = clients(server.url, retries=TWICE).send_message(QueueUrl=QUEUE, MessageBody="b")
    one, two = server.requests

    assert answer["ResponseMetadata"]["RetryAttempts"] == 1
    assert one.headers["amz-sdk-invocation-id"] == two.headers["amz-sdk-invocation-id"]
    assert "attempt=2" in two.headers["amz-sdk-request"]
    assert one.document == two.document


@pytest.mark.parametrize("mode", ["standard", "legacy"])
def test_attempts_end(clients: Clients, servers: Servers, mode: str) -> None:
    """Both of botocore's modes count to what the client was told."""
    server = servers(lambda _: error(500, "InternalError"))
    client = clients(server.url, retries={"mode": mode, "total_max_attempts": 3})
    with pytest.raises(ClientError) as failed:
        client.send_message(QueueUrl=QUEUE, MessageBody="b")

    assert len(server.requests) == 3
    assert failed.value.response["ResponseMetadata"]["RetryAttempts"] == 2


@pytest.mark.parametrize(
    "answer",
    [
        error(400, "QueueDoesNotExist"),
        error(
            400,
            "QueueDoesNotExist",
            headers="x-amzn-query-error: AWS.SimpleQueueService.NonExistentQueue;Sender\r\n",
        ),
        error(400, "ReceiptHandleIsInvalid"),
        error(403, "AccessDeniedException"),
        b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 13\r\n\r\n<html></html>",
        b"HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\nno",
    ],
)
def test_a_refusal_is_botocores(clients: Clients, servers: Servers, answer: bytes) -> None:
    """Class, code, message and metadata are what stock boto3 raises."""
    server = servers(lambda _: answer)
    refusals = []
    for fast in (False, True):
        client = clients(server.url, fast=fast)
        with pytest.raises(ClientError) as refused:
            client.send_message(QueueUrl=QUEUE, MessageBody="b")
        refusals.append((type(refused.value).__name__, refused.value.response))

    assert refusals[0] == refusals[1]


def test_nobody_listens(clients: Clients) -> None:
    """A refused connection is botocore's EndpointConnectionError."""
    with pytest.raises(EndpointConnectionError):
        clients("http://127.0.0.1:1").send_message(QueueUrl=QUEUE, MessageBody="b")


def test_no_answer_in_time(clients: Clients, servers: Servers) -> None:
    """The client's read timeout counts, and a late answer never meets the next call."""
    release = threading.Event()
    slow = iter([True, False])

    def answer(request: Request) -> bytes:
        if next(slow):
            release.wait(10)
            return ok({"MessageId": "late"})
        return ok({"MessageId": "mine"})

    server = servers(answer)
    client = clients(server.url, read_timeout=0.2)
    with pytest.raises(ReadTimeoutError):
        client.send_message(QueueUrl=QUEUE, MessageBody="b")
    second = client.send_message(QueueUrl=QUEUE, MessageBody="b")
    release.set()

    assert second["MessageId"] == "mine"
    assert [request.connection for request in server.requests] == [0, 1]


def test_no_connection_in_time(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's connect timeout counts: a full backlog takes nobody in."""
    import socket

    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(address)
        client = clients(f"http://127.0.0.1:{address[1]}", connect_timeout=0.2)
        with pytest.raises(ConnectTimeoutError):
            client.send_message(QueueUrl=QUEUE, MessageBody="b")
        for one in waiting:
            one.close()


def test_the_session_token_goes_along(clients: Clients, servers: Servers) -> None:
    """Temporary credentials send their token, signed."""
    server = servers(sent)
    session = boto3.session.Session("AKID", "secret", "the-token")
    clients(server.url, session=session).send_message(QueueUrl=QUEUE, MessageBody="b")
    headers = server.requests[0].headers

    assert headers["x-amz-security-token"] == "the-token"
    assert "x-amz-security-token" in headers["authorization"]


def test_a_token_with_a_line_end_never_leaves(clients: Clients, servers: Servers) -> None:
    """It would end the header and begin another: the call fails before it is sent."""
    server = servers(sent)
    session = boto3.session.Session("AKID", "secret", "token\r\nx-evil: 1")
    with pytest.raises(HTTPClientError):
        clients(server.url, session=session).send_message(QueueUrl=QUEUE, MessageBody="b")

    assert server.requests == []


def test_credentials_are_refreshed(
    clients: Clients, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call is signed with botocore's credentials as they are then, on a loop as of late."""
    monkeypatch.setattr(direct, "_KEYS_SECONDS", -1.0)
    server, fetched = servers(sent), iter(range(10))

    def fetch() -> dict[str, str]:
        expiry = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=1)
        number = next(fetched)
        return {
            "access_key": f"AKID{number}",
            "secret_key": "secret",
            "token": f"token{number}",
            "expiry_time": expiry.isoformat(),
        }

    session = boto3.session.Session()
    session._session._credentials = RefreshableCredentials.create_from_metadata(
        fetch(), refresh_using=fetch, method="test"
    )
    client = clients(server.url, session=session)
    for _ in range(2):
        client.send_message(QueueUrl=QUEUE, MessageBody="b")
    tokens = [request.headers["x-amz-security-token"] for request in server.requests]

    assert len(set(tokens)) == 2


def test_no_credentials(
    clients: Clients, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their absence is botocore's error, not a request without a signature."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    server = servers(sent)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    client = clients(server.url, session=boto3.session.Session())
    with pytest.raises(NoCredentialsError):
        client.send_message(QueueUrl=QUEUE, MessageBody="b")

    assert server.requests == []


@pytest.mark.parametrize("wrong_by", [-3600.0, 3600.0])
def test_a_wrong_clock_is_put_right(clients: Clients, servers: Servers, wrong_by: float) -> None:
    """The refused call is signed again by the service's clock, and so is the next one at once."""

    def answer(request: Request) -> bytes:
        signed = datetime.datetime.strptime(request.headers["x-amz-date"], "%Y%m%dT%H%M%S%z")
        now = datetime.datetime.now(datetime.UTC)
        if abs((signed - now).total_seconds()) < 60:
            return sent(request)
        date = f"date: {format_datetime(now, usegmt=True)}\r\n"
        return error(403, "SignatureDoesNotMatch", headers=date)

    server = servers(answer)
    client = clients(server.url, now=lambda: time.time() + wrong_by)
    for _ in range(2):
        client.send_message(QueueUrl=QUEUE, MessageBody="b")

    assert len(server.requests) == 3


@pytest.mark.parametrize("date", ["", "date: soon\r\n", "date: {now}\r\n"])
def test_a_wrong_key_is_no_wrong_clock(clients: Clients, servers: Servers, date: str) -> None:
    """Where the clocks agree, or nobody tells, the refusal stands."""
    now = format_datetime(datetime.datetime.now(datetime.UTC), usegmt=True)
    server = servers(lambda _: error(403, "SignatureDoesNotMatch", headers=date.format(now=now)))
    with pytest.raises(ClientError):
        clients(server.url).send_message(QueueUrl=QUEUE, MessageBody="b")

    assert len(server.requests) == 1


def test_an_answer_before_the_end_of_the_request_counts(clients: Clients, servers: Servers) -> None:
    """A server that refuses a body it has not read is heard."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            connection, _ = listener.accept()
            connection.recv(1000)
            connection.sendall(
                error(400, "InvalidMessageContents", headers="connection: close\r\n")
            )
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1_000_000):
                pass
            connection.close()

        thread = threading.Thread(target=refuse)
        thread.start()
        client = clients(f"http://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(ClientError, match="InvalidMessageContents"):
            client.send_message(QueueUrl=QUEUE, MessageBody="x" * 5_000_000)
        thread.join()


def test_a_lost_connection_is_told(clients: Clients, servers: Servers) -> None:
    """Without attempts left, a reset is botocore's ConnectionClosedError."""
    server = servers(lambda _: None)
    with pytest.raises(ConnectionClosedError):
        clients(server.url).send_message(QueueUrl=QUEUE, MessageBody="b")

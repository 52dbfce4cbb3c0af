"""Where the client is not plain, the fast path steps aside and boto3 does it all."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import pytest
from botocore import UNSIGNED
from botocore.config import Config
from wire_server import QUEUE, Request, WireServer, ok

from tracebaton.queue.fastpath import FastPath

Clients = Callable[..., Any]
Servers = Callable[..., WireServer]
SEND = {"QueueUrl": QUEUE, "MessageBody": "b"}


def answered(request: Request) -> bytes:
    """Take whatever is sent."""
    return ok({"MessageId": "m"})


def is_fast(request: Request) -> bool:
    """Tell whether we sent it: urllib3 says what encodings it takes."""
    return "accept-encoding" not in request.headers


def listen(**event: Any) -> None:
    """Hear an event and do nothing."""


def test_a_plain_client_is_answered(clients: Clients, servers: Servers) -> None:
    """Which is what the other tests here rely on to tell."""
    server = servers(answered)
    for fast in (True, False):
        clients(server.url, fast=fast).send_message(**SEND)

    assert [is_fast(request) for request in server.requests] == [True, False]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"proxies": {"http": "http://127.0.0.1:9"}}, "a proxy stands before the endpoint"),
        ({"client_cert": "/some/cert.pem"}, "the client has a certificate"),
        ({"retries": {"mode": "adaptive"}}, "adaptive retries meter the sending"),
    ],
)
def test_what_a_configuration_asks_for(
    clients: Clients, caplog: pytest.LogCaptureFixture, config: dict[str, Any], reason: str
) -> None:
    """The reason is logged."""
    caplog.set_level(logging.INFO, "tracebaton.sqs")
    others = dict(config)
    retries = {"retries": others.pop("retries")} if "retries" in others else {}
    client = clients("http://localhost:1", fast=False, config=others, **retries)

    assert FastPath.install(client) is None
    assert [record.fields["reason"] for record in caplog.records] == [reason]  # type: ignore[attr-defined]


def test_a_proxy_of_the_environment(
    clients: Clients, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every request goes through the proxy, as boto3 sends it; a host in NO_PROXY does not."""
    proxy = servers(answered)
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    client = clients("http://sqs.invalid", fast=False)
    aside = FastPath.install(client)
    client.send_message(**SEND)
    monkeypatch.setenv("NO_PROXY", "sqs.invalid")
    direct = FastPath.install(clients("http://sqs.invalid", fast=False))

    assert aside is None
    assert [request.headers["host"] for request in proxy.requests] == ["sqs.invalid"]
    assert direct is not None


@pytest.mark.parametrize("handler", [listen, functools.partial(listen, n=1)])
@pytest.mark.parametrize(
    "event",
    ["before-send", "before-sign.sqs", "request-created", "response-received.sqs.SendMessage"],
)
def test_somebody_elses_handler(clients: Clients, event: str, handler: Any) -> None:
    """A mock, a recorder or a plugin that listens between call and wire keeps hearing it."""
    client = clients("http://localhost:1", fast=False)
    client.meta.events.register(event, handler)

    assert FastPath.install(client) is None


def test_a_handler_of_another_service_is_no_matter(clients: Clients) -> None:
    """Nor is one of a call that is not hot."""
    client = clients("http://localhost:1", fast=False)
    client.meta.events.register("before-send.s3", listen)
    client.meta.events.register("before-sign.sqs.CreateQueue", listen)

    assert FastPath.install(client) is not None


def test_another_session(clients: Clients) -> None:
    """A client whose HTTP session was replaced is not ours to answer."""
    client = clients("http://localhost:1", fast=False)
    session = client._endpoint.http_session
    client._endpoint.http_session = type("Recorder", (type(session),), {})()

    assert FastPath.install(client) is None


def test_a_botocore_that_has_changed(clients: Clients, caplog: pytest.LogCaptureFixture) -> None:
    """What is not where it was makes the client not plain, with the reason, and nothing fails."""
    caplog.set_level(logging.INFO, "tracebaton.sqs")
    client = clients("http://localhost:1", fast=False)
    del client._endpoint.http_session._verify

    assert FastPath.install(client) is None
    assert "botocore has changed" in str(caplog.records[0].fields)  # type: ignore[attr-defined]


def test_an_unsigned_client_is_not_signed(clients: Clients, servers: Servers) -> None:
    """A signature other than SigV4, or none, is botocore's."""
    server = servers(answered)
    clients(server.url, config={"signature_version": UNSIGNED}).send_message(**SEND)

    assert not is_fast(server.requests[0])
    assert "authorization" not in server.requests[0].headers


@pytest.mark.parametrize("path", ["/a//b/", "/a/../b/", "/ü/", "/a%20b/"])
def test_a_path_that_needs_normalising(clients: Clients, servers: Servers, path: str) -> None:
    """An endpoint with a path that is not plain is signed by who knows how."""
    server = servers(answered)
    clients(f"{server.url}{path}").send_message(**SEND)

    assert not is_fast(server.requests[0])


def test_a_plain_path_is_answered(clients: Clients, servers: Servers) -> None:
    """An endpoint may stand below a path."""
    server = servers(answered)
    clients(f"{server.url}/base").send_message(**SEND)

    assert is_fast(server.requests[0])


def test_another_before_call_handler_goes_first(clients: Clients, servers: Servers) -> None:
    """Whoever else answers calls, such as a stub, is asked before us."""
    server = servers(answered)
    client = clients(server.url)

    def stubbed(**call: Any) -> Any:
        return type("Http", (), {"status_code": 200})(), {"MessageId": "stub"}

    client.meta.events.register("before-call.sqs.SendMessage", stubbed)

    assert client.send_message(**SEND)["MessageId"] == "stub"
    assert server.requests == []


def test_a_handler_that_changes_requests_hears_each(clients: Clients, servers: Servers) -> None:
    """What somebody does to the parameters is done anew for every call."""
    server = servers(answered)
    client = clients(server.url)

    def number(params: dict[str, Any], **event: Any) -> None:
        params["MessageBody"] += str(len(server.requests))

    client.meta.events.register("before-parameter-build.sqs.SendMessage", number)
    for _ in range(2):
        client.send_message(**SEND)

    assert [request.document["MessageBody"] for request in server.requests] == ["b0", "b1"]
    assert all(map(is_fast, server.requests))


def test_a_region_of_the_endpoint_signs(clients: Clients, servers: Servers) -> None:
    """What the endpoint's rules say of the signature counts over the client's region."""
    server = servers(answered)
    client = clients(server.url)

    def route(context: dict[str, Any], **call: Any) -> None:
        context["signing"] = {"region": "us-west-2", "signing_name": "sqs"}

    def odd(context: dict[str, Any], **call: Any) -> None:
        context["signing"] = {"region": "us-west-2", "cache_key": "x"}

    client.meta.events.register("before-call.sqs.SendMessage", route)
    client.send_message(**SEND)
    client.meta.events.unregister("before-call.sqs.SendMessage", route)
    client.meta.events.register("before-call.sqs.SendMessage", odd)
    client.send_message(**SEND)

    assert "us-west-2/sqs" in server.requests[0].headers["authorization"]
    assert [is_fast(request) for request in server.requests] == [True, False]


def test_a_default_configuration_is_plain() -> None:
    """Whatever a newer botocore registers by itself does not turn the fast path off."""
    import boto3

    client = boto3.session.Session("a", "b").client(
        "sqs", region_name="eu-west-1", config=Config(retries={"mode": "standard"})
    )
    path = FastPath.install(client)
    client.close()

    assert path is not None

"""Whom the fast path trusts over TLS is whom boto3 trusts."""

import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ConnectionError, SSLError
from wire_server import QUEUE, Request, WireServer, ok

Clients = Callable[..., Any]
Servers = Callable[..., WireServer]
SEND = {"QueueUrl": QUEUE, "MessageBody": "b"}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of localhost that signs itself, its key beside it."""
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", f"{path}.key"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return path


@pytest.fixture
def server(servers: Servers, certificate: Path) -> WireServer:
    """A server that answers as localhost."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, f"{certificate}.key")
    return servers(answered, tls=context)


def answered(request: Request) -> bytes:
    """Take whatever is sent."""
    return ok({"MessageId": "m"})


def test_the_clients_bundle_is_trusted(
    clients: Clients, server: WireServer, certificate: Path
) -> None:
    """Calls share a connection, whose handshake named the host."""
    client = clients(server.url, verify=str(certificate))
    for _ in range(3):
        assert client.send_message(**SEND)["MessageId"] == "m"

    assert [request.connection for request in server.requests] == [0, 0, 0]
    assert server.names == ["localhost"]


def test_the_bundle_of_the_environment_is_trusted(
    clients: Clients, server: WireServer, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``AWS_CA_BUNDLE`` counts as for boto3."""
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))

    assert clients(server.url).send_message(**SEND)["MessageId"] == "m"


def test_a_stranger_is_not_trusted(clients: Clients, server: WireServer) -> None:
    """A certificate that no bundle vouches for ends the call before the request."""
    with pytest.raises(SSLError, match="self-signed certificate"):
        clients(server.url).send_message(**SEND)

    assert server.requests == []


def test_another_host_is_not_trusted(
    clients: Clients, server: WireServer, certificate: Path
) -> None:
    """The certificate has to be the host's."""
    url = server.url.replace("localhost", "127.0.0.1")
    with pytest.raises(SSLError, match="mismatch"):
        clients(url, verify=str(certificate)).send_message(**SEND)

    assert server.requests == []


def test_verification_can_be_turned_off(clients: Clients, server: WireServer) -> None:
    """``verify=False`` is boto3's own switch."""

    assert clients(server.url, verify=False).send_message(**SEND)["MessageId"] == "m"


def test_a_bundle_that_is_not_there_is_for_botocore_to_tell(
    clients: Clients, server: WireServer, tmp_path: Path
) -> None:
    """The error is the one that stock boto3 raises."""
    missing = str(tmp_path / "nothing.pem")
    raised = []
    for fast in (False, True):
        with pytest.raises(Exception) as failed:  # noqa: PT011  # whichever botocore has for it
            clients(server.url, fast=fast, verify=missing).send_message(**SEND)
        raised.append((type(failed.value), str(failed.value)))

    assert raised[0] == raised[1]


def test_plain_http_where_tls_was_asked_for(clients: Clients, servers: Servers) -> None:
    """A server that speaks no TLS is not spoken to."""
    server = servers(answered)
    with pytest.raises(ConnectionError):
        clients(server.url.replace("http:", "https:")).send_message(**SEND)

    assert server.requests == []

"""boto3 clients of an endpoint whose bytes a test writes."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import boto3
import botocore.loaders
import pytest
from botocore.config import Config
from on_loop import OnLoop
from wire_server import Answer, WireServer

from tracebaton.queue.fastpath import FastPath

LOADER = botocore.loaders.create_loader()
#: Makes a client of an endpoint, with or without the fast path.
Clients = Callable[..., Any]


@pytest.fixture(params=["thread", "loop"])
def clients(request: pytest.FixtureRequest) -> Iterator[Clients]:
    """Clients that are closed at the end of the test; hot calls in a thread, or on a loop."""
    with ExitStack() as stack:

        def of(
            url: str, *, fast: bool = True, now: Callable[[], float] = time.time, **options: Any
        ) -> Any:
            config = Config(
                connect_timeout=options.pop("connect_timeout", 3),
                read_timeout=options.pop("read_timeout", 5),
                retries=options.pop("retries", {"mode": "standard", "total_max_attempts": 1}),
                **options.pop("config", {}),
            )
            given = {"region_name": "eu-west-1", "endpoint_url": url, "config": config}
            session = options.pop("session", None) or boto3.session.Session("AKID", "secret")
            # One loader for all: the service's model is read once.
            session._session.register_component("data_loader", LOADER)
            client = session.client("sqs", **given, **options)
            if not fast:
                stack.callback(client.close)
                return client
            path = FastPath.install(client, now=now)
            assert path is not None
            if request.param == "loop":
                client = OnLoop(client, path)
            else:
                stack.callback(path.close)
            stack.callback(client.close)
            return client

        yield of


@pytest.fixture
def servers() -> Iterator[Callable[..., WireServer]]:
    """Servers that are stopped at the end of the test."""
    with ExitStack() as stack:

        def of(answer: Answer, **options: Any) -> WireServer:
            return stack.enter_context(WireServer(answer, **options))

        yield of

"""One setting chooses which way the calls go."""

from collections.abc import Callable

import pytest
from wire_server import Request, WireServer, ok

from tracebaton.runtime import Runtime
from tracebaton.settings import Settings
from tracebaton.tasks import Registry


@pytest.mark.parametrize(("value", "fast"), [("", True), ("1", True), ("false", False)])
async def test_the_setting_chooses(
    servers: Callable[..., WireServer], value: str, fast: bool
) -> None:
    """The fast path by default; boto3 alone where it is turned off."""

    def answer(request: Request) -> bytes:
        return ok({"MessageId": "m"})

    server = servers(answer)
    variables = {
        "TRACEBATON_QUEUE_URL": f"{server.url}/000000000000/tasks",
        "TRACEBATON_STORE": "none",
        "TRACEBATON_FAST_SQS": value,
    }
    runtime = Runtime(Settings.load(variables), role="worker", registry=Registry())
    await runtime.sqs.send(await runtime.queue.url(), "body", attributes={})
    await runtime.close()

    assert ["accept-encoding" not in one.headers for one in server.requests] == [fast]

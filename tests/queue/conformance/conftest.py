"""The brokers of the conformance suite."""

import os
import shutil
import socket
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from elasticmq_differences import ELASTICMQ
from on_loop import OnLoop

from tracebaton.local import LocalSqs, ManualClock
from tracebaton.queue.fastpath import FastPath

ROOT = Path(__file__).parents[3]
JARS = ROOT / ".tools" / "elasticmq" / "lib"


CONFIGURATION = """
include classpath("application.conf")
node-address {{ protocol = http, host = "127.0.0.1", port = {port}, context-path = "" }}
rest-sqs {{ enabled = true, bind-port = {port}, bind-hostname = "127.0.0.1", sqs-limits = strict }}
rest-stats {{ enabled = false }}
generate-node-address = false
queues-storage {{ enabled = false }}
messages-storage {{ enabled = false }}
"""


class Sqs:
    """One broker, spoken to by boto3 as by any client."""

    def __init__(
        self,
        name: str,
        endpoint: str,
        advance: Callable[[float], None] | None,
        *,
        fast: bool = False,
    ) -> None:
        self.name = name
        self.endpoint = endpoint
        self._advance = advance
        self.client: Any = boto3.client(
            "sqs",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="local",
            aws_secret_access_key="local",
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=3, read_timeout=30),
        )
        if fast:
            path = FastPath.install(self.client)
            assert path is not None
            self.client = OnLoop(self.client, path)

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def create(self, attributes: Mapping[str, str] | None = None) -> str:
        """Make a queue of a fresh name."""
        name = f"q-{uuid.uuid4().hex[:12]}"
        return self.client.create_queue(QueueName=name, Attributes=attributes or {})["QueueUrl"]

    def create_fifo(self, attributes: Mapping[str, str] | None = None) -> str:
        """Make a FIFO queue of a fresh name."""
        name = f"q-{uuid.uuid4().hex[:12]}.fifo"
        given = {"FifoQueue": "true", **(attributes or {})}
        return self.client.create_queue(QueueName=name, Attributes=given)["QueueUrl"]

    def arn(self, url: str) -> str:
        """Return the ARN of a queue."""
        return self.attributes(url, "QueueArn")["QueueArn"]

    def attributes(self, url: str, *names: str) -> dict[str, str]:
        """Return attributes of a queue."""
        answer = self.client.get_queue_attributes(QueueUrl=url, AttributeNames=list(names))
        return answer.get("Attributes", {})

    def send(self, url: str, body: str = "body", **more: Any) -> dict[str, Any]:
        """Send one message."""
        return self.client.send_message(QueueUrl=url, MessageBody=body, **more)

    def receive(self, url: str, **more: Any) -> list[dict[str, Any]]:
        """Receive up to ten messages with all they carry."""
        request = {
            "MaxNumberOfMessages": 10,
            "MessageAttributeNames": ["All"],
            "MessageSystemAttributeNames": ["All"],
            **more,
        }
        return self.client.receive_message(QueueUrl=url, **request).get("Messages", [])

    def receive_after(self, seconds: int, url: str, **more: Any) -> list[dict[str, Any]]:
        """
        Receive once *seconds* have passed.

        Our clock is moved; on a broker with its own clock a long poll waits for the message.
        """
        if self._advance is not None:
            self._advance(seconds)
            return self.receive(url, **more)
        return self.receive(url, WaitTimeSeconds=seconds + 2, **more)

    def delete(self, url: str, message: Mapping[str, Any]) -> None:
        """Delete a received message."""
        self.client.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])

    def hide(self, url: str, message: Mapping[str, Any], seconds: int) -> None:
        """Change the visibility timeout of a received message."""
        self.client.change_message_visibility(
            QueueUrl=url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=seconds
        )

    def refusal(self, call: Callable[[], object]) -> str:
        """Return boto3's exception class for the refusal, or the code where it has no class."""
        with pytest.raises(ClientError) as refused:
            call()
        name = type(refused.value).__name__
        return name if name != "ClientError" else refused.value.response["Error"]["Code"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the suite, and what ElasticMQ is known to answer differently."""
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        item.add_marker(pytest.mark.conformance)
        name, _, case = item.name.rstrip("]").partition("[")
        broker, _, case = case.partition("-")
        known = ELASTICMQ.get(name) or ELASTICMQ.get(f"{name}[{case}]")
        if broker.startswith("elasticmq") and known is not None:
            reason = f"AWS: {known.aws}; ElasticMQ: {known.elasticmq}"
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True, run=not known.hangs))


@pytest.fixture(scope="session", params=["local", "local fast", "elasticmq", "elasticmq fast"])
def sqs(request: pytest.FixtureRequest) -> Iterator[Sqs]:
    """Each broker in turn, by stock boto3 and by our fast path on a loop."""
    name, _, fast = request.param.partition(" ")
    start = {"local": local, "elasticmq": elasticmq}[name]
    with start(fast=bool(fast)) as broker:
        yield broker
        broker.close()


@contextmanager
def local(*, fast: bool = False) -> Iterator[Sqs]:
    """Run ours on a clock that the tests move."""
    with LocalSqs.in_thread(clock=ManualClock()) as running:
        yield Sqs("local", running.url, running.advance, fast=fast)


@contextmanager
def elasticmq(*, fast: bool = False) -> Iterator[Sqs]:
    """Run ElasticMQ on Java."""
    java = shutil.which("java")
    if java is None or not JARS.is_dir():
        missing = "ElasticMQ needs java and its jars: run scripts/elasticmq"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    home = JARS.parent
    configuration = home / f"test-{port}.conf"
    configuration.write_text(CONFIGURATION.format(port=port))
    command = [java, "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    command += [f"-Dconfig.file={configuration}", "-cp", f"{JARS}/*", "org.elasticmq.server.Main"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        await_line(process, "started in")
        yield Sqs("elasticmq", f"http://127.0.0.1:{port}", None, fast=fast)
    finally:
        process.terminate()
        process.wait(timeout=20)
        configuration.unlink()


def await_line(process: "subprocess.Popen[str]", text: str) -> None:
    """Return once *process* has printed *text*; its later output is read and dropped."""
    found = threading.Event()
    lines: list[str] = []

    def read() -> None:
        assert process.stdout is not None
        with process.stdout as output:
            for line in output:
                lines.append(line)
                if text in line:
                    found.set()

    threading.Thread(target=read, daemon=True).start()
    assert found.wait(60), "".join(lines)

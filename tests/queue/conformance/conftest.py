"""The brokers of the conformance suite, and where ElasticMQ is known to differ from AWS."""

import os
import shutil
import socket
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tracebaton.local import LocalSqs, ManualClock

ROOT = Path(__file__).parents[3]
JARS = ROOT / ".tools" / "elasticmq" / "lib"


@dataclass(frozen=True, slots=True)
class Difference:
    """What AWS documents, and what ElasticMQ does instead."""

    aws: str
    elasticmq: str
    hangs: bool = False


_PARAMETER = "InvalidParameterValue"
_NAMED = "InvalidAttributeValue, which AWS uses for queue attributes only"

#: Test, or test and case -> where ElasticMQ 1.7.1 differs. The tests assert what AWS does and are
#: strict: an ElasticMQ that comes to agree fails the run until its line is taken out.
ELASTICMQ: Mapping[str, Difference] = {
    # Messages
    "test_attribute_filters[Hel.*-Hello,Help.Me]": Difference("prefix.* selects", "nothing"),
    "test_attribute_filters[Help.*-Help.Me]": Difference("prefix.* selects", "nothing"),
    "test_digest_of_system_attributes": Difference("MD5OfMessageSystemAttributes", "none"),
    "test_other_system_attributes_are_refused": Difference(_PARAMETER, "taken"),
    "test_eleven_attributes_are_refused": Difference(_PARAMETER, _NAMED),
    "test_bad_attributes_are_refused[no number]": Difference(_PARAMETER, _NAMED),
    "test_bad_attributes_are_refused[no value]": Difference(_PARAMETER, "MissingParameter"),
    "test_bad_attributes_are_refused[control character]": Difference(_PARAMETER, _NAMED),
    "test_bad_attribute_names_are_refused": Difference(_PARAMETER, "taken"),
    "test_empty_string_attribute_is_refused": Difference(_PARAMETER, _NAMED),
    "test_control_characters_are_refused": Difference("InvalidMessageContents", _NAMED),
    "test_empty_body_is_refused": Difference("MissingParameter", _NAMED),
    "test_more_than_one_mebibyte_is_refused": Difference(_PARAMETER, _NAMED),
    "test_size_counts_attribute_names_types_and_values": Difference(
        "attributes count toward the size", "only the body counts"
    ),
    "test_maximum_message_size_of_the_queue_counts": Difference(
        "the queue's MaximumMessageSize limits", "has no such attribute"
    ),
    "test_receive_parameters_out_of_range_are_refused": Difference(_PARAMETER, _NAMED),
    # Batches
    "test_one_bad_message_fails_alone": Difference("Failed entry", "fails the whole call"),
    "test_one_bad_character_fails_alone": Difference("InvalidMessageContents", _NAMED),
    "test_one_message_too_large_for_the_queue_fails_alone": Difference(
        "the queue's MaximumMessageSize limits", "has no such attribute"
    ),
    "test_malformed_batch_is_refused_whole[space in the id]": Difference(
        "InvalidBatchEntryId", "taken"
    ),
    "test_malformed_batch_is_refused_whole[long id]": Difference("InvalidBatchEntryId", "taken"),
    "test_empty_batch_is_refused": Difference("EmptyBatchRequest", "an empty answer"),
    "test_batch_of_more_than_one_mebibyte_is_refused_whole": Difference(
        "BatchRequestTooLong", _NAMED
    ),
    # Queues
    "test_defaults_of_a_new_queue": Difference(
        "MaximumMessageSize, MessageRetentionPeriod, SqsManagedSseEnabled", "lacks the three"
    ),
    "test_error_codes_in_the_older_spelling": Difference(
        "x-amzn-query-error with the query protocol's code", "no such header"
    ),
    "test_bad_queue_names_are_refused": Difference(_PARAMETER, "InvalidAttributeName"),
    "test_attribute_values_out_of_range_are_refused[VisibilityTimeout-43201]": Difference(
        "0 to 43,200", "taken"
    ),
    "test_attribute_values_out_of_range_are_refused[DelaySeconds-901]": Difference(
        "0 to 900", "taken"
    ),
    "test_attribute_values_out_of_range_are_refused[MessageRetentionPeriod-59]": Difference(
        "60 to 1,209,600", "taken"
    ),
    "test_attribute_values_out_of_range_are_refused[MaximumMessageSize-1048577]": Difference(
        "1,024 to 1,048,576", "taken"
    ),
    "test_attribute_values_out_of_range_are_refused[VisibilityTimeout-soon]": Difference(
        "InvalidAttributeValue", _PARAMETER
    ),
    "test_unknown_attribute_is_refused": Difference("InvalidAttributeName", "taken"),
    "test_list_of_no_queues": Difference("no QueueUrls", "an empty list"),
    "test_queues_are_listed_in_pages": Difference("MaxResults limits a page", "one page"),
    "test_second_purge_within_a_minute_is_refused": Difference("PurgeQueueInProgress", "purges"),
    "test_name_of_a_deleted_queue_is_blocked_for_a_minute": Difference(
        "QueueDeletedRecently", "makes the queue"
    ),
    "test_no_tags": Difference("no Tags", "an empty map"),
    "test_redrive_policy_needs_a_queue_that_exists": Difference(_PARAMETER, "QueueDoesNotExist"),
    "test_max_receive_count_out_of_range_is_refused": Difference(_PARAMETER, _NAMED),
    # Dead letter queues and move tasks
    "test_empty_redrive_policy_ends_it": Difference("takes the policy off", "refused"),
    "test_moved_message_starts_anew": Difference("a new MessageId", "the old one"),
    "test_handle_of_a_move_task_is_shown_while_it_runs": Difference(
        "TaskHandle only while RUNNING", "always"
    ),
    "test_running_move_task_can_be_cancelled": Difference(
        "listed as CANCELLED", "forgotten once it is cancelled"
    ),
    "test_second_move_task_of_a_source_is_refused": Difference(_PARAMETER, "UnsupportedOperation"),
    "test_move_task_needs_a_dlq": Difference(_PARAMETER, "503 after 20 s", hangs=True),
    "test_move_task_of_an_unknown_queue_is_refused": Difference(
        "ResourceNotFoundException", "QueueDoesNotExist"
    ),
    "test_unknown_task_handle_is_refused": Difference(_PARAMETER, "ResourceNotFoundException"),
    # Visibility
    "test_visibility_out_of_range_is_refused": Difference("0 to 43,200", "taken"),
    "test_second_delete_succeeds": Difference("succeeds", "ReceiptHandleIsInvalid"),
    "test_visibility_of_a_deleted_message_is_refused": Difference(
        _PARAMETER, "ReceiptHandleIsInvalid"
    ),
    "test_visibility_of_a_visible_message_is_refused": Difference(
        "MessageNotInflight", "hides it again"
    ),
    "test_twelve_hours_count_from_the_receive": Difference(
        "43,200 s in all from the receive", "each change may ask for 12 h anew"
    ),
    "test_poller_that_left_swallows_nothing": Difference(
        "a message stays until a consumer gets it", "hands it to the closed connection"
    ),
}

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

    def __init__(self, name: str, endpoint: str, advance: Callable[[float], None] | None) -> None:
        self.name = name
        self.endpoint = endpoint
        self._advance = advance
        self.client = boto3.client(
            "sqs",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="local",
            aws_secret_access_key="local",
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=3, read_timeout=30),
        )

    def create(self, attributes: Mapping[str, str] | None = None) -> str:
        """Make a queue of a fresh name."""
        name = f"q-{uuid.uuid4().hex[:12]}"
        return self.client.create_queue(QueueName=name, Attributes=attributes or {})["QueueUrl"]

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
        if broker == "elasticmq" and known is not None:
            reason = f"AWS: {known.aws}; ElasticMQ: {known.elasticmq}"
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True, run=not known.hangs))


@pytest.fixture(scope="session", params=["local", "elasticmq"])
def sqs(request: pytest.FixtureRequest) -> Iterator[Sqs]:
    """Each broker in turn."""
    start = {"local": local, "elasticmq": elasticmq}[request.param]
    with start() as broker:
        yield broker
        broker.client.close()


@contextmanager
def local() -> Iterator[Sqs]:
    """Run ours on a clock that the tests move."""
    with LocalSqs.in_thread(clock=ManualClock()) as running:
        yield Sqs("local", running.url, running.advance)


@contextmanager
def elasticmq() -> Iterator[Sqs]:
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
        yield Sqs("elasticmq", f"http://127.0.0.1:{port}", None)
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

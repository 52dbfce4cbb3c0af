"""What the acceptance tests' processes stand on: a queue with its DLQ on a real loopback SQS."""

import json
from dataclasses import dataclass
from pathlib import Path

from tracebaton.local import LocalSqsThread


@dataclass
class Broker:
    """The SQS of one test and what a process needs to know of it."""

    sqs: LocalSqsThread
    folder: Path

    @property
    def env(self) -> dict[str, str]:
        """Settings that an API and a worker share."""
        return {
            "AWS_ENDPOINT_URL_SQS": self.sqs.url,
            "TRACEBATON_QUEUE_URL": self.sqs.queue_url("tasks"),
            "TRACEBATON_STORE": f"sqlite:///{self.folder / 'tasks.db'}",
            "TRACEBATON_MAX_ATTEMPTS": "2",
            "TRACEBATON_RETRY_BASE_SECONDS": "0.01",
            "TRACEBATON_RETRY_CAP_SECONDS": "0.01",
        }


def create_queues(sqs: LocalSqsThread) -> None:
    """Make the queue and its DLQ."""
    sqs.create_queue("tasks-dlq")
    target = "arn:aws:sqs:us-east-1:000000000000:tasks-dlq"
    policy = {"deadLetterTargetArn": target, "maxReceiveCount": "2"}
    sqs.create_queue("tasks", {"RedrivePolicy": json.dumps(policy)})

"""sqs-workers, which receives and deletes ten at a time."""

import os
import sys

import boto3
from ledger import TEXT, Ledger, numbers
from sqs_workers import SQSEnv

_endpoint = {"endpoint_url": os.environ["BENCH_ENDPOINT"]}
env = SQSEnv(
    sqs_client=boto3.client("sqs", **_endpoint), sqs_resource=boto3.resource("sqs", **_endpoint)
)
queue = env.queue("bench", queue_url=os.environ["BENCH_QUEUE"])
ledger = Ledger()


@queue.processor("work")
def work(number: int, text: str) -> None:
    """Mark the message."""
    ledger.mark(number)


if __name__ == "__main__" and "entries" in sys.argv:
    from captured import capture

    capture(env.sqs_client)
    capture(env.sqs_resource.meta.client)
    for number in numbers():
        queue.add_job("work", number=number, text=TEXT)
elif __name__ == "__main__":
    queue.process_queue(wait_second=20)

"""
The loop that people write by hand: receive ten, handle them, delete ten, with stock boto3.

``python by_hand.py entries`` prints messages, without an argument it works.
"""

import json
import os
import sys

import boto3
from ledger import TEXT, Ledger, numbers


def entries() -> None:
    """Print the run's messages."""
    for number in numbers():
        print(json.dumps({"MessageBody": json.dumps({"number": number, "text": TEXT})}))


def work() -> None:
    """Work until SIGTERM ends the process."""
    sqs = boto3.client("sqs", endpoint_url=os.environ["BENCH_ENDPOINT"])
    url, ledger = os.environ["BENCH_QUEUE"], Ledger()
    while True:
        answer = sqs.receive_message(
            QueueUrl=url,
            MaxNumberOfMessages=10,
            WaitTimeSeconds=20,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["All"],
        )
        done = []
        for message in answer.get("Messages", []):
            ledger.mark(json.loads(message["Body"])["number"])
            done.append({"Id": str(len(done)), "ReceiptHandle": message["ReceiptHandle"]})
        if done:
            sqs.delete_message_batch(QueueUrl=url, Entries=done)


if __name__ == "__main__":
    entries() if "entries" in sys.argv else work()

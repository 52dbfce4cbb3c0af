"""dramatiq with dramatiq_sqs; there is no OpenTelemetry instrumentation of it."""

import os
import sys

import dramatiq
from dramatiq_sqs import SQSBroker
from ledger import TEXT, Ledger, numbers

broker = SQSBroker(
    endpoint_url=os.environ["BENCH_ENDPOINT"], region_name="us-east-1", dead_letter=False
)
dramatiq.set_broker(broker)
ledger = Ledger()


@dramatiq.actor(queue_name="bench")
def work(number: int, text: str) -> None:
    """Mark the message."""
    ledger.mark(number)


if __name__ == "__main__" and "entries" in sys.argv:
    from captured import capture

    capture(broker.sqs.meta.client)
    for number in numbers():
        work.send(number, TEXT)

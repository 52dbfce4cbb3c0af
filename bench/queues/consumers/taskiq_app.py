"""taskiq with taskiq-aio-sqs, and taskiq's own instrumentation where the row is traced."""

import asyncio
import os
import sys

from ledger import TEXT, Ledger, numbers
from taskiq_aio_sqs import SQSBroker
from traced import provided

if provided():
    from taskiq.instrumentation import TaskiqInstrumentor

    TaskiqInstrumentor().instrument()
broker = SQSBroker(
    "bench",
    endpoint_url=os.environ["BENCH_ENDPOINT"],
    region_name="us-east-1",
    max_number_of_messages=10,
)
ledger = Ledger()


@broker.task(task_name="bench.work")
async def work(number: int, text: str) -> None:
    """Mark the message."""
    ledger.mark(number)


async def entries() -> None:
    """Print the run's messages."""
    from captured import capture

    await broker.startup()
    capture(broker._sqs_client)
    for number in numbers():
        await work.kiq(number, TEXT)
    await broker.shutdown()


if __name__ == "__main__" and "entries" in sys.argv:
    asyncio.run(entries())

"""
Our worker as people run it: ``tracebaton worker ours:app``; ``python ours.py`` prints messages.

``BENCH_HANDLER`` is ``async``, ``sync`` or ``sleep`` (10 ms, asynchronous).
"""

import asyncio
import json
import os
from pathlib import Path

from ledger import TEXT, Ledger, numbers
from opentelemetry.sdk.trace import TracerProvider
from pydantic import BaseModel

from tracebaton import Tracebaton
from tracebaton.propagation import Propagator
from tracebaton.queue.message import Outgoing, Sent, request_entry
from tracebaton.queue.producer import Item, Producer
from tracebaton.queue.sqs import Queue, Sqs, SqsAccess
from tracebaton.tasks import TaskStore
from tracebaton.tasks.sqlite import SqliteTaskStore

app = Tracebaton()
ledger = Ledger()
HANDLER = os.environ.get("BENCH_HANDLER", "async")


class Work(BaseModel):
    """What a message says."""

    number: int
    text: str


if HANDLER == "sync":

    @app.task("bench.work", model=Work)
    def mark(work: Work) -> None:
        """Mark the message."""
        ledger.mark(work.number)

else:

    @app.task("bench.work", model=Work)
    async def mark_async(work: Work) -> None:
        """Mark the message."""
        if HANDLER == "sleep":
            await asyncio.sleep(0.01)
        ledger.mark(work.number)


class Printing(Sqs):
    """Prints what it is to send."""

    async def send_batch(self, queue_url: str, messages: "list[Outgoing]") -> "list[Sent]":
        for message in messages:
            print(json.dumps(request_entry(message)))
        return [Sent(str(number)) for number in range(len(messages))]


async def main() -> None:
    """Print the run's messages, their tasks saved where there is a store."""
    endpoint, url = os.environ["BENCH_ENDPOINT"], os.environ["BENCH_QUEUE"]
    sqs = Printing(SqsAccess(endpoint=endpoint, region="us-east-1"))
    chosen = os.environ.get("TRACEBATON_STORE", "none")
    store: TaskStore | None = (
        None if chosen == "none" else SqliteTaskStore(Path(chosen.removeprefix("sqlite:///")))
    )
    traced = TracerProvider().get_tracer("bench")
    producer = Producer(
        *(sqs, Queue(sqs, url=url)),
        registry=app.registry,
        store=store,
        tracer=traced,
        propagator=Propagator(),
        source="/bench",
    )
    for start in range(0, len(numbers()), 1000):
        some = numbers()[start : start + 1000]
        items = [Item("bench.work", {"number": number, "text": TEXT}) for number in some]
        await producer.enqueue_many(items)
    await producer.outbox.flush()
    if store is not None:
        await store.close()


if __name__ == "__main__":
    asyncio.run(main())

"""celery, tuned: with its defaults it does 7 messages a second (it looks again once a second)."""

import os
import sys
from urllib.parse import urlsplit

from celery import Celery
from celery.signals import worker_process_init
from ledger import TEXT, Ledger, numbers
from traced import provided

_url = urlsplit(os.environ["BENCH_ENDPOINT"])
app = Celery("bench", broker=f"sqs://bench:bench@{_url.netloc}//")
app.conf.update(
    task_default_queue="bench",
    task_ignore_result=True,
    task_acks_late=True,
    worker_prefetch_multiplier=0,
    worker_enable_remote_control=False,
    broker_transport_options={
        "is_secure": False,
        "region": "us-east-1",
        "polling_interval": 0,
        "wait_time_seconds": 20,
        "visibility_timeout": 60,
        "predefined_queues": {"bench": {"url": os.environ["BENCH_QUEUE"]}},
    },
)
ledger = Ledger()


@worker_process_init.connect(weak=False)
def _start(**_: object) -> None:
    if provided():
        from opentelemetry.instrumentation.celery import CeleryInstrumentor

        CeleryInstrumentor().instrument()


@app.task(name="bench.work")
def work(number: int, text: str) -> None:
    """Mark the message."""
    ledger.mark(number)


if __name__ == "__main__" and "entries" in sys.argv:
    from captured import capture

    with app.connection_for_write() as connection:
        capture(connection.default_channel.sqs("bench"))
        for number in numbers():
            work.apply_async((number, TEXT), connection=connection)

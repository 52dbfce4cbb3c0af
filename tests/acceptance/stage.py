"""What the acceptance tests' processes stand on: a queue with its DLQ on a real loopback SQS."""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentelemetry.trace import NoOpTracer
from sqs_client import sqs_client

from tracebaton.local import LocalSqsThread
from tracebaton.propagation import Propagator
from tracebaton.queue.producer import Producer
from tracebaton.queue.sqs import Queue
from tracebaton.tasks import ENDED, Registry, Task
from tracebaton.tasks.sqlite import SqliteTaskStore


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

    def enqueue(
        self, registry: Registry, kind: str, data: Mapping[str, Any], *, queue: str = "tasks"
    ) -> str:
        """Enqueue a task as an API of *registry* would, and return its id."""
        return asyncio.run(self._enqueue(registry, kind, data, queue))

    async def _enqueue(
        self, registry: Registry, kind: str, data: Mapping[str, Any], queue: str
    ) -> str:
        store = SqliteTaskStore(self.folder / "tasks.db")
        sqs = sqs_client(self.sqs.url)
        producer = Producer(
            sqs,
            Queue(sqs, url=self.sqs.queue_url(queue)),
            registry=registry,
            store=store,
            tracer=NoOpTracer(),
            propagator=Propagator(),
            source="/test",
        )
        try:
            return (await producer.enqueue(kind, data)).id
        finally:
            await producer.outbox.flush()  # else a worker's sweep takes it for one that was lost
            await sqs.close()
            await store.close()

    def ended(self, task_id: str, *, seconds: float = 30) -> Task:
        """Wait until the task has ended and return it."""
        return asyncio.run(self._ended(task_id, time.monotonic() + seconds))

    async def _ended(self, task_id: str, deadline: float) -> Task:
        store = SqliteTaskStore(self.folder / "tasks.db")
        try:
            while (task := await store.get(task_id)) is None or task.status not in ENDED:
                assert time.monotonic() < deadline, task
                await asyncio.sleep(0.05)
            return task
        finally:
            await store.close()


def create_queues(sqs: LocalSqsThread) -> None:
    """Make the queue and its DLQ."""
    sqs.create_queue("tasks-dlq")
    target = "arn:aws:sqs:us-east-1:000000000000:tasks-dlq"
    policy = {"deadLetterTargetArn": target, "maxReceiveCount": "2"}
    sqs.create_queue("tasks", {"RedrivePolicy": json.dumps(policy)})

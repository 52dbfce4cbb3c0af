"""
Chaos: an application's own workers, as real processes, while everything around them fails.

A run brings an SQS on loopback, a fault proxy in front of it, a task store, a Sentry intake and
worker processes. In the storm tasks are sent, calls go wrong, messages arrive twice and out of
order, leases are lost, the store is away and workers are killed. Then it is calm, and everything
has to end: the `Verdict` says what did not.
"""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tracebaton.children import Out
from tracebaton.local import LocalSqs
from tracebaton.processes import load_app
from tracebaton.queue.sqs import Queue, Sqs, SqsAccess
from tracebaton.settings import child_environment
from tracebaton.tasks import Task
from tracebaton.tasks.sqlite import SqliteTaskStore
from tracebaton.testing.intake import ErrorIntake
from tracebaton.testing.journal import Journal
from tracebaton.testing.judge import Judge, Verdict
from tracebaton.testing.outages import StoreOutages
from tracebaton.testing.proxy import FaultProxy
from tracebaton.testing.sending import Sender
from tracebaton.testing.storm import Plan
from tracebaton.testing.workers import Workers

__all__ = ["Chaos"]

QUEUE, DLQ, QUARANTINE = "tasks", "tasks-dlq", "tasks-quarantine"
#: Seconds between two looks at what the queue holds.
_LOOK = 0.25

#: What would send a run's messages and spans to the caller's own queue and backends.
_ELSEWHERE = (
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_SDK_DISABLED",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "TRACEBATON_MESSAGE_KEY",
    "TRACEBATON_QUEUE_NAME",
    "TRACEBATON_VIEWER_URL",
)

Check = Callable[[Sequence[Task]], object]


@dataclass(slots=True)
class Progress:
    """How far a run is."""

    sent: int = 0
    ended: int = 0
    kills: int = 0
    storm: bool = True


class Chaos:
    """One run of *plan* on the application at *target*, ``module:attribute``."""

    def __init__(
        self,
        target: str,
        plan: Plan,
        *,
        folder: Path,
        tell: Callable[[Progress], None] = lambda progress: None,
        check: Check | None = None,
    ) -> None:
        """
        Set what runs where.

        Args:
            folder: Where the store, the journal and the workers' lines are kept.
            tell: Called as the run goes on.
            check: Gets every task at the end; an ``AssertionError`` of its is a finding. Only it
                can see what handlers did elsewhere.
        """
        self._check = check
        self.progress: Progress = Progress()
        self.journal: Journal = Journal(folder / "journal.jsonl")
        self._target = target
        self._plan = plan
        self._folder = folder
        self._tell = tell
        self._random = random.Random(plan.seed)
        self._struck: Counter[str] = Counter()
        self._suffix = ".fifo" if plan.groups else ""
        self._store = SqliteTaskStore(folder / "tasks.db")
        self._outages = StoreOutages(
            folder / "tasks.db",
            mean_seconds=plan.outage_seconds or 0.0,
            random=random.Random(plan.seed),
        )

    async def run(self) -> Verdict:
        """
        Send, break, kill, calm down, wait, and judge.

        Raises:
            TracebatonError: The workers could not be started.
        """
        began = time.monotonic()
        with (self._folder / "workers.jsonl").open("ab") as lines:
            async with (
                LocalSqs() as sqs,
                FaultProxy(sqs.url, seed=self._plan.seed) as proxy,
                ErrorIntake() as intake,
            ):
                self._create_queues(sqs)
                self._sender = self._sends_to(proxy)
                self._workers = Workers(
                    self._plan,
                    self._arguments(),
                    environment=self._environment(proxy, intake),
                    out=Out(lines),
                )
                try:
                    await self._workers.start()
                    await self._storm(proxy)
                    await self._calm(proxy)
                    await self._workers.stop()
                    return await self._judged(sqs, proxy, intake, time.monotonic() - began)
                finally:
                    await self._workers.end()
                    await self._store.close()

    async def _storm(self, proxy: FaultProxy) -> None:
        for fault in self._plan.seeded():
            proxy.faults.add(fault)
        over = time.monotonic() + self._plan.storm_seconds
        troubles = [asyncio.create_task(self._kill())]
        if self._plan.outage_seconds is not None:
            troubles.append(asyncio.create_task(self._outages.run()))
        try:
            await self._sender.send(self._plan.items)
            with suppress(TimeoutError):  # what is left ends in the calm
                async with asyncio.timeout(max(0.0, over - time.monotonic())):
                    await self._sender.all_ended()
        finally:
            for trouble in troubles:
                trouble.cancel()

    async def _calm(self, proxy: FaultProxy) -> None:
        for fault in proxy.faults.list():
            self._struck[fault["effect"]] += fault["injected"]
        proxy.faults.clear()
        self.progress.storm = False
        with suppress(TimeoutError):  # the judge says what is left
            async with asyncio.timeout(self._plan.patience):
                await self._sender.all_ended()
                await self._sender.send(self._plan.finale)
                await self._sender.all_ended()
                await _idle(proxy, proxy.queue_url(self._named(QUEUE)))

    def _sends_to(self, proxy: FaultProxy) -> Sender:
        def tell(sender: Sender) -> None:
            self.progress.sent, self.progress.ended = len(sender.tasks), sender.ended
            self._tell(self.progress)

        return Sender(
            self._store,
            load_app(self._target).registry,
            endpoint=proxy.url,
            queue_url=proxy.queue_url(self._named(QUEUE)),
            groups=self._plan.groups,
            tell=tell,
        )

    async def _kill(self) -> None:
        seconds = self._plan.kill_seconds
        while seconds is not None:
            await asyncio.sleep(self._random.expovariate(1 / seconds))
            self.progress.kills += self._workers.kill_one(self._random)

    async def _judged(
        self, sqs: LocalSqs, proxy: FaultProxy, intake: ErrorIntake, seconds: float
    ) -> Verdict:
        access = Sqs(SqsAccess(endpoint=sqs.url, region="us-east-1", anonymous=True))
        judge = Judge(self._store, self.journal)
        try:
            await judge.tasks(self._sender.tasks)
            judge.listen(self._check)
            judge.order(self._sender.groups)
            judge.reports(intake.heard, killed_at=self._workers.ended_at)
            await judge.dead(access, Queue(access, url=sqs.queue_url(self._named(DLQ))))
        finally:
            await access.close()
        judge.queues(sqs.stats(), queue=self._named(QUEUE), quarantine=self._named(QUARANTINE))
        judge.processes(self._workers.codes, self._workers.files)
        return judge.verdict(
            {
                "seconds": round(seconds, 1),
                "kills": self.progress.kills,
                "store outages": self._outages.count,
                "processes": self._workers.started,
                "calls": sum(proxy.calls.values()),
                "faults": dict(self._struck),
            }
        )

    def _named(self, queue: str) -> str:
        return queue + self._suffix

    def _environment(self, proxy: FaultProxy, intake: ErrorIntake) -> Mapping[str, str]:
        """Return the settings of the workers: nothing of the caller's own surroundings."""
        plan = self._plan
        environment = child_environment(
            dict.fromkeys(_ELSEWHERE, "")
            | {
                "AWS_ENDPOINT_URL_SQS": proxy.url,
                "SENTRY_DSN": intake.dsn,
                "SENTRY_TRACES_SAMPLE_RATE": "0",
                "TRACEBATON_QUEUE_URL": proxy.queue_url(self._named(QUEUE)),
                "TRACEBATON_DLQ_URL": proxy.queue_url(self._named(DLQ)),
                "TRACEBATON_QUARANTINE_URL": proxy.queue_url(self._named(QUARANTINE)),
                "TRACEBATON_DLQ_SECONDS": "2",
                "TRACEBATON_STORE": f"sqlite:///{self._folder / 'tasks.db'}",
                "TRACEBATON_DATA": str(self._folder),
                "TRACEBATON_CONCURRENCY": str(plan.concurrency),
                "TRACEBATON_VISIBILITY_SECONDS": str(plan.visibility_seconds),
                "TRACEBATON_MAX_ATTEMPTS": str(plan.attempts),
                "TRACEBATON_RETRY_BASE_SECONDS": "0.1",
                "TRACEBATON_RETRY_CAP_SECONDS": "1",
                "TRACEBATON_STOP_WITH_STDIN": "1",
                "TRACEBATON_LOG_FORMAT": "json",
            }
        )
        # Not only empty: to boto3 an empty AWS_PROFILE is one that it cannot find.
        return {name: value for name, value in environment.items() if value}

    def _arguments(self) -> list[str]:
        """Return the command line of a worker."""
        plan, journal = self._plan, self._folder / "journal.jsonl"
        return [self._target, "--journal", str(journal), "--lose", str(plan.lose)]

    def _create_queues(self, sqs: LocalSqs) -> None:
        fifo = {"FifoQueue": "true"} if self._plan.groups else {}
        sqs.create_queue(self._named(DLQ), fifo)
        sqs.create_queue(self._named(QUARANTINE), fifo)
        target = f"arn:aws:sqs:us-east-1:000000000000:{self._named(DLQ)}"
        policy = {"deadLetterTargetArn": target, "maxReceiveCount": str(self._plan.attempts)}
        sqs.create_queue(self._named(QUEUE), fifo | {"RedrivePolicy": json.dumps(policy)})


async def _idle(proxy: FaultProxy, queue_url: str) -> None:
    """Wait until the queue is empty: what ended may still have to be deleted."""
    sqs = Sqs(SqsAccess(endpoint=proxy.url, region="us-east-1", anonymous=True))
    try:
        queue = Queue(sqs, url=queue_url)
        while await _holds(queue):  # noqa: ASYNC110  # SQS has no event to wait for
            await asyncio.sleep(_LOOK)
    finally:
        await sqs.close()


async def _holds(queue: Queue) -> int:
    attributes = await queue.attributes()
    names = ("", "NotVisible", "Delayed")
    return sum(int(attributes.get(f"ApproximateNumberOfMessages{name}", 0)) for name in names)

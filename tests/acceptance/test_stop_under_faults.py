"""A worker that is told to stop while SQS does not answer."""

import asyncio
import time
from pathlib import Path

import pytest
from command import running
from stage import create_queues

from tracebaton.local import LocalSqs
from tracebaton.testing import Fault, FaultProxy

pytestmark = pytest.mark.acceptance

HERE = Path(__file__).parent


async def test_a_call_that_hangs_does_not_hold_up_the_exit(tmp_path: Path) -> None:
    """An idle worker leaves long before boto3 gives the call up, twice ten seconds later."""
    with LocalSqs.in_thread() as sqs:
        create_queues(sqs)
        async with FaultProxy(sqs.url) as proxy:
            env = {
                "AWS_ENDPOINT_URL_SQS": proxy.url,
                "TRACEBATON_QUEUE_URL": proxy.queue_url("tasks"),
                "TRACEBATON_DLQ_URL": proxy.queue_url("tasks-dlq"),
                "TRACEBATON_DLQ_SECONDS": "0.1",
                "TRACEBATON_STORE": f"sqlite:///{tmp_path / 'tasks.db'}",
                "TRACEBATON_MAX_ATTEMPTS": "2",
            }
            with running("worker", "shop:app", env=env, cwd=HERE) as worker:
                await asyncio.to_thread(worker.ready)
                proxy.faults.add(Fault(effect="black_hole", action="GetQueueAttributes"))
                while not proxy.faults.list()[0]["injected"]:
                    await asyncio.sleep(0.02)
                began = time.monotonic()
                code = await asyncio.to_thread(worker.stop)
                seconds = time.monotonic() - began

    assert code == 0
    assert seconds < 15

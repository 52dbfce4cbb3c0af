"""The line that says a worker is up, and what its health page says then."""

from pathlib import Path

import httpx
import pytest
from command import running
from stage import create_queues

from tracebaton.local import Fault, LocalSqs

pytestmark = pytest.mark.acceptance

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Fault(effect="delay", action="ReceiveMessage", seconds=0.5), 200),
        (Fault(effect="black_hole", action="ReceiveMessage"), 503),
    ],
)
def test_a_worker_that_says_it_is_up_is_ready(tmp_path: Path, fault: Fault, status: int) -> None:
    """The first receive is answered by then, unless SQS leaves it without an answer."""
    with LocalSqs.in_thread() as sqs:
        create_queues(sqs)
        sqs.faults.add(fault)
        env = {
            "AWS_ENDPOINT_URL_SQS": sqs.url,
            "TRACEBATON_QUEUE_URL": sqs.queue_url("tasks"),
            "TRACEBATON_STORE": f"sqlite:///{tmp_path / 'tasks.db'}",
            "TRACEBATON_MAX_ATTEMPTS": "2",
        }
        with running("worker", "shop:app", env=env, cwd=HERE) as worker:
            found = httpx.get(f"{worker.ready()['health']}/readyz").status_code
            code = worker.stop()

    assert (found, code) == (status, 0)

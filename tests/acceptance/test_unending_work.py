"""Handlers that do not end when their worker is told to."""

from pathlib import Path

import pytest
import unending
from command import running
from stage import Broker

pytestmark = pytest.mark.acceptance

HERE = Path(__file__).parent


@pytest.mark.parametrize("kind", ["deaf", "hung"])
def test_a_worker_ends_without_its_handlers(broker: Broker, kind: str) -> None:
    """Its message is given back, everything else has left, and the exit code is 0."""
    env = broker.env | {"TRACEBATON_DRAIN_SECONDS": "1"}
    with running("worker", "unending:app", env=env, cwd=HERE) as worker:
        worker.ready()
        broker.enqueue(unending.app.registry, kind, {})
        worker.wait_for(lambda line: line["event"] == "task.started")
        code = worker.stop()

    (drained,) = [line for line in worker.events if line["event"] == "worker.drained"]
    assert (code, worker.errors) == (0, [])
    assert (drained["released"], drained["abandoned"]) == (1, 0)
    assert worker.events[-1]["event"] == "process.cut_short"
    assert broker.sqs.stats()["tasks"]["in_flight"] == 0

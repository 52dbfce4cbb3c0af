"""SIGTERM and SIGINT before a command is up, and once more when it has ended its work."""

import signal
from pathlib import Path

import pytest
from command import running
from stage import Broker

pytestmark = pytest.mark.acceptance

HERE = Path(__file__).parent


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("command", ["api", "worker"])
def test_a_signal_during_the_start(broker: Broker, command: str, number: int) -> None:
    """The application is still being imported: there is nothing to drain, and the code is 0."""
    env = broker.env | {"LINGERS": "start"}
    with running(command, "lingering:app", "--port", "0", env=env, cwd=HERE) as process:
        process.wait_for(lambda line: line["event"] == "lingering")
        process.process.send_signal(number)
        code = process.wait(seconds=5)

    assert (code, process.errors) == (0, [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_after_the_work(broker: Broker, number: int) -> None:
    """All is drained and the interpreter about to go: the second signal changes nothing."""
    env = broker.env | {"LINGERS": "end"}
    with running("worker", "lingering:app", env=env, cwd=HERE) as worker:
        worker.ready()
        worker.process.terminate()
        worker.wait_for(lambda line: line["event"] == "lingering")
        worker.process.send_signal(number)
        code = worker.wait()

    assert (code, worker.errors) == (0, [])

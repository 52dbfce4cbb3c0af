"""What stops, hangs or lies around the two processes, and what they do about it."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from command import ended, running
from stage import Broker, create_queues

from tracebaton.local import LocalSqs

pytestmark = pytest.mark.acceptance

HERE = Path(__file__).parent


@contextmanager
def black_hole() -> Iterator[str]:
    """A server that accepts every connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []
        server.settimeout(0.1)
        over = threading.Event()

        def accept() -> None:
            while not over.is_set():
                try:
                    held.append(server.accept()[0])
                except TimeoutError:
                    continue

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            over.set()
            thread.join()
            for connection in held:
                connection.close()


@pytest.fixture(params=["refused", "black hole"])
def dead_sinks(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """A Collector and a Sentry that are away, one way or the other."""
    with black_hole() as address:
        where = address if request.param == "black hole" else f"127.0.0.1:{closed_port()}"
        yield {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{where}",
            "SENTRY_DSN": f"http://public@{where}/1",
        }


def test_dead_sinks_change_no_answer_and_hold_up_no_stop(
    broker: Broker, dead_sinks: dict[str, str]
) -> None:
    """Requests and tasks work, SIGTERM ends both with 0 inside the deadline, losses are counted."""
    env = broker.env | dead_sinks
    with (
        running("api", "shop:app", "--port", "0", env=env, cwd=HERE) as api,
        running("worker", "shop:app", env=env, cwd=HERE) as worker,
    ):
        with httpx.Client(base_url=api.ready()["api"]) as http:
            task = ended(http, http.post("/orders/order", json={}).json()["task_id"])
            broken = http.post("/orders/broken", json={})
        begun = time.monotonic()
        codes = (api.stop(), worker.stop())
        seconds = time.monotonic() - begun

    [drained] = [line for line in worker.events if line["event"] == "worker.drained"]
    assert (task["status"], broken.status_code) == ("succeeded", 500)
    assert codes == (0, 0)
    assert seconds < 16
    assert drained["spans_dropped"] > 0
    assert api.errors == worker.errors == []


def test_sigterm_lets_the_worker_finish_what_it_holds(broker: Broker) -> None:
    """A running task ends as succeeded after the signal, and is deleted."""
    with (
        running("api", "shop:app", "--port", "0", env=broker.env, cwd=HERE) as api,
        running("worker", "shop:app", env=broker.env, cwd=HERE) as worker,
    ):
        with httpx.Client(base_url=api.ready()["api"]) as http:
            task_id = http.post("/orders/order", json={"seconds": 1.5}).json()["task_id"]
            worker.wait_for(lambda line: line["event"] == "task.started")
            code = worker.stop()
            task = http.get(f"/v1/tasks/{task_id}").json()
        api.stop()

    [drained] = [line for line in worker.events if line["event"] == "worker.drained"]
    assert (code, task["status"]) == (0, "succeeded")
    assert (drained["acked"], drained["released"], drained["abandoned"]) == (1, 0, 0)
    assert broker.sqs.stats()["tasks"]["deleted"] == 1


def test_a_thread_that_never_ends_does_not_hold_up_the_exit(broker: Broker) -> None:
    """A blocked sync handler is given back at the drain deadline, and the process leaves."""
    env = broker.env | {"TRACEBATON_DRAIN_SECONDS": "0.5"}
    with (
        running("api", "shop:app", "--port", "0", env=env, cwd=HERE) as api,
        running("worker", "shop:app", env=env, cwd=HERE) as worker,
    ):
        with httpx.Client(base_url=api.ready()["api"]) as http:
            http.post("/orders/slow", json={"seconds": 60})
        worker.wait_for(lambda line: line["event"] == "task.started")
        begun = time.monotonic()
        code = worker.stop()
        seconds = time.monotonic() - begun
        api.stop()

    assert code == 0
    assert seconds < 8
    assert broker.sqs.stats()["tasks"]["visible"] == 1


def test_a_queue_that_is_away_is_a_503_without_half_a_state(tmp_path: Path) -> None:
    """No broker: a clear problem, nothing saved; the broker comes: the same processes go on."""
    port = closed_port()
    url = f"http://127.0.0.1:{port}"
    env = {
        "AWS_ENDPOINT_URL_SQS": url,
        "TRACEBATON_QUEUE_URL": f"{url}/000000000000/tasks",
        "TRACEBATON_STORE": f"sqlite:///{tmp_path / 'tasks.db'}",
        "TRACEBATON_MAX_ATTEMPTS": "2",
    }
    with (
        running("api", "shop:app", "--port", "0", env=env, cwd=HERE) as api,
        running("worker", "shop:app", env=env, cwd=HERE) as worker,
        httpx.Client(base_url=api.ready()["api"], timeout=30) as http,
    ):
        refused = http.post("/orders/order", json={})
        unready = http.get("/readyz")
        worker.wait_for(lambda line: line["event"] == "queue.unavailable")
        with LocalSqs.in_thread(port=port) as sqs:
            create_queues(sqs)
            worker.ready()
            accepted = http.post("/orders/order", json={})
            task = ended(http, accepted.json()["task_id"])
            ready = http.get("/readyz")
            codes = (api.stop(), worker.stop())

    problem = refused.json()
    assert (refused.status_code, problem["code"], problem["retryable"]) == (
        503,
        "queue_unavailable",
        True,
    )
    assert "retry-after" in refused.headers
    assert (unready.status_code, ready.status_code) == (503, 200)
    assert (accepted.status_code, task["status"]) == (202, "succeeded")
    assert codes == (0, 0)


def test_a_wrong_redrive_policy_stops_the_worker_with_2(broker: Broker) -> None:
    """maxReceiveCount and TRACEBATON_MAX_ATTEMPTS have to agree."""
    env = broker.env | {"TRACEBATON_MAX_ATTEMPTS": "7"}
    with running("worker", "shop:app", env=env, cwd=HERE) as worker:
        code = worker.wait()

    assert code == 2
    assert len(worker.errors) == 1
    assert "TRACEBATON_MAX_ATTEMPTS" in worker.errors[0]


def test_a_second_signal_gives_back_at_once(broker: Broker) -> None:
    """Two SIGTERMs: the held message is visible again long before the drain time."""
    with (
        running("api", "shop:app", "--port", "0", env=broker.env, cwd=HERE) as api,
        running("worker", "shop:app", env=broker.env, cwd=HERE) as worker,
    ):
        with httpx.Client(base_url=api.ready()["api"]) as http:
            http.post("/orders/order", json={"seconds": 60})
        worker.wait_for(lambda line: line["event"] == "task.started")
        health = worker.ready()["health"]
        worker.process.terminate()
        while httpx.get(f"{health}/readyz").status_code != 503:  # two signals at once are one
            time.sleep(0.01)
        worker.process.terminate()
        code = worker.wait(seconds=15)
        api.stop()

    [drained] = [line for line in worker.events if line["event"] == "worker.drained"]
    assert (code, drained["released"]) == (0, 1)


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])

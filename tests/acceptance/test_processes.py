"""``tracebaton worker --processes N``: several workers that look like one from outside."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import shop
from command import Command, create_key, running
from prometheus_client.parser import text_string_to_metric_families
from stage import Broker

pytestmark = pytest.mark.acceptance

HERE = Path(__file__).parent


def children(command: Command, count: int) -> dict[str, int]:
    """Wait for *count* started workers and return the latest pid of each place."""
    command.wait_for(lambda line: len(started(command)) >= count)
    return {line["child"]: line["pid"] for line in started(command)}


def started(command: Command) -> list[dict[str, Any]]:
    """The lines that tell of started workers."""
    return [line for line in command.events if line["event"] == "child.started"]


def gone(pid: int, *, seconds: float = 20) -> bool:
    """Wait until no process has this number."""
    deadline = time.monotonic() + seconds
    while Path(f"/proc/{pid}/stat").exists():
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return True  # dead; whoever inherited it has not asked yet
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_several_workers_are_one_command(broker: Broker) -> None:
    """One ready line, one health port for all, one SIGTERM: every worker drains, none is left."""
    ids = [broker.enqueue(shop.app.registry, "order", {}) for _ in range(4)]
    with running("worker", "shop:app", "--processes", "2", env=broker.env, cwd=HERE) as worker:
        ready = worker.ready()
        pids = children(worker, 2)
        alive = httpx.get(f"{ready['health']}/livez").status_code
        statuses = {broker.ended(task_id).status for task_id in ids}
        code = worker.stop()

    lines = [line["event"] for line in worker.events]
    assert (ready["processes"], alive) == (2, 200)
    assert ready["queue_url"] == broker.env["TRACEBATON_QUEUE_URL"]
    assert statuses == {"succeeded"}
    assert (code, lines.count("worker.ready"), lines.count("worker.drained")) == (0, 1, 2)
    assert len(set(pids.values())) == 2
    assert all(gone(pid) for pid in pids.values())
    assert worker.errors == []


def test_one_scrape_has_what_all_of_them_measured(broker: Broker) -> None:
    """Each sample names its worker, each metric is described once, and a key is asked for."""
    keys = broker.folder / "keys.json"
    env = broker.env | {
        "OTEL_METRICS_EXPORTER": "prometheus",
        "TRACEBATON_AUTH": "api-key",
        "TRACEBATON_API_KEYS_FILE": str(keys),
    }
    key = {"x-api-key": create_key(env, "prometheus", cwd=HERE)}
    with running("worker", "shop:app", "--processes", "2", env=env, cwd=HERE) as worker:
        url = f"{worker.ready()['health']}/metrics"
        scrape, stranger = httpx.get(url, headers=key), httpx.get(url)
        assert worker.stop() == 0

    families = {
        family.name: family.samples for family in text_string_to_metric_families(scrape.text)
    }
    calls = families["tracebaton_queue_calls"]
    assert (scrape.status_code, stranger.status_code) == (200, 401)
    assert {sample.labels["process"] for sample in calls} == {"worker-0", "worker-1"}
    assert all(sample.value > 0 for sample in calls if sample.name.endswith("_total"))
    assert scrape.text.count("# TYPE tracebaton_queue_calls_total ") == 1


def test_killed_workers_are_replaced(broker: Broker) -> None:
    """kill -9 of both: it is told, health says no, others take their places and the messages."""
    env = broker.env | {"TRACEBATON_VISIBILITY_SECONDS": "5"}
    with running("worker", "shop:app", "--processes", "2", env=env, cwd=HERE) as worker:
        health = worker.ready()["health"]
        task_id = broker.enqueue(shop.app.registry, "order", {"seconds": 2.0})
        worker.wait_for(lambda line: line["event"] == "task.started")
        for pid in children(worker, 2).values():
            os.kill(pid, signal.SIGKILL)
        dead = worker.wait_for(lambda line: line["event"] == "child.ended")
        unready = httpx.get(f"{health}/readyz").status_code
        children(worker, 4)
        task = broker.ended(task_id)
        code = worker.stop()

    assert (dead["exit_code"], dead["level"]) == (-9, "error")
    assert unready == 503
    assert (task.status, task.attempt) == ("succeeded", 2)
    assert (code, worker.errors) == (0, [])


def test_no_worker_outlives_a_killed_parent(broker: Broker) -> None:
    """kill -9 of the parent: the workers drain by themselves and are gone."""
    with running("worker", "shop:app", "--processes", "2", env=broker.env, cwd=HERE) as worker:
        worker.ready()
        pids = children(worker, 2)
        worker.process.kill()

        assert all(gone(pid) for pid in pids.values())


def test_a_second_signal_reaches_the_workers(broker: Broker) -> None:
    """Two SIGTERMs: what they hold is visible again long before the drain time."""
    broker.enqueue(shop.app.registry, "order", {"seconds": 60})
    with running("worker", "shop:app", "--processes", "2", env=broker.env, cwd=HERE) as worker:
        worker.ready()
        worker.wait_for(lambda line: line["event"] == "task.started")
        worker.process.terminate()
        worker.wait_for(lambda line: line["event"] == "worker.drained")  # the idle one
        worker.process.terminate()
        code = worker.wait(seconds=15)

    drained = [line for line in worker.events if line["event"] == "worker.drained"]
    assert (code, sum(line["released"] for line in drained)) == (0, 1)


def test_what_is_wrong_is_said_once(broker: Broker) -> None:
    """A bad setting or application stops the command as it stops one worker: one line, exit 2."""
    env = broker.env | {"TRACEBATON_MAX_ATTEMPTS": "7"}
    with running("worker", "shop:app", "--processes", "3", env=env, cwd=HERE) as worker:
        code = worker.wait()

    assert (code, len(worker.errors)) == (2, 1)
    assert "TRACEBATON_MAX_ATTEMPTS" in worker.errors[0]


def test_a_misspelt_setting_is_said(broker: Broker) -> None:
    """It does not stop the start, which others' variables must not, and names the right one."""
    env = broker.env | {"TRACEBATON_CONCURENCY": "7"}
    with running("worker", "shop:app", env=env, cwd=HERE) as worker:
        worker.ready()
        line = worker.wait_for(lambda line: line["event"] == "setting.unknown")
        code = worker.stop()

    said = (line["level"], line["variable"], line["nearest"])
    assert said == ("warning", "TRACEBATON_CONCURENCY", "TRACEBATON_CONCURRENCY")
    assert code == 0

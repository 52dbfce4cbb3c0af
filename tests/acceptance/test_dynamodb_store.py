"""API and worker share their tasks through DynamoDB, as on two machines without a common disk."""

from pathlib import Path

import httpx
import pytest
from command import ended, running
from dynamodb_emulators import PYTHON, running_dynamodb
from stage import Broker

from backends import missing

pytestmark = pytest.mark.acceptance

HERE = Path(__file__).parent


def test_a_task_goes_through_dynamodb(broker: Broker, tmp_path: Path) -> None:
    """Submitted, run and read; both processes end well and no SQLite file was made."""
    if not PYTHON.exists():
        missing("no DynamoDB emulator: run scripts/dynamodb")
    with running_dynamodb("ministack", tmp_path) as endpoint:
        env = broker.env | {
            "AWS_ENDPOINT_URL_DYNAMODB": endpoint,
            "TRACEBATON_STORE": "dynamodb://tracebaton-tasks",
        }
        with (
            running("api", "shop:app", "--port", "0", env=env, cwd=HERE) as api,
            running("worker", "shop:app", env=env, cwd=HERE) as worker,
        ):
            ready = api.ready()
            worker.ready()
            with httpx.Client(base_url=ready["api"]) as http:
                answer = http.post("/orders/order", json={})
                task = ended(http, answer.json()["task_id"])
            codes = (api.stop(), worker.stop())

    assert answer.status_code == 202
    assert task["status"] == "succeeded"
    assert ready["store"] == "dynamodb://tracebaton-tasks"
    assert codes == (0, 0)
    assert not [*broker.folder.rglob("tasks.db")]

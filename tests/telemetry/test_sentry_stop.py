"""What a stop still sends to a Sentry that takes its time."""

import asyncio
import time
from pathlib import Path

import httpx
import pytest
from sentry_stage import shop_of

from backends import normalize

pytestmark = [pytest.mark.acceptance, pytest.mark.backends]


def test_sixty_requests_and_their_tasks_arrive_at_a_stop(tmp_path: Path) -> None:
    """API and worker are told to stop at once, with Sentry 50 ms away."""

    async def ask(url: str) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=30) as http:
            answers = await asyncio.gather(
                *(http.post("/orders/order", json={}) for _ in range(60))
            )
        assert {answer.status_code for answer in answers} == {202}

    with shop_of(tmp_path) as shop:
        shop.sentry.delay = 0.05
        asyncio.run(ask(str(shop.http.base_url)))
        ended = time.monotonic() + 60
        while shop.broker.sqs.stats()["tasks"]["deleted"] < 60:
            assert time.monotonic() < ended
            time.sleep(0.02)
    transactions = shop.sentry.transactions()
    normalize(transactions)
    ops = [event["contexts"]["trace"]["op"] for event in transactions]

    assert (ops.count("http.server"), ops.count("queue.process"), len(ops)) == (60, 60, 120)


@pytest.mark.parametrize("kind", ["order", "pack"])
def test_a_job_that_is_cut_short_arrives(tmp_path: Path, kind: str) -> None:
    """A handler on the loop and one in a thread that the drain does not wait for."""
    with shop_of(tmp_path, worker={"TRACEBATON_DRAIN_SECONDS": "0.5"}) as shop:
        asked = shop.ask("POST", f"/orders/{kind}", json={"seconds": 30})
        shop.worker.wait_for(lambda line: line["event"] == "task.started")
        code = shop.worker.stop()
    [queue] = [e for e in asked.transactions(2) if e["transaction"] == kind]

    assert code == 0
    assert queue["contexts"]["trace"]["op"] == "queue.process"
    assert shop.sentry.events() == []

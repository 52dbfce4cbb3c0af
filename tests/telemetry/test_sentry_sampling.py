"""One sampling decision for API and worker, whatever the rates of each are."""

import asyncio
import contextlib
import json
import time
from collections import Counter
from random import Random

import boto3
import httpx
import pytest
from sentry_stage import Shop, ids_of, shop_of

from backends import normalize
from tracebaton.telemetry.sampling import sample_rand

pytestmark = [pytest.mark.acceptance, pytest.mark.backends]

TRACES = 400
#: The API's rates: the one of all, one in the code, one in the settings.
PATHS = {"/orders/{}": 0.3, "/half/{}": 0.5, "/v1/tasks/{}": 0.9}
API = {
    "SENTRY_TRACES_SAMPLE_RATE": "0.3",
    "TRACEBATON_SAMPLE_RATES": "POST /v1/tasks/{type}=0.9",
}
#: Would cut the traces of requests if they counted, and do count where no request was before.
WORKER = {"SENTRY_TRACES_SAMPLE_RATE": "0.4", "TRACEBATON_SAMPLE_RATES": "order=0,always=1"}
KINDS = ("order", "rare")  # rare has the rate 0 in the code
FOREIGN = ("order", "rare", "pack", "always")


@pytest.fixture(scope="module")
def asked() -> dict[str, str]:
    """Return the path of each trace."""
    return {
        f"{Random(number).getrandbits(128):032x}": list(PATHS)[number % len(PATHS)]
        for number in range(TRACES)
    }


@pytest.fixture(scope="module")
def shop(asked: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Have all requests answered, all tasks and foreign messages handled, and all sent."""
    with shop_of(tmp_path_factory.mktemp("shop"), api=API, worker=WORKER) as one:
        asyncio.run(ask(one, asked))
        put_foreign_messages(one)
        ended = time.monotonic() + 60
        while one.broker.sqs.stats()["tasks"]["deleted"] < TRACES + 100:
            assert time.monotonic() < ended, one.broker.sqs.stats()
            time.sleep(0.05)
    normalize(one.sentry.transactions())
    return one


async def ask(shop: Shop, asked: dict[str, str]) -> None:
    """Send each request in its trace, several at a time, as a caller who wants none to be kept."""
    limit = asyncio.Semaphore(20)

    async def one(number: int, trace_id: str, path: str) -> None:
        headers = {"traceparent": f"00-{trace_id}-{'1' * 16}-00"}
        url = path.format(KINDS[number % len(KINDS)])
        async with limit:
            (await http.post(url, json={}, headers=headers)).raise_for_status()

    async with httpx.AsyncClient(base_url=shop.http.base_url, timeout=60) as http:
        await asyncio.gather(*(one(n, *pair) for n, pair in enumerate(asked.items())))


def put_foreign_messages(shop: Shop) -> None:
    """Send a hundred messages as a program without telemetry would."""
    known = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}
    url = shop.broker.sqs.queue_url("tasks")
    with contextlib.closing(boto3.client("sqs", endpoint_url=shop.broker.sqs.url, **known)) as sqs:
        for number in range(100):
            body = json.dumps({"kind": FOREIGN[number % len(FOREIGN)]})
            sqs.send_message(QueueUrl=url, MessageBody=body)


def test_no_trace_is_kept_by_half(shop: Shop, asked: dict[str, str]) -> None:
    """Each of 400 is in both services or in none, and both name the head's rate."""
    rates = {trace_id: PATHS[path] for trace_id, path in asked.items()}
    transactions = [e for e in shop.sentry.transactions() if ids_of(e)[0] in rates]
    headers = shop.sentry.trace_headers()
    by_op: dict[str, set[str]] = {"http.server": set(), "queue.process": set()}
    for event in transactions:
        trace_id = ids_of(event)[0]
        by_op[event["contexts"]["trace"]["op"]].add(trace_id)
        header = headers[event["event_id"]]

        assert (header["sample_rate"], header["sampled"]) == (str(rates[trace_id]), "true")
        assert float(header["sample_rand"]) < float(header["sample_rate"])
    kept = {one for one, rate in rates.items() if sample_rand(int(one, 16)) < rate}

    assert by_op == {"http.server": kept, "queue.process": kept}
    assert len(transactions) == 2 * len(kept)
    assert TRACES * 0.4 < len(kept) < TRACES * 0.75


def test_a_message_without_a_head_has_the_rate_of_its_type(
    shop: Shop, asked: dict[str, str]
) -> None:
    """It came from a producer that knows no traces: the worker decides."""
    transactions = [e for e in shop.sentry.transactions() if ids_of(e)[0] not in asked]
    headers = shop.sentry.trace_headers()
    kept = Counter(
        (event["transaction"], headers[event["event_id"]]["sample_rate"]) for event in transactions
    )

    assert kept.keys() == {("pack", "0.4"), ("always", "1.0")}
    assert kept["always", "1.0"] == 25
    assert 0 < kept["pack", "0.4"] < 25

"""A real API and a real worker, read at Sentry's end: the envelopes that both have sent."""

import asyncio
import secrets
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

import httpx
import pytest
from command import ended
from neighbour import Neighbour, running_neighbour
from sentry_stage import Asked, Shop, ids_of, shop_of

from backends import normalize

pytestmark = [pytest.mark.acceptance, pytest.mark.backends]

SECRET = "canary-4f1b-secret"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Run API and worker for all tests of this file; afterwards all has to be well-formed."""
    env = {
        "TRACEBATON_INSTRUMENT": "httpx,requests,urllib3,botocore",
        "TRACEBATON_PROPAGATE_BAGGAGE_TO": "localhost",
        "TRACEBATON_TRUST_BAGGAGE": "vendor",
    }
    with shop_of(tmp_path_factory.mktemp("shop"), env) as one:
        yield one
    normalize(one.sentry.transactions() + one.sentry.events())
    assert (one.api.errors, one.worker.errors) == ([], [])


@pytest.fixture
def neighbour() -> Iterator[Neighbour]:
    """Run another host."""
    with running_neighbour() as server:
        yield server


def test_a_route_below_mounts_has_its_whole_template(shop: Shop) -> None:
    """The id in its path is nowhere in its name."""
    [event] = shop.ask("POST", "/v1/shop/jobs/42").transactions(1)

    assert event["transaction"] == "POST /v1/shop/jobs/{job_id}"
    assert event["transaction_info"] == {"source": "route"}
    assert event["contexts"]["trace"]["op"] == "http.server"
    assert event["contexts"]["trace"]["status"] == "ok"
    assert event["sdk"]["name"] == "sentry.python"


def test_a_message_tells_how_long_it_waited(shop: Shop) -> None:
    """From the send to the handler, in milliseconds; first delivery, no retry."""
    before = time.time()
    asked = shop.ask("POST", "/orders/order?delay=1", json={})
    after = time.time()
    http, queue = asked.transactions(2)
    [publish] = [span for span in http["spans"] if span["op"] == "queue.publish"]
    data = queue["contexts"]["trace"]["data"]
    latency = data["messaging.message.receive.latency"] / 1000
    began = datetime.fromisoformat(queue["start_timestamp"]).timestamp()

    assert queue["contexts"]["trace"]["parent_span_id"] == publish["span_id"]
    assert began - after - 0.05 <= latency <= began - before + 0.002  # SQS tells milliseconds
    assert latency >= 1
    assert data["messaging.message.retry.count"] == 0
    assert data["messaging.destination.name"] == publish["data"]["messaging.destination.name"]
    for name in ("messaging.message.id", "messaging.message.body.size"):
        assert data[name] == publish["data"][name]


def test_a_model_call_stays_in_its_transaction(shop: Shop) -> None:
    """sentry-sdk takes spans whose op begins with gen_ai out of it, and sends them apart."""
    _, queue = shop.ask("POST", "/orders/order", json={}).transactions(2)

    assert [span["op"] for span in queue["spans"]] == ["gen_ai.chat"]
    assert shop.sentry.items("span") == []


def test_an_outsider_switches_no_trace_off_and_names_no_baggage(shop: Shop) -> None:
    """A stale sentry-trace is ignored whole; what is trusted by name reaches the worker."""
    trace_id, other = secrets.token_hex(16), secrets.token_hex(16)
    asked = shop.ask(
        "POST",
        "/orders/order",
        json={},
        headers={
            "traceparent": f"00-{trace_id}-{'1' * 16}-00",
            "sentry-trace": f"{other}-{'2' * 16}-0",
            "baggage": f"vendor=1,evil=2,sentry-public_key=public,sentry-trace_id={other},"
            "sentry-sampled=false,sentry-sample_rate=0.5",
        },
    )
    asked = replace(asked, trace_id=trace_id)
    result = ended(shop.http, asked.answer.json()["task_id"])["result"]
    http, queue = asked.transactions(2)
    headers = shop.sentry.trace_headers()

    assert http["contexts"]["trace"]["parent_span_id"] == "1" * 16
    assert result["baggage"] == {"vendor": "1"}
    for event in (http, queue):
        header = headers[event["event_id"]]
        assert (header["trace_id"], header["sampled"], header["sample_rate"]) == (
            trace_id,
            "true",
            "1.0",
        )


#: What one call makes of spans; urllib has no instrumentation in our list.
OPS = {
    "httpx": ["http.client"],
    "requests": ["http.client"],
    "urllib3": ["http.client"],
    "urllib": [],
    "botocore": ["rpc"],
}


@pytest.mark.parametrize("client", OPS)
def test_another_host_is_told_of_one_trace(shop: Shop, neighbour: Neighbour, client: str) -> None:
    """Once, and of ours; sentry-sdk's own patches add no second one, nor does our own sending."""
    told = {}
    for host in ("127.0.0.1", "localhost"):
        neighbour.requests.clear()
        url = neighbour.url(host)
        asked = shop.ask("GET", f"/calls/{client}", params={"url": url})
        [event] = asked.transactions(1)
        [(_, headers)] = neighbour.requests
        told[host] = [
            key for key, _ in headers if key in {"traceparent", "sentry-trace", "baggage"}
        ]
        traces = {value for key, value in headers if key in {"traceparent", "sentry-trace"}}

        assert all(asked.trace_id in value for value in traces)
        assert [span["op"] for span in event["spans"]] == OPS[client]

    both = ["sentry-trace", "traceparent"] if client in {"httpx", "requests", "urllib3"} else []
    assert sorted(told["127.0.0.1"]) == both
    assert sorted(told["localhost"]) == (["baggage", *both] if both else [])


def test_a_failure_that_everybody_tells_of_is_one_event(shop: Shop) -> None:
    """Logged, recorded, captured in a task and in threads, and raised."""
    asked = shop.ask("GET", "/broken")
    [transaction] = asked.transactions(1)
    shop.settle()
    [event] = asked.events()
    [exception] = event["exception"]["values"]

    assert asked.answer.status_code == 500
    assert ids_of(event) == ids_of(transaction)
    assert exception["type"] == "ZeroDivisionError"
    trace = transaction["contexts"]["trace"]
    assert trace["status"] == "internal_error"
    assert trace["data"]["http.response.status_code"] == 500


def test_a_failure_in_a_stream_is_one_event_of_its_transaction(shop: Shop) -> None:
    """Its status was 200 when it began; ok it is not."""
    trace_id = secrets.token_hex(16)
    headers = {"traceparent": f"00-{trace_id}-{'1' * 16}-01"}
    with pytest.raises(httpx.RemoteProtocolError):
        shop.http.get("/stream", headers=headers)
    asked = Asked(shop.sentry, trace_id, httpx.Response(200))
    [event] = asked.events()
    shop.settle()
    [transaction] = asked.transactions(1)

    assert asked.events() == [event]
    assert ids_of(event) == ids_of(transaction)
    assert event["tags"]["route"] == "/stream"
    assert transaction["contexts"]["trace"]["status"] == "internal_error"
    assert transaction["contexts"]["trace"]["data"]["http.response.status_code"] == 200


def test_a_failure_after_the_answer_is_one_event_of_a_span_of_its_own(shop: Shop) -> None:
    """The request was answered well and has ended; what failed is its child."""
    asked = shop.ask("GET", "/background")
    [event] = asked.events()
    request, background = asked.transactions(2)
    shop.settle()

    assert (asked.answer.status_code, asked.events()) == (200, [event])
    assert event["exception"]["values"][-1]["type"] == "ConnectionResetError"
    assert event["exception"]["values"][-1]["mechanism"]["handled"] is False
    assert ids_of(event) == ids_of(background)
    assert background["contexts"]["trace"]["parent_span_id"] == ids_of(request)[1]
    assert [e["contexts"]["trace"]["status"] for e in (request, background)] == [
        "ok",
        "internal_error",
    ]


def test_a_failure_in_a_trace_that_is_not_kept_is_told(shop: Shop) -> None:
    """The event names trace and rate; there is no transaction."""
    asked = shop.ask("GET", "/unsampled")
    [event] = asked.events()
    shop.settle()
    header = shop.sentry.trace_headers()[event["event_id"]]

    assert asked.answer.json()["trace_id"] == asked.trace_id
    assert asked.transactions(0) == []
    assert (header["sampled"], header["sample_rate"]) == ("false", "0.0")


def test_fifty_requests_and_fifty_messages_at_once_never_mix(shop: Shop) -> None:
    """Tags, users and breadcrumbs are of one unit; half of them set none and have none."""
    begun = len(shop.sentry.events())
    kinds = ("order", "pack")

    async def ask_all() -> None:
        async with httpx.AsyncClient(base_url=shop.http.base_url, timeout=30) as http:
            bodies = [{"number": n, "fails": True} for n in range(50)]
            await asyncio.gather(
                *(http.get(f"/units/{n}") for n in range(50)),
                *(http.post(f"/orders/{kinds[n // 2 % 2]}", json=bodies[n]) for n in range(50)),
            )

    asyncio.run(ask_all())
    shop.sentry.wait_for(lambda sentry: len(sentry.events()) == begun + 100, timeout=60)
    seen = [told_by(event) for event in shop.sentry.events()[begun:]]

    assert sorted(seen) == sorted(
        (
            (text, str(n), f"user-{n}", [f"crumb {n}"]) if n % 2 else (text, None, None, [])
            for n in range(50)
            for text in (f"unit {n}", f"{kinds[n // 2 % 2]} {n}")
        ),
        key=str,
    )


def told_by(event: dict[str, Any]) -> tuple[str, Any, Any, list[str]]:
    """Return what an event says, and what the scopes added to it."""
    assert all(isinstance(value, str) for value in event["tags"].values())
    assert "module" not in event["tags"]
    crumbs = [c["message"] for c in event["breadcrumbs"]["values"] if c["category"] == "shop"]
    user = event.get("user", {}).get("id")
    return event["exception"]["values"][-1]["value"], event["tags"].get("number"), user, crumbs


def test_no_secret_leaves(shop: Shop) -> None:
    """Neither a header of the request nor the command line."""
    asked = shop.ask("GET", "/broken", headers={"Authorization": f"Bearer {SECRET}"})
    asked.events()
    asked.transactions(1)
    sent = str([(e.header, e.items) for e in shop.sentry.envelopes])

    assert SECRET not in sent
    assert "sys.argv" not in sent
    assert "--port" not in sent

"""What API and worker say of one request, in the same words: audit lines, ids, the user."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from tracebaton import Tracebaton, audited, current
from tracebaton.http.keys import create_key
from tracebaton.testing import Stage, assert_one_trace

_log = logging.getLogger("shop.stock")


class Order(BaseModel):
    """Data of the task."""

    item: str


@audited
class Stock:
    """A service that knows neither request nor message."""

    async def reserve(self, item: str, *, token: str = "") -> str:
        """Write a line of its own, on the loop and in a thread."""
        _log.info("reserving %s", item)
        await asyncio.to_thread(_log.info, "still reserving")
        return current().user_id or "nobody"

    def pack(self, item: str) -> str:
        """Fail for one item."""
        if item == "glass":
            raise LookupError("it broke")
        return item


def shop() -> Tracebaton:
    """An application that calls the same service in both halves."""
    app, stock = Tracebaton(), Stock()

    @app.task("order", model=Order)
    async def order(order: Order) -> str:
        who = await stock.reserve(order.item, token="c4n4ry")
        await asyncio.to_thread(stock.pack, order.item)
        return who

    @app.task("order.sync", model=Order)
    def order_in_thread(order: Order) -> str:
        return stock.pack(order.item)

    @app.route("/orders/{kind:path}", methods=["POST"])
    async def submit(request: Any) -> Any:
        data = await app.body(request, Order)
        await stock.reserve(data.item)
        return await app.enqueue(request.path_params["kind"], data)

    return app


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """The settings of a shop that knows its users; ``x-api-key`` is the key of ``ada``."""
    keys = tmp_path / "keys.json"
    return {
        "TRACEBATON_AUTH": "api-key",
        "TRACEBATON_API_KEYS_FILE": str(keys),
        "x-api-key": create_key(keys, "ada"),
    }


async def ordered(stage: Stage, env: dict[str, str], kind: str, item: str) -> Any:
    """Order *item*, let the worker work, and return the task."""
    headers = {"x-api-key": env["x-api-key"], "x-correlation-id": "order-7"}
    answer = await stage.http.post(f"/orders/{kind}", json={"item": item}, headers=headers)
    await stage.run_until_idle()
    return await stage.task(answer.json()["task_id"])


async def test_every_line_of_a_request_and_its_task_has_the_ids(env: dict[str, str]) -> None:
    """Ours, the service's own and those written in threads: correlation, trace, span and user."""
    async with Stage(shop(), env=env) as stage:
        task = await ordered(stage, env, "order", "book")
        trace_id = assert_one_trace(stage.spans)

    inside = [line for line in stage.logs if line["correlation_id"] is not None]
    spans = {f"{span.context.span_id:016x}" for span in stage.spans if span.context}
    assert task.result == "ada"
    assert {line["event"] for line in inside} == {
        "audit.call",
        "reserving book",
        "still reserving",
        "audit.success",
        "task.enqueued",
        "http.request",
        "task.started",
        "task.succeeded",
    }
    assert {(line["correlation_id"], line["trace_id"]) for line in inside} == {
        ("order-7", trace_id)
    }
    assert {line["span_id"] for line in inside} <= spans
    assert {line["user_id"] for line in inside} == {"ada"}
    assert {line["task_id"] for line in inside if line["attempt"]} == {task.id}


async def test_audit_lines_have_the_same_fields_in_both_halves(env: dict[str, str]) -> None:
    """Call and success of one method differ in their values only; the worker's name the task."""
    async with Stage(shop(), env=env) as stage:
        task = await ordered(stage, env, "order", "book")

    audit = [line for line in stage.logs if line.get("method") == "reserve"]
    api, worker = audit[:2], audit[2:]
    assert [line["event"] for line in audit] == ["audit.call", "audit.success"] * 2
    assert [list(line) for line in api] == [list(line) for line in worker]
    assert [line["service"] for line in audit] == ["Stock"] * 4
    assert [(line["task_id"], line["attempt"]) for line in api] == [(None, None)] * 2
    assert [(line["task_id"], line["attempt"]) for line in worker] == [(task.id, 1)] * 2
    assert "c4n4ry" not in str(stage.logs)


@pytest.mark.parametrize("kind", ["order", "order.sync"])
async def test_a_services_failure_is_one_story(env: dict[str, str], kind: str) -> None:
    """Audited, retried, dead: one event of the original, whose stack leads into the service."""
    async with Stage(shop(), env=env | {"TRACEBATON_MAX_ATTEMPTS": "2"}) as stage:
        task = await ordered(stage, env, kind, "glass")

    (event,) = stage.events
    frames = _functions(event.exception)
    told = [line["event"] for line in stage.logs if line["attempt"] == 2]
    assert (task.status, task.error["code"], task.error["correlation_id"]) == (
        "dead",
        "internal",
        "order-7",
    )
    assert "it broke" not in str(task.error)
    assert (type(event.exception), frames[-1]) == (LookupError, "pack")
    assert told[-2:] == ["audit.error", "task.dead"]


def _functions(exc: BaseException) -> list[str]:
    names, stack = [], exc.__traceback__
    while stack is not None:
        names.append(stack.tb_frame.f_code.co_name)
        stack = stack.tb_next
    return names

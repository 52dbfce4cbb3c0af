"""The public test kit, used as an application's own tests would use it."""

import pytest
from pydantic import BaseModel

from tracebaton import Reject, Tracebaton, current
from tracebaton.errors import TracebatonError
from tracebaton.testing import Fault, Stage, assert_one_trace


class Number(BaseModel):
    """Data of the tests' task types."""

    value: int = 0


def counting() -> Tracebaton:
    """An application with a task that works, one that fails and one that enqueues another."""
    app = Tracebaton()

    @app.task("double", model=Number)
    async def double(number: Number) -> int:
        return number.value * 2

    @app.task("fail", model=Number)
    async def fail(number: Number) -> None:
        raise ArithmeticError("no such number")

    @app.task("refuse", model=Number)
    def refuse(number: Number) -> None:
        raise Reject("not this one")

    @app.task("parent", model=Number)
    async def parent(number: Number) -> str:
        return (await app.enqueue("double", number)).id

    @app.route("/numbers/{kind}", methods=["POST"])
    async def submit(request):  # type: ignore[no-untyped-def]
        return await app.enqueue(request.path_params["kind"], await app.body(request, Number))

    return app


async def test_a_stage_runs_api_and_worker_as_one_trace() -> None:
    """Request, message and handler are one trace, and the logs have its ids."""
    async with Stage(counting()) as stage:
        answer = await stage.http.post(
            "/numbers/double", json={"value": 21}, headers={"X-Correlation-ID": "c-1"}
        )
        await stage.run_until_idle()
        task = await stage.task(answer.json()["task_id"])

    trace_id = assert_one_trace(stage.spans)
    assert (answer.status_code, task.status, task.result) == (202, "succeeded", 42)
    assert [span.name for span in stage.spans] == [
        "send tasks",
        "POST /numbers/{kind}",
        "process tasks",
    ]
    assert {line["trace_id"] for line in stage.logs if line["correlation_id"]} == {trace_id}
    assert stage.events == []


async def test_a_callers_flag_hides_nothing_from_a_stage() -> None:
    """A stage samples as the product does: an outsider's 00 decides nothing."""
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    async with Stage(counting()) as stage:
        await stage.http.get(
            "/livez2", headers={"traceparent": f"00-{trace_id}-b7ad6b7169203331-00"}
        )

    (span,) = stage.spans
    assert span.context is not None
    assert f"{span.context.trace_id:032x}" == trace_id


async def test_a_failing_task_is_one_event_with_its_attempts() -> None:
    """Retries are quick on a stage; the last one is the event."""
    async with Stage(counting(), env={"TRACEBATON_MAX_ATTEMPTS": "3"}) as stage:
        sent = [await stage.http.post(f"/numbers/{kind}", json={}) for kind in ("fail", "refuse")]
        await stage.run_until_idle(seconds=20)
        dead, refused = [await stage.task(answer.json()["task_id"]) for answer in sent]

    [event] = stage.events
    assert (dead.status, refused.status) == ("dead", "failed")
    assert isinstance(event.exception, ArithmeticError)
    assert [failure["attempt"] for failure in event.failures] == [1, 2]
    assert event.tags["attempt"] == "3"


async def test_a_child_task_keeps_the_identity_of_its_parent() -> None:
    """A task that enqueues another: same trace, same correlation id, parent named."""
    async with Stage(counting()) as stage:
        answer = await stage.http.post(
            "/numbers/parent", json={"value": 2}, headers={"X-Correlation-ID": "family"}
        )
        await stage.run_until_idle()
        parent = await stage.task(answer.json()["task_id"])
        child = await stage.task(parent.result)

    assert_one_trace(stage.spans)
    assert (child.correlation_id, child.parent_task_id, child.result) == ("family", parent.id, 4)


async def test_a_second_stage_sees_nothing_of_the_first() -> None:
    """Spans, logs and tasks are each stage's own."""
    app = counting()
    async with Stage(app) as first:
        await first.http.post("/numbers/double", json={})
    async with Stage(app) as second:
        pass

    assert first.spans
    assert second.spans == []
    assert current().correlation_id is None


async def test_work_that_never_ends_is_told() -> None:
    """run_until_idle gives up with what is left in the queue."""
    async with Stage(
        counting(),
        env={"TRACEBATON_RETRY_BASE_SECONDS": "60", "TRACEBATON_RETRY_CAP_SECONDS": "60"},
    ) as stage:
        await stage.http.post("/numbers/fail", json={})
        with pytest.raises(TracebatonError, match="not idle after"):
            await stage.run_until_idle(seconds=0.5)


async def test_a_copy_of_a_message_can_be_asked_for() -> None:
    """The queue delivers twice; the handler runs once."""
    runs: list[int] = []
    app = Tracebaton()

    @app.task("count", model=Number)
    async def count(number: Number) -> None:
        runs.append(number.value)

    async with Stage(app) as stage:
        stage.faults.add(Fault(effect="duplicate", first=1))
        await app.enqueue("count", Number(value=7))
        await stage.run_until_idle()
        (fault,) = stage.faults.list()

    assert (runs, fault["injected"]) == ([7], 1)


async def test_a_queue_that_is_away_can_be_asked_for() -> None:
    """The API answers 503 and keeps nothing; without the fault the next one is taken."""
    async with Stage(counting()) as stage:
        fault = stage.faults.add(Fault(effect="reset", action="SendMessage"))
        refused = await stage.http.post("/numbers/double", json={"value": 1})
        stage.faults.remove(fault)
        taken = await stage.http.post("/numbers/double", json={"value": 1})
        await stage.run_until_idle()

    assert (refused.status_code, refused.json()["code"]) == (503, "queue_unavailable")
    assert taken.status_code == 202
    assert [event.outcome.code for event in stage.events] == ["queue_unavailable"]


async def test_two_traces_are_not_one() -> None:
    """assert_one_trace names the traces it found, and an empty list."""
    async with Stage(counting()) as stage:
        await stage.http.get("/")
        await stage.http.get("/")

    with pytest.raises(AssertionError, match="2 traces and 2 roots"):
        assert_one_trace(stage.spans)
    with pytest.raises(AssertionError, match="no span"):
        assert_one_trace([])

"""Messages that leave the DLQ or the quarantine, over the wire to a real SQS."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry import trace

from tracebaton.context import RequestStore, entered
from tracebaton.local import Fault
from tracebaton.queue.clearing import Act, Clearing, Pace, Tally
from tracebaton.queue.dead import DeadLetters
from tracebaton.queue.incoming import Reader
from tracebaton.queue.letters import Choice, Kind, Letter, Letters
from tracebaton.queue.message import Attribute
from tracebaton.queue.redrive import Purge, Redrive
from tracebaton.queue.walk import Walk
from tracebaton.semconv import TRACEPARENT
from tracebaton.tasks import Task, TaskStatus
from tracebaton.w3c import parse_traceparent

from .conftest import Bench, Note, until, working

FOREIGN = f"00-{'b' * 32}-{'c' * 16}-01"


@pytest.fixture
def attempts() -> int:
    """The first failure is the last."""
    return 1


class Trial:
    """A handler that fails until it is told to work."""

    def __init__(self) -> None:
        self.good = False
        self.seen: list[RequestStore] = []

    async def __call__(self, note: Note) -> str:
        """Work or fail."""
        if not self.good:
            raise LookupError(note.text)
        return note.text


def redrive(bench: Bench, **options: Any) -> Redrive:
    """Return a redrive to the bench's queue."""
    defaults: dict[str, Any] = {
        "store": bench.store,
        "tracer": bench.provider.get_tracer("tracebaton"),
        "propagator": bench.propagator,
    }
    return Redrive(bench.sqs, bench.queue, **defaults | options)


def clearing(
    bench: Bench,
    act: Act,
    *,
    kind: Kind = "dlq",
    choice: Choice | None = None,
    pace: Pace | None = None,
    **options: Any,
) -> Clearing:
    """Return a run over the bench's DLQ or quarantine."""
    return Clearing(
        bench.sqs,
        bench.named(f"tasks-{kind}"),
        letters=Letters(kind, queue_name="tasks", store=bench.store),
        choice=choice or Choice(),
        act=act,
        pace=pace or Pace(),
        wait_seconds=0,
        **options,
    )


async def died(bench: Bench, *texts: str, name: str = "note") -> list[Task]:
    """Enqueue tasks and let them fail until they are in the DLQ."""
    with entered(RequestStore(correlation_id="c-1", user_id="u-1")):
        tasks = [await bench.producer().enqueue(name, Note(text=text)) for text in texts]
    held = bench.count("tasks-dlq")
    async with working(bench.worker(wait_seconds=0)):
        await bench.holds(held + len(texts), "tasks-dlq")
    return tasks


async def test_a_redriven_message_is_the_same_task(bench: Bench) -> None:
    """Id, user, correlation, data and trace are kept; the task waits again, then succeeds."""
    trial = Trial()
    bench.handle(trial.__call__)
    (task,) = await died(bench, "hello")
    tally = await clearing(bench, redrive(bench)).run()
    waiting = await bench.store.get(task.id)
    trial.good = True
    async with working(bench.worker(wait_seconds=0)):
        ended = await bench.ended(task.id)

    assert (tally.seen, tally.done, bench.count("tasks-dlq")) == (1, 1, 0)
    assert waiting is not None
    assert (waiting.status, waiting.error) == (TaskStatus.QUEUED, None)
    assert (ended.status, ended.result) == (TaskStatus.SUCCEEDED, "hello")
    assert (ended.user_id, ended.correlation_id, ended.trace_id) == ("u-1", "c-1", task.trace_id)


async def test_old_and_new_attempt_are_linked_in_the_trace(bench: Bench) -> None:
    """The redrive's send span and the new process span link the attempt that failed last."""
    trial = Trial()
    bench.handle(trial.__call__)
    (task,) = await died(bench, "hello")
    dead = await bench.store.get(task.id)
    first = bench.spans()["send tasks"]
    await clearing(bench, redrive(bench)).run()
    again = bench.spans()["send tasks"]
    trial.good = True
    async with working(bench.worker(wait_seconds=0)):
        await bench.ended(task.id)

    assert dead is not None
    last = parse_traceparent([dead.traceparent or ""])
    new = bench.spans()["process tasks"]
    assert last is not None
    assert {trace.format_trace_id(span.context.trace_id) for span in (again, new)} == {
        task.trace_id
    }
    for span in (again, new):
        assert span.parent is not None
        assert span.parent.span_id == first.context.span_id
        assert [link.context.span_id for link in span.links] == [last.span_id]
    assert again.attributes is not None
    assert again.attributes["tracebaton.task.id"] == task.id


async def test_bytes_and_attributes_go_back_as_they_were(bench: Bench) -> None:
    """What only other readers of the queue understand is kept, with its types."""
    body = '{ "hello":  "wörld" }\n'
    attributes = {
        "n": Attribute("Number.int", "7"),
        "b": Attribute("Binary", b"\x00\xff"),
        TRACEPARENT: Attribute("String", FOREIGN),
    }
    url = bench.local.queue_url("tasks-dlq")
    await bench.sqs.send(url, body, attributes=attributes, trace_header="Root=1-2-3")
    await clearing(bench, redrive(bench)).run()
    (copy,) = await bench.take("tasks")

    assert (copy.body, copy.every) == (body, attributes)
    assert copy.system["AWSTraceHeader"] == "Root=1-2-3"


async def test_a_quarantined_message_is_replayed_as_it_was(bench: Bench) -> None:
    """The original bytes and attributes, none of quarantine's own."""
    body, attributes = "no { JSON: é", {"mine": Attribute("Number", "1")}
    await bench.send(body, attributes)
    async with working(bench.worker(quarantine=bench.quarantine, wait_seconds=0)):
        await bench.holds(1, "tasks-quarantine")
    await clearing(bench, redrive(bench), kind="quarantine").run()
    (replayed,) = await bench.take("tasks")

    assert (replayed.body, replayed.every) == (body, attributes)
    assert bench.count("tasks-quarantine") == 0


async def test_a_replayed_message_is_the_same_task(bench: Bench) -> None:
    """It failed because no handler was there; with the handler it succeeds in the same trace."""
    trial = Trial()
    trial.good = True
    bench.handle(trial.__call__)
    with entered(RequestStore(user_id="u-1")):
        task = await bench.producer().enqueue("note", Note(text="x"))
    known, bench.registry = bench.registry, type(bench.registry)()
    async with working(bench.worker(quarantine=bench.quarantine, wait_seconds=0)):
        await bench.holds(1, "tasks-quarantine")
    failed = await bench.ended(task.id)
    await clearing(bench, redrive(bench), kind="quarantine").run()
    bench.registry = known
    async with working(bench.worker(wait_seconds=0)):
        await bench.holds(0)
    ended = await bench.ended(task.id)

    assert failed.status is TaskStatus.FAILED
    assert (ended.status, ended.user_id, ended.trace_id) == ("succeeded", "u-1", task.trace_id)
    assert [link.context.span_id for link in bench.spans()["process tasks"].links] != []


async def test_a_letter_knows_how_the_attempts_failed(bench: Bench) -> None:
    """Code and class are the task store's, and can be chosen by."""
    bench.handle(Trial().__call__)
    task = await bench.producer().enqueue("note", Note())
    failure = {"attempt": 1, "code": "internal", "error_type": "LookupError"}
    await bench.store.start(task.id, attempt=1)
    await bench.store.retry(task.id, attempt=1, failure=failure)
    (message,) = await bench.take("tasks")
    letter = await Letters("dlq", queue_name="tasks", store=bench.store).read(message)

    assert (letter.reason, letter.error_type, letter.type) == ("internal", "LookupError", "note")
    assert letter.document()["failures"] == [failure]
    assert Choice(reasons=frozenset({"LookupError"})).matches(letter, now=0.0)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({}, {"a", "b", "c"}),
        ({"types": frozenset({"other"})}, {"c"}),
        ({"reasons": frozenset({"internal"})}, {"a", "b", "c"}),
        ({"reasons": frozenset({"handler_timeout"})}, set()),
        ({"older_than": 3600.0}, set()),
        ({"newer_than": 3600.0}, {"a", "b", "c"}),
        ({"ids": frozenset({"b"})}, {"b"}),
    ],
    ids=str,
)
async def test_filters_choose(bench: Bench, choice: dict[str, Any], expected: set[str]) -> None:
    """By type, reason, error class, age, task id; what is not meant stays, visible."""
    bench.handle(Trial().__call__)
    bench.handle(Trial().__call__, name="other")
    tasks = dict(zip("abc", [*await died(bench, "a", "b"), *await other(bench)], strict=True))
    if "ids" in choice:
        choice = {"ids": frozenset({tasks["b"].id})}
    tally = await clearing(bench, redrive(bench), choice=Choice(**choice)).run()

    back = {json.loads(one.body)["data"]["text"] for one in await bench.take("tasks", seconds=0)}
    stats = bench.local.stats()["tasks-dlq"]
    assert back == expected
    assert (tally.seen, tally.done) == (3, len(expected))
    assert (stats["visible"], stats["in_flight"]) == (3 - len(expected), 0)


async def other(bench: Bench) -> list[Task]:
    """Let a task of the other type die."""
    return await died(bench, "c", name="other")


async def test_a_dry_run_touches_nothing(bench: Bench) -> None:
    """It counts, and every message and task is where it was."""
    bench.handle(Trial().__call__)
    (task,) = await died(bench, "a")
    tally = await clearing(bench, redrive(bench), pace=Pace(dry_run=True)).run()

    kept = await bench.store.get(task.id)
    assert kept is not None
    assert (tally.done, kept.status, bench.count("tasks-dlq"), bench.count()) == (1, "dead", 1, 0)


async def test_a_run_keeps_to_its_rate_and_limit(bench: Bench) -> None:
    """At two a second, batches of two with a second between; no more than five in all."""
    bench.handle(Trial().__call__)
    await died(bench, *"abcdefg")
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    run = clearing(bench, redrive(bench), pace=Pace(rate=2.0, limit=5), sleep=sleep)
    tally = await run.run()

    assert (tally.done, bench.count(), bench.count("tasks-dlq")) == (5, 5, 2)
    assert pauses == [1.0, 1.0]


async def test_a_second_run_goes_on_where_the_first_ended(bench: Bench) -> None:
    """A run that is cut off leaves the rest visible; together the runs move each message once."""
    bench.handle(Trial().__call__)
    tasks = await died(bench, *"abcdef")
    third = asyncio.Event()

    async def sleep(seconds: float) -> None:
        third.set()
        await asyncio.Event().wait()

    first = asyncio.create_task(
        clearing(bench, redrive(bench), pace=Pace(rate=3.0), sleep=sleep).run()
    )
    await asyncio.wait_for(third.wait(), 10)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    between = bench.local.stats()["tasks-dlq"]["visible"]
    tally = await clearing(bench, redrive(bench)).run()

    moved = [json.loads(one.body)["id"] for one in await bench.take("tasks", seconds=0)]
    assert (between, tally.done) == (3, 3)
    assert sorted(moved) == sorted(task.id for task in tasks)


async def test_what_fails_again_is_not_redriven_for_ever(bench: Bench) -> None:
    """A message that comes back to the DLQ during the run stays for the next one."""
    bench.handle(Trial().__call__)
    (task,) = await died(bench, "a")

    class Back(Redrive):
        async def __call__(self, letters: Sequence[Letter]) -> Sequence[str | None]:
            outcomes = await super().__call__(letters)
            async with working(bench.worker(wait_seconds=0)):
                await bench.holds(2, "tasks-dlq")
            return outcomes

    act = Back(
        bench.sqs,
        bench.queue,
        store=bench.store,
        tracer=bench.provider.get_tracer("tracebaton"),
        propagator=bench.propagator,
    )
    tally = await clearing(bench, act).run()
    ended = await bench.ended(task.id)

    assert (tally.done, bench.count("tasks-dlq"), ended.status) == (1, 1, "dead")


async def test_a_copy_that_is_refused_leaves_task_and_message(bench: Bench) -> None:
    """The queue takes nothing: the message stays in the DLQ, its task is dead as before."""
    bench.handle(Trial().__call__)
    (task,) = await died(bench, "a")
    before = await bench.store.get(task.id)
    bench.local.faults.add(
        Fault(effect="fail_entries", action="SendMessageBatch", sender_fault=True)
    )
    tally = await clearing(bench, redrive(bench)).run()
    after = await bench.store.get(task.id)

    assert before is not None
    assert after is not None
    assert (tally.done, sum(tally.refused.values())) == (0, 1)
    assert (after.status, after.error) == (before.status, before.error)
    assert bench.local.stats()["tasks-dlq"]["visible"] == 1
    assert bench.spans()["send tasks"].status.is_ok is False


async def test_a_copy_that_cannot_be_deleted_here_runs_once(bench: Bench) -> None:
    """The delete fails: it is said, the next run sends a second copy, the worker knows it."""
    trial = Trial()
    bench.handle(trial.__call__)
    (task,) = await died(bench, "a")
    bench.local.faults.add(Fault(effect="fail_entries", action="DeleteMessageBatch", first=4))
    first = await clearing(bench, redrive(bench), sleep=at_once).run()
    trial.good = True
    async with working(bench.worker(wait_seconds=0)):
        ended = await bench.ended(task.id)
        await bench.holds(0)
    second = await clearing(bench, redrive(bench)).run()

    assert (first.done, list(first.refused)) == (
        0,
        ["it could not be deleted here, so it is in both queues"],
    )
    assert ended.status is TaskStatus.SUCCEEDED
    assert list(second.refused) == ["its task has succeeded, a worker would delete the copy"]


async def at_once(seconds: float) -> None:
    """Do not wait."""


async def test_what_would_be_lost_is_refused(bench: Bench) -> None:
    """Of another queue, or of a task that our store does not know: it stays, and it is said."""
    story = json.dumps({"reason": "undecodable_message", "queue": "elsewhere"})
    event = json.dumps({"specversion": "1.0", "id": "0", "source": "/x", "type": "note"})
    for body, told in (("no JSON", story), (event, "{}")):
        await bench.sqs.send(
            bench.local.queue_url("tasks-quarantine"),
            body,
            attributes={"tracebaton-quarantine": told},
        )
    tally = await clearing(bench, redrive(bench), kind="quarantine").run()

    assert (tally.done, bench.count("tasks-quarantine"), bench.count()) == (0, 2, 0)
    assert sorted(tally.refused) == [
        "it came from the queue elsewhere: set TRACEBATON_QUEUE_URL to that",
        "the task store does not know its task: set TRACEBATON_STORE to the workers'",
    ]


async def test_a_fifo_message_keeps_its_group(bench: Bench) -> None:
    """And is not dropped as a copy of what SQS saw minutes ago."""
    bench.local.create_queue("tasks.fifo", {"FifoQueue": "true"})
    bench.local.create_queue("dlq.fifo", {"FifoQueue": "true"})
    bench.name = "tasks.fifo"
    bench.handle(Trial().__call__)
    await bench.producer().enqueue("note", Note(), group_id="g-1")
    (original,) = await bench.take("tasks.fifo")
    await bench.sqs.send(
        bench.local.queue_url("dlq.fifo"),
        original.body,
        attributes=original.every,
        group_id="g-1",
        deduplication_id=original.system["MessageDeduplicationId"],
    )
    await bench.sqs.delete(bench.local.queue_url("tasks.fifo"), [original.receipt_handle])
    run = Clearing(
        bench.sqs,
        bench.named("dlq.fifo"),
        letters=Letters("dlq", queue_name="tasks.fifo", store=bench.store),
        choice=Choice(),
        act=redrive(bench),
        pace=Pace(),
        wait_seconds=0,
    )
    await run.run()
    (copy,) = await bench.take("tasks.fifo")

    assert (copy.body, copy.system["MessageGroupId"]) == (original.body, "g-1")
    assert bench.count("dlq.fifo") == 0


async def test_a_purged_message_leaves_no_task_waiting(bench: Bench) -> None:
    """Its task is ended as dead, told once, before the message goes."""
    bench.handle(Trial().__call__)
    task = await bench.producer().enqueue("note", Note())
    (message,) = await bench.take("tasks")
    url = bench.local.queue_url("tasks")
    await bench.sqs.send(bench.local.queue_url("tasks-dlq"), message.body, attributes=message.every)
    await bench.sqs.delete(url, [message.receipt_handle])
    dead = DeadLetters(
        queue_name="tasks-dlq",
        reader=Reader(queue_name="tasks"),
        store=bench.store,
        tracer=bench.provider.get_tracer("tracebaton"),
        propagator=bench.propagator,
        reporter=bench.reports,
    )
    tally = await clearing(bench, Purge(dead)).run()

    ended = await bench.store.get(task.id)
    assert ended is not None
    assert (tally.done, ended.status, len(bench.reports)) == (1, TaskStatus.DEAD, 1)
    assert bench.count("tasks-dlq") == 0


async def test_a_walk_meets_every_message_once(bench: Bench) -> None:
    """More than one receive brings, and all are visible afterwards."""
    url = bench.local.queue_url("tasks")
    for number in range(25):
        await bench.sqs.send(url, str(number), attributes={})
    met: list[str] = []
    async with Walk(bench.sqs, bench.queue, wait_seconds=0) as walk:
        async for batch in walk:
            met += [message.body for message in batch]

    stats = bench.local.stats()["tasks"]
    assert sorted(met, key=int) == [str(number) for number in range(25)]
    assert (stats["visible"], stats["in_flight"]) == (25, 0)


async def test_a_tally_is_told_as_it_grows(bench: Bench) -> None:
    """For a progress bar."""
    bench.handle(Trial().__call__)
    await died(bench, *"abc")
    seen: list[int] = []

    def tell(tally: Tally) -> None:
        seen.append(tally.seen)

    await clearing(bench, redrive(bench), pace=Pace(rate=1000.0, limit=2), tell=tell).run()

    async def count() -> int:
        return bench.local.stats()["tasks-dlq"]["visible"]

    await until(count, lambda left: bool(left == 1))
    assert seen == [2]

"""``tracebaton dlq`` and ``quarantine``, as an operator types them."""

import asyncio
import json
from pathlib import Path

import pytest
import shop
from command import Command, running
from sqs_client import sqs_client
from stage import Broker

pytestmark = pytest.mark.acceptance

HERE = Path(__file__).parent


def said(broker: Broker, *arguments: str, code: int = 0, **env: str) -> Command:
    """Run the command to its end, which has to be *code*."""
    with running(*arguments, env=broker.env | env, cwd=HERE) as command:
        ended = command.wait()

    assert ended == code, command.lines + command.errors
    return command


def post(broker: Broker, queue: str, body: str) -> None:
    """Put a message of somebody else into *queue*."""

    async def send() -> None:
        sqs = sqs_client(broker.sqs.url)
        await sqs.send(broker.sqs.queue_url(queue), body, attributes={})
        await sqs.close()

    asyncio.run(send())


def test_an_operator_empties_the_dlq(broker: Broker) -> None:
    """Look, choose, try, send back, delete the rest; the DLQ is found by the redrive policy."""
    ids = [broker.enqueue(shop.app.registry, "order", {}, queue="tasks-dlq") for _ in range(2)]
    slow = broker.enqueue(shop.app.registry, "slow", {}, queue="tasks-dlq")
    listed = json.loads(said(broker, "dlq", "list", "--json").lines[0])
    shown = said(broker, "dlq", "show", slow)
    tried = said(broker, "dlq", "redrive", "--type", "order", "--dry-run")
    before = broker.sqs.stats()
    redriven = said(broker, "dlq", "redrive", "--type", "order", "--rate", "100/s", "--json")
    refused = said(broker, "dlq", "purge", code=2)
    purged = said(broker, "dlq", "purge", "--yes")
    after = broker.sqs.stats()

    assert {row["task_id"] for row in listed} == {*ids, slow}
    assert f"task id         {slow}" in shown.lines
    assert tried.lines == ["2 would be redriven, 0 refused, 3 seen"]
    assert (before["tasks-dlq"]["visible"], before["tasks"]["visible"]) == (3, 0)
    assert json.loads(redriven.lines[0]) == {
        "seen": 3,
        "redriven": 2,
        "refused": 0,
        "reasons": {},
        "dry_run": False,
    }
    assert refused.errors == ["tracebaton: purge deletes for good: say --yes"]
    assert purged.lines == ["1 purged, 0 refused, 1 seen"]
    assert (after["tasks-dlq"]["visible"], after["tasks"]["visible"]) == (0, 2)
    assert broker.ended(slow).status == "dead"


def test_what_a_message_says_does_not_drive_the_terminal(broker: Broker) -> None:
    """Escape sequences of an unreadable message are shown and not obeyed."""
    event = {"specversion": "1.0", "id": "\x1b]0;x\x07", "source": "/x", "type": "\x1b[2J\u202e"}
    post(broker, "tasks-dlq", json.dumps(event))
    with running("dlq", "list", env=broker.env, cwd=HERE) as command:
        code = command.wait()

    assert code == 0
    assert "\\x1b[2J\\u202e" in command.lines[1]
    assert [line for line in command.lines if not line.isprintable()] == []


def test_an_empty_queue_is_named(broker: Broker) -> None:
    """So that nobody looks into the wrong one for long; a program reads an empty list."""
    every, some = said(broker, "dlq", "list"), said(broker, "dlq", "list", "--type", "order")
    document = said(broker, "dlq", "list", "--json")

    place = f"in the dead-letter queue, {broker.sqs.queue_url('tasks-dlq')}"
    assert (every.lines, every.errors) == ([], [f"no messages {place}"])
    assert some.errors == [f"no such messages {place}"]
    assert (document.lines, document.errors) == (["[]"], [])


def test_what_cannot_be_is_one_line(broker: Broker) -> None:
    """An unknown id is 1, a missing setting and a bad time are 2, a queue that is away is 1."""
    missing = said(broker, "dlq", "show", "nobody", code=1)
    unset = said(broker, "quarantine", "list", code=2)
    bad = said(broker, "dlq", "list", "--older-than", "soon", code=2)
    nowhere = broker.sqs.queue_url("nowhere")
    away = said(broker, "quarantine", "list", code=1, TRACEBATON_QUARANTINE_URL=nowhere)

    place = f"in the dead-letter queue, {broker.sqs.queue_url('tasks-dlq')}"
    assert missing.errors == [f"tracebaton: there is no message or task nobody {place}"]
    assert unset.errors == ["tracebaton: TRACEBATON_QUARANTINE_URL: is not set"]
    assert "Traceback" not in "".join(bad.errors)
    assert len(away.errors) == 1
    assert "NonExistentQueue" in away.errors[0]

"""``send`` and ``tasks`` against a running API and worker."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import Command, clean_environment, create_key, running
from stage import Broker

pytestmark = pytest.mark.acceptance

HERE = Path(__file__).parent


class Shop:
    """A running shop with keys, and the command for its customers."""

    def __init__(self, env: dict[str, str]) -> None:
        self.env = env

    def run(self, *arguments: str, **env: str) -> tuple[int, list[str], list[str]]:
        """Run the command; return its exit code and what it printed."""
        with running(*arguments, env=self.env | env, cwd=HERE) as command:
            code = command.wait()
        return code, command.lines, command.errors


@pytest.fixture
def shop(broker: Broker) -> Iterator[Shop]:
    """An API and a worker."""
    keys = {"TRACEBATON_API_KEYS_FILE": str(broker.folder / "keys.json")}
    env = broker.env | keys | {"TRACEBATON_AUTH": "api-key"}
    ann = create_key(env, "ann", cwd=HERE)
    with (
        running("api", "shop:app", "--port", "0", env=env, cwd=HERE) as api,
        running("worker", "shop:app", env=env, cwd=HERE) as worker,
    ):
        worker.ready()
        asking = {"TRACEBATON_API_URL": api.ready()["api"], "TRACEBATON_API_KEY": ann}
        yield Shop(env | asking)
        assert _stopped(api, worker) == (0, 0)


def _stopped(*commands: Command) -> tuple[int, ...]:
    return tuple(command.stop() for command in commands)


def test_a_task_is_sent_awaited_and_listed(shop: Shop) -> None:
    """As text and as JSON, twice with one key once, and with an exit code for each end."""
    sent = shop.run("send", "order", '{"item": "book"}', "--wait", "--json")
    again = [
        shop.run("send", "order", "{}", "--json", "--idempotency-key", "k-1") for _ in range(2)
    ]
    closed = shop.run("send", "order", '{"item": "closed"}', "--wait")
    task: dict[str, Any] = json.loads(sent[1][0])
    listed = shop.run("tasks", "--json", "--type", "order", "--all")
    failed = shop.run("tasks", "--status", "failed")

    assert (sent[0], task["status"], task["result"]["user_id"]) == (0, "succeeded", "ann")
    assert again[0][1] == again[1][1]
    assert closed[0] == 1
    assert closed[1][0].endswith("  failed")
    assert closed[1][1] == "rejected: The shop is closed."
    assert [one["task_id"] for one in json.loads(listed[1][0])][-1] == task["task_id"]
    assert len(json.loads(listed[1][0])) == 3
    assert failed[1][0].split("  ")[0] == "task id"
    assert [line.split()[1:3] for line in failed[1][1:]] == [["order", "failed"]]


def test_one_task_is_shown_with_how_it_ended(shop: Shop) -> None:
    """By its id, as text and as the whole resource."""
    good, bad = (
        json.loads(shop.run("send", "order", f'{{"item": "{item}"}}', "--wait", "--json")[1][0])
        for item in ("book", "closed")
    )
    shown, refused = (shop.run("tasks", task["task_id"]) for task in (good, bad))
    whole = shop.run("tasks", bad["task_id"], "--json")

    assert (shown[0], shown[1][1].split()[:3]) == (0, [good["task_id"], "order", "succeeded"])
    assert json.loads("".join(shown[1][2:])) == good["result"]
    assert (refused[0], refused[1][2]) == (0, "rejected: The shop is closed.")
    assert json.loads(whole[1][0]) == bad


def test_a_terminal_shows_how_far_an_awaited_task_is(shop: Shop) -> None:
    """On stderr, so that the JSON on stdout stays a document."""
    ours, theirs = pty.openpty()
    command = ("send", "order", '{"item": "book"}', "--wait", "--json")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tracebaton", *command],
            env=clean_environment() | shop.env | {"TERM": "xterm"},
            cwd=HERE,
            stdout=subprocess.PIPE,
            stderr=theirs,
            timeout=60,
            check=True,
        )
        shown = os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
        os.close(theirs)

    assert json.loads(done.stdout)["status"] == "succeeded"
    assert "order" in shown
    assert "100%" in shown
    assert "succeeded" in shown


def test_what_goes_wrong_is_one_line(shop: Shop) -> None:
    """A bad document is usage; everything the API says no to is a failure."""
    refused = [
        (shop.run("send", "order", "{"), 2, "no JSON document"),
        (shop.run("send", "order", '{"seconds": "long"}'), 1, "/seconds"),
        (shop.run("send", "fax", "{}"), 1, "/docs has those there are"),
        (shop.run("tasks", "t-none"), 1, "404"),
        (shop.run("tasks", "--status", "done"), 1, "/status"),
        (shop.run("tasks", TRACEBATON_API_KEY="x"), 1, "TRACEBATON_API_KEY"),
        (shop.run("tasks", TRACEBATON_API_URL="http://127.0.0.1:9"), 1, "cannot be reached"),
        (shop.run("tasks", TRACEBATON_API_URL="shop"), 2, "TRACEBATON_API_URL"),
    ]

    for (code, lines, errors), expected, words in refused:
        assert (code, lines, len(errors)) == (expected, [], 1), errors
        assert words in errors[0]

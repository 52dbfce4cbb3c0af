"""Every block of docs/tasks.md does what it says."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from command import clean_environment, ended, running

pytestmark = pytest.mark.acceptance

PAGE = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
PYTHON, SUBMIT, SHOW, LIST, LISTEN, AGAIN, CANCEL, KEYS, TERMINAL = (text for _, text in BLOCKS)
DEV = ("dev", "service:app", "--port", "0", "--sqs-port", "0", "--viewer-port", "0")


@dataclass
class Running:
    """The page's application, and the shell of whoever follows the page."""

    url: str
    folder: Path

    def shell(self, block: str, *, task: str = "") -> str:
        """Run a block's commands, one line each, and return what they print."""
        lines = block.replace("http://127.0.0.1:8000", self.url).replace("$TASK", self.url + task)
        env = clean_environment() | {"TRACEBATON_API_URL": self.url}
        told = []
        for line in lines.strip().splitlines():
            command = shlex.split(line)
            if command[0] == "export":
                env |= dict(one.split("=", 1) for one in command[1:])
                continue
            if command[0] == "tracebaton":
                command[:1] = [sys.executable, "-m", "tracebaton"]
            done = subprocess.run(
                command, capture_output=True, text=True, check=True, env=env, cwd=self.folder
            )
            told.append(done.stdout)
        return "\n".join(told)

    def submitted(self, name: str, **more: Any) -> dict[str, Any]:
        """Submit a report by the page's own route and return the task's resource."""
        answer = httpx.post(f"{self.url}/reports", json={"name": name, **more})
        resource: dict[str, Any] = answer.raise_for_status().json()
        return resource


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Run the application of the page with everything it needs."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "service.py").write_text(PYTHON)
    with running(*DEV, env={}, cwd=folder) as dev:
        yield Running(dev.ready()["api"], folder)
        assert dev.stop() == 0


def finished(page: Running, task_id: str) -> dict[str, Any]:
    """Wait for a task's end."""
    with httpx.Client(base_url=page.url) as http:
        return ended(http, task_id)


def numbers(events: str) -> list[int]:
    """Return the ids of the events in a stream."""
    return [int(number) for number in re.findall(r"^id: (\d+)$", events, re.MULTILINE)]


def test_submit_once(page: Running) -> None:
    """The same command again has the same task; the head has what the page names."""
    first, second = (page.shell(SUBMIT) for _ in range(2))
    bodies = [json.loads(one.partition("\n\n")[2]) for one in (first, second)]
    fields = re.search(r"the body `\{(.*?)\}`", PAGE)
    assert fields is not None

    assert first.startswith("HTTP/1.1 202")
    assert f"location: /v1/tasks/{bodies[0]['task_id']}" in first
    assert list(bodies[0]) == fields[1].split(", ")
    assert bodies[0] == bodies[1]
    assert "idempotency-replayed" not in first
    assert "idempotency-replayed: true" in second


def test_look_and_list(page: Running) -> None:
    """The task has what the page says it has, and the list has two of them and goes on."""
    made = [page.submitted(f"month {number}")["task_id"] for number in range(3)]
    done = [finished(page, task_id) for task_id in made]
    shown = json.loads(page.shell(SHOW, task=f"/v1/tasks/{made[0]}"))
    listed = json.loads(page.shell(LIST))

    assert shown == done[0]
    assert (shown["status"], shown["progress"], shown["result"]) == ("succeeded", 100, {"pages": 3})
    assert [task["task_id"] for task in listed["tasks"]] == made[:0:-1]
    assert listed["next_cursor"] is not None


def test_listen(page: Running) -> None:
    """From the creation to the end, and from an event on; a model's errors are a problem."""
    task_id = page.submitted("July", pages=4)["task_id"]
    whole = page.shell(LISTEN, task=f"/v1/tasks/{task_id}")
    rest = page.shell(AGAIN, task=f"/v1/tasks/{task_id}")
    refused = httpx.post(f"{page.url}/reports", json={"name": ""})

    assert numbers(whole) == list(range(1, len(numbers(whole)) + 1))
    assert numbers(rest) == numbers(whole)[2:]
    assert '"progress_message":"page 4"' in whole
    assert "event: result" in whole
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/name")


def test_cancel(page: Running) -> None:
    """The task ends there, and once."""
    path = f"/v1/tasks/{page.submitted('August', pages=600)['task_id']}"
    cancelled = json.loads(page.shell(CANCEL, task=path))
    again = json.loads(page.shell(CANCEL, task=path))

    assert cancelled["status"] == "cancelled"
    assert (again["status"], again["code"]) == (409, "conflict")


def test_the_document_has_the_page_s_route(page: Running) -> None:
    """With the body that its model makes of it."""
    document = httpx.get(f"{page.url}/openapi.json").json()
    body = document["paths"]["/reports"]["post"]["requestBody"]["content"]["application/json"]

    assert body["schema"] == {"$ref": "#/components/schemas/Report"}


def test_keys(page: Running) -> None:
    """The commands as they stand: a key, and a list without it."""
    created, listed = page.shell(KEYS).split("\n\n", 1)

    assert created.startswith("tb_")
    assert "alice" in listed
    assert created.strip() not in (page.folder / "keys.json").read_text()


def test_from_a_terminal(page: Running) -> None:
    """Send and wait, then list what was sent."""
    told = page.shell(TERMINAL)

    assert "succeeded" in told
    assert '"pages": 3' in told
    assert told.count("report") >= 2

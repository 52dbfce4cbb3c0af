"""Every block of the README does what it says."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from command import clean_environment, ended, running

pytestmark = pytest.mark.acceptance

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
PYTHON = [text for kind, text in BLOCKS if kind == "python"]
DEV = ("dev", "--port", "0", "--sqs-port", "0", "--viewer-port", "0")


def test_every_block_is_one_that_is_run_here() -> None:
    """A new block needs a test of its own."""
    assert [(kind, text.splitlines()[0].split()[0]) for kind, text in BLOCKS] == [
        ("sh", "python3"),
        ("sh", "curl"),
        ("sh", "python3"),
        ("python", "from"),
        ("python", "from"),
    ]


def test_the_two_commands_exist() -> None:
    """Both scripts can be run as written; what they run, the other tests run."""
    commands = [text.strip() for kind, text in BLOCKS if text.startswith("python3")]

    assert commands == ["python3 scripts/dev", "python3 scripts/test"]
    for command in commands:
        assert (ROOT / command.split()[1]).is_file()


def test_the_curl_of_the_readme_is_answered(tmp_path: Path) -> None:
    """The printed request gives a task that succeeds and a trace that the viewer shows."""
    [curl] = [text.strip() for kind, text in BLOCKS if text.startswith("curl")]
    with running(*DEV, env={}, cwd=tmp_path) as dev:
        ready = dev.ready()
        command = curl.replace("http://127.0.0.1:8000", ready["api"])
        answer = subprocess.run(shlex.split(command), capture_output=True, text=True, check=True)
        accepted = httpx.Response(202, text=answer.stdout).json()
        with httpx.Client(base_url=ready["api"]) as http:
            task = ended(http, accepted["task_id"])
        page = httpx.get(ready["viewer"])
        code = dev.stop()

    assert task["status"] == "succeeded"
    assert accepted["links"]["trace"].startswith(ready["viewer"])
    assert (page.status_code, code) == (200, 0)


def test_the_application_of_the_readme_runs(tmp_path: Path) -> None:
    """Saved as service.py it serves its route and its task."""
    write_service(tmp_path)
    with running(DEV[0], "service:app", *DEV[1:], env={}, cwd=tmp_path) as dev:
        ready = dev.ready()
        with httpx.Client(base_url=ready["api"]) as http:
            sent = http.post("/greetings", json={"name": "Ada"}, headers={"X-Correlation-ID": "c"})
            task = ended(http, sent.json()["task_id"])
        dev.stop()

    assert sent.status_code == 202
    assert task["result"] == {"said": "hello Ada", "for": "c"}


def test_the_test_of_the_readme_passes(tmp_path: Path) -> None:
    """Beside service.py, pytest runs it as it stands."""
    write_service(tmp_path)
    (tmp_path / "test_service.py").write_text(PYTHON[1])
    pytest_run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-o", "asyncio_mode=auto", "--rootdir", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=clean_environment() | {"PYTHONPATH": str(tmp_path)},
    )

    assert "1 passed" in pytest_run.stdout, pytest_run.stdout


def write_service(folder: Path) -> None:
    """Save the application of the README as service.py."""
    (folder / "service.py").write_text(PYTHON[0])


def test_every_variable_of_the_readme_is_a_setting() -> None:
    """The settings table names nothing that is not read."""
    from tracebaton.settings import ENVIRONMENT

    table = README.split("## Settings")[1].split("## More")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `TRACE")]
    names = re.findall(r"`(TRACEBATON_\w+)`", "".join(rows))

    assert names
    assert set(names) <= set(ENVIRONMENT.values())

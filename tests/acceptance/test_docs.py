"""Every block of the pages in docs/ can be run as it stands, or is held against what it names."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import typer
import yaml
from click import Group
from command import clean_environment, ended, running

from tracebaton.cli import command
from tracebaton.errors import TracebatonError
from tracebaton.settings import ENVIRONMENT, Settings

pytestmark = pytest.mark.acceptance

ROOT = Path(__file__).parents[2]
#: These have tests of their own, which run each block against a real backend.
ELSEWHERE = {"jaeger.md", "sentry.md", "tasks.md"}
PAGES = sorted(path for path in (ROOT / "docs").glob("*.md") if path.name not in ELSEWHERE)
BLOCKS = [
    (path.name, kind, text)
    for path in PAGES
    for kind, text in re.findall(r"```(\w+)\n(.*?)```", path.read_text(), re.DOTALL)
]
DEV = ("dev", "--port", "0", "--sqs-port", "0", "--viewer-port", "0")


def blocks(kind: str) -> list[tuple[str, str]]:
    """Return page and text of each block of *kind*."""
    return [(page, text) for page, found, text in BLOCKS if found == kind]


def test_no_block_is_of_a_kind_that_nobody_looks_at() -> None:
    """Shell and Python are run or checked; `text` is for queries of other products."""
    assert {kind for _, kind, _ in BLOCKS} <= {"sh", "python", "text"}
    assert len(blocks("python")) >= 8


@pytest.mark.parametrize(("page", "text"), blocks("python"))
def test_python_runs(page: str, text: str, tmp_path: Path) -> None:
    """Each block is a whole program; one with tests in it is run by pytest."""
    program = tmp_path / ("test_page.py" if "def test_" in text else "page.py")
    program.write_text(text)
    pytest_run = ["-m", "pytest", "-q", "-o", "asyncio_mode=auto", "--rootdir", "."]
    run = [sys.executable, *(pytest_run if "def test_" in text else ["-W", "error"])]
    done = subprocess.run(
        [*run, str(program)],
        cwd=tmp_path,
        env=clean_environment() | {"TRACEBATON_DATA": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode == 0, f"{page}: {done.stdout}{done.stderr}"


@pytest.mark.parametrize(("page", "text"), blocks("sh"))
def test_shell_names_what_there_is(page: str, text: str) -> None:
    """Scripts, variables, and the command with its options."""
    for line in text.strip().splitlines():
        words = shlex.split(line)
        match words[0]:
            case "tracebaton":
                accepted(words[1:])
            case "python3":
                assert (ROOT / words[1]).is_file(), f"{page}: {line}"
            case "export":
                assert all(word.partition("=")[0] in ENVIRONMENT.values() for word in words[1:])
            case _:
                pytest.fail(f"{page}: {line}")


def accepted(words: list[str]) -> None:
    """Let the command parse *words*, without doing anything."""
    found = typer.main.get_command(command)
    while isinstance(found, Group):
        found = found.commands[words.pop(0)]
    found.make_context("tracebaton", words)


def test_the_settings_of_the_production_page_fit_each_other() -> None:
    """All exports of the page together are settings that a process starts with."""
    text = (ROOT / "docs/production.md").read_text()
    given = dict(re.findall(r"^export (\w+)=(\S+)$", text, re.MULTILINE))
    given["SENTRY_DSN"] = "https://key@sentry.test/1"

    assert Settings.load(given).auth == "api-key"


def test_the_first_trace(tmp_path: Path) -> None:
    """The page's application under `dev`, its task sent and its trace drawn, as the page says."""
    python, *_ = [text for page, text in blocks("python") if page == "first-trace.md"]
    (tmp_path / "service.py").write_text(python)
    with running(DEV[0], "service:app", *DEV[1:], env={}, cwd=tmp_path) as dev:
        api = dev.ready()["api"]
        with running(
            "send", "report", '{"month": 7}', "--wait", "--json", env={}, cwd=tmp_path
        ) as send:
            assert send.wait() == 0
        task = json.loads(send.lines[0])
        with httpx.Client(base_url=api) as http:
            late = http.post("/v1/tasks/report", json={"month": 12}).json()
            never = http.post("/v1/tasks/report", json={"month": 13}).json()
            second, refused = ended(http, late["task_id"]), ended(http, never["task_id"])
        with running("trace", task["task_id"], env={}, cwd=tmp_path) as trace:
            assert trace.wait() == 0
        dev.stop()

    assert task["result"] == {"month": "7", "asked_by": task["correlation_id"]}
    assert (second["status"], second["attempt"]) == ("succeeded", 2)
    assert (refused["status"], refused["error"]["detail"]) == ("failed", "There is no month 13")
    assert "process tasks" in "\n".join(trace.lines)


def every(cls: type[TracebatonError]) -> list[type[TracebatonError]]:
    """Return *cls* and every class of ours below it."""
    below = [sub for sub in cls.__subclasses__() if sub.__module__.startswith("tracebaton.")]
    return [cls, *(found for sub in below for found in every(sub))]


@pytest.mark.parametrize("cls", every(TracebatonError), ids=lambda cls: str(cls.code))
def test_the_type_of_a_problem_leads_somewhere(cls: type[TracebatonError]) -> None:
    """Each code has its section, which is the anchor, and says of it what the class says."""
    page = (ROOT / "docs/errors.md").read_text()
    _, found, section = page.partition(f"\n## {cls.code}\n")
    first = section.split("\n## ")[0]
    retryable = "retryable" if cls.retryable else "not retryable"

    assert found
    assert f"**{cls.title}**, {cls.status}, {retryable} (`{cls.__name__}`)." in first
    assert len(first.strip().splitlines()) >= 4  # and what to do


def test_every_page_is_in_the_navigation() -> None:
    """A page that no menu shows is not found by anybody."""
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    listed = [
        page
        for entry in nav
        for page in (next(iter(entry.values())) if isinstance(entry, dict) else [entry])
    ]

    assert sorted(listed) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_pictures_are_there_and_small() -> None:
    """A page that takes seconds to load is not read."""
    shown = {
        name
        for path in (ROOT / "docs").glob("*.md")
        for name in re.findall(r"\]\((\S+\.png)\)", path.read_text())
    }

    assert len(shown) >= 5
    assert {name for name in shown if (ROOT / "docs" / name).stat().st_size > 200_000} == set()
    assert shown == {path.name for path in (ROOT / "docs").glob("*.png")}

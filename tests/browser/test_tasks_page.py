"""The list of tasks and one task's page, beside a `tracebaton dev` that is asked for real."""

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from command import running

from .conftest import watched

pytestmark = pytest.mark.browser

#: Milliseconds to wait for what one process tells another over OTLP.
PATIENCE = 20_000

SERVICE = """
import asyncio
from pathlib import Path

from pydantic import BaseModel

from tracebaton import RetryLater, Tracebaton, current, progress

app = Tracebaton()


class Report(BaseModel):
    pages: int


async def told(name):
    while not Path(name).exists():
        await asyncio.sleep(0.02)


@app.task("report", model=Report, deadline=60)
async def report(data: Report) -> dict[str, int]:
    if current().attempt == 1:
        await progress(30, "page 3")
        await told("retry")
        raise RetryLater(delay=0)
    await progress(20, "page 2")
    await told("on")
    await progress(80, "page 8")
    await told("end")
    return {"pages": data.pages}
"""


@pytest.fixture
def dev(browser: Any, tmp_path: Path) -> Iterator[SimpleNamespace]:
    """Yield what `tracebaton dev` serves, with what lets its handler go on."""
    (tmp_path / "service.py").write_text(SERVICE)
    command = ("dev", "service:app", "--port", "0", "--sqs-port", "0", "--viewer-port", "0")
    with running(*command, env={}, cwd=tmp_path) as started:
        ready = started.ready()
        yield SimpleNamespace(
            api=ready["api"], viewer=ready["viewer"], go=lambda name: (tmp_path / name).touch()
        )


def test_a_task_is_watched_from_the_send_to_its_end(
    browser: Any, dev: SimpleNamespace, expect: Any
) -> None:
    """The list fills, progress moves, a retry shows, and each attempt leads to its span."""
    with watched(browser, dev.viewer) as page:
        page.goto("/")
        page.get_by_role("link", name="Tasks").click()
        page.get_by_text("Waiting for the first task").wait_for()
        task = httpx.post(f"{dev.api}/v1/tasks/report", json={"pages": 10}).json()
        row = page.locator(".task")
        expect(row.locator(".progress")).to_have_text("30 %page 3", timeout=PATIENCE)
        expect(row.locator(".badge")).to_have_text(["running"])
        assert row.get_attribute("data-task-id") == task["task_id"]
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        bar = page.get_by_role("progressbar")
        expect(bar).to_have_attribute("aria-valuenow", "30", timeout=PATIENCE)
        dev.go("retry")
        expect(bar).to_have_attribute("aria-valuenow", "20", timeout=PATIENCE)
        attempts = page.locator(".attempt .badge")
        expect(attempts).to_have_text(["retried", "running"], timeout=PATIENCE)
        dev.go("on")
        expect(bar).to_have_attribute("aria-valuenow", "80", timeout=PATIENCE)
        expect(page.locator(".progress .message")).to_have_text("page 8")
        dev.go("end")
        expect(attempts).to_have_text(["retried", "succeeded"], timeout=PATIENCE)
        expect(bar).to_have_attribute("aria-valuenow", "100")
        expect(page.locator(".line b").last).to_have_text("task.succeeded", timeout=PATIENCE)
        events = page.locator(".line b").all_inner_texts()
        heading = page.locator(".title h1").inner_text()

        assert page.url == f"{dev.viewer}/#/task/{task['task_id']}"
        assert heading == "report"
        # The line of the send is written when SQS has answered: a worker may be faster.
        assert events.count("task.enqueued") == 1
        assert [event for event in events if event != "task.enqueued"] == [
            *("task.started", "task.progress", "task.retried"),
            *("task.started", "task.progress", "task.progress", "task.succeeded"),
        ]
        page.set_viewport_size({"width": 360, "height": 740})
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        page.set_viewport_size({"width": 1280, "height": 800})
        page.locator(".attempt a").last.click()
        page.locator(".span.selected").wait_for(timeout=PATIENCE)
        badges = page.locator(".span .badge").all_inner_texts()
        assert [badge for badge in badges if badge.startswith("attempt")] == [
            "attempt 1",
            "attempt 2",
        ]
        assert page.locator(".span.selected .label").inner_text() == "process tasks"
        page.keyboard.press("t")
        page.get_by_role("button", name="Running").click()
        page.get_by_text("No task matches").wait_for()
        page.keyboard.press("Escape")
        expect(page.get_by_text(re.compile("^1 task$"))).to_have_count(1)

"""The fault tests: real workers, a storm on the wire, kill -9, and everything ends once."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from tracebaton.testing import Chaos, Plan
from tracebaton.testing.journal import Journal

pytestmark = pytest.mark.acceptance

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers' application is looked up in the current folder."""
    monkeypatch.chdir(HERE)
    monkeypatch.syspath_prepend(HERE)


@pytest.mark.timeout(300)
def test_every_task_ends_once_whatever_goes_wrong(tmp_path: Path) -> None:
    """
    None is lost, stuck or ended twice; killed workers' tasks are dead and in the DLQ; each that
    finally failed is one error event; workers drain cleanly, hold no more files than before, and
    use every one of their places again.
    """
    from voyages import naps, rightly_ended, voyages

    plan = Plan(
        items=voyages(200, leaks=6, mines=1),
        finale=naps(60),
        attempts=5,
        kill_seconds=5.0,
        outage_seconds=6.0,
        lose=0.05,
        storm_seconds=20.0,
    )
    run = Chaos("harbour:app", plan, folder=tmp_path, check=rightly_ended)
    verdict = asyncio.run(run.run())
    peaks = Journal(tmp_path / "journal.jsonl").peaks()

    assert list(verdict.findings) == []
    assert verdict.figures["tasks"]["dead"] >= 7
    assert verdict.figures["dlq"] >= 7
    assert verdict.figures["error events"]["heard"] >= 5
    assert verdict.figures["store outages"] >= 1
    assert sum(verdict.figures["faults"].values()) > 50
    assert sorted(peaks.values())[-2:] == [10, 10]


@pytest.mark.timeout(300)
def test_groups_keep_their_order_whatever_goes_wrong(tmp_path: Path) -> None:
    """A FIFO queue in the same storm: no follower runs before its head is through."""
    from voyages import rightly_ended, voyages

    plan = Plan(
        items=voyages(150, leaks=4),
        finale=voyages(20),
        groups=20,
        attempts=6,
        kill_seconds=5.0,
        outage_seconds=6.0,
        lose=0.05,
        storm_seconds=25.0,
    )
    run = Chaos("harbour:app", plan, folder=tmp_path, check=rightly_ended)
    verdict = asyncio.run(run.run())

    assert list(verdict.findings) == []
    assert verdict.figures["tasks"]["dead"] >= 4
    assert verdict.figures["store outages"] >= 1


@pytest.mark.timeout(300)
async def test_the_command_finds_a_handler_that_is_not_idempotent() -> None:
    """`tracebaton chaos` ends with 1 and says which task contradicted itself."""
    command = ("chaos", "careless:app", "--messages", "30", "--workers", "1", "--no-kill")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tracebaton", *command, "--seconds", "3", "--json"),
        cwd=HERE,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    verdict = json.loads(out)

    assert (process.returncode, verdict["good"]) == (1, False)
    assert any(finding.startswith("not idempotent: task ") for finding in verdict["findings"])

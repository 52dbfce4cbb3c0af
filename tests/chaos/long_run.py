"""The long form: started by `scripts/chaos`, not collected by pytest."""

import asyncio
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from voyages import naps, rightly_ended, voyages

from tracebaton.testing import Chaos, Plan
from tracebaton.testing.chaos import Progress
from tracebaton.testing.journal import Journal


def main(messages: int = 20_000, seed: int = 1) -> int:
    """Run, first on a standard queue, then on a FIFO queue, and return the exit code."""
    plain = Plan(
        items=voyages(messages, leaks=messages // 200, mines=3),
        finale=naps(300),
        workers=3,
        concurrency=25,
        seed=seed,
        attempts=6,
        kill_seconds=8.0,
        outage_seconds=90.0,
        lose=0.02,
        storm_seconds=messages / 15,
        patience=300.0,
    )
    fifo = replace(
        plain,
        items=voyages(messages // 10, leaks=messages // 1_000),
        finale=voyages(100),
        groups=100,
        storm_seconds=messages / 60,
    )
    return max([held("standard", plain), held("fifo", fifo)])


def held(name: str, plan: Plan) -> int:
    """Run *plan*, print its figures, and return the exit code."""
    told = [0.0]

    def tell(progress: Progress) -> None:
        if time.monotonic() > told[0] + 10:
            told[0] = time.monotonic()
            print(progress, file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        run = Chaos("harbour:app", plan, folder=Path(folder), tell=tell, check=rightly_ended)
        verdict = asyncio.run(run.run())
        peaks = Journal(Path(folder) / "journal.jsonl").peaks()
    print(f"{name} {json.dumps(verdict.figures, indent=1)}")
    print(f"peaks {sorted(peaks.values())}")
    print("\n".join(verdict.findings) or "everything held", flush=True)
    return 0 if verdict.good else 1


if __name__ == "__main__":
    raise SystemExit(main(*map(int, sys.argv[1:])))

"""The benches run: a few requests each, and nobody looks at the times."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def figures(*command: str, row: str, folder: Path) -> dict[str, float]:
    """Run a bench with next to nothing to do, and return the figures of its *row*."""
    bench, *words = command
    told = folder / "told.json"
    quick = [*words, "--quick", "--json", str(told)]
    subprocess.run([sys.executable, str(ROOT / "bench" / bench), *quick], check=True, timeout=100)
    found: dict[str, float] = json.loads(told.read_text())["rounds"][0][row]
    return found


def family(pid: int) -> list[int]:
    """Return the processes that *pid* has started, and those that they have."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [one for child in map(int, children) for one in (child, *family(child))]


def gone(pid: int) -> bool:
    """Tell whether *pid* has ended."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_bench_that_is_cut_leaves_no_server(number: signal.Signals) -> None:
    """``timeout`` and ``kill -9`` end its servers too, and what they have started."""
    command = [sys.executable, str(ROOT / "bench" / "telemetry"), "saturation"]
    command += ["--quick", "--only", "ours", "--rounds", "20"]
    bench = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while len(servers := family(bench.pid)) < 2:  # the sink and the service
            assert time.monotonic() < deadline
            time.sleep(0.02)
        bench.send_signal(number)
        bench.wait(30)
        while not all(map(gone, servers)):
            assert time.monotonic() < deadline + 30, servers
            time.sleep(0.02)
    finally:
        bench.kill()
        bench.wait()


@pytest.mark.parametrize(
    ("part", "row", "figure"),
    [
        ("requests", "ours-sentry", "cpu_us"),
        ("messages", "ours-sentry", "cpu_us"),
        ("saturation", "ours", "rps"),
        ("sinks", "ours, refused", "p99_ms"),
    ],
)
def test_telemetry_bench_measures(part: str, row: str, figure: str, tmp_path: Path) -> None:
    """Each part of the bench asks a few times and tells the figure it is there for."""
    told = figures("telemetry", part, "--only", row, row=row, folder=tmp_path)

    assert told[figure] > 0


@pytest.mark.parametrize(
    ("part", "row", "figure"),
    [
        ("burst", "ours", "arrived"),
        ("memory", "requests", "spans_sent"),
        ("threads", "spans", "spans_sent"),
    ],
)
def test_sentry_bench_measures(part: str, row: str, figure: str, tmp_path: Path) -> None:
    """Each part sends a little and tells what arrived."""
    told = figures("sentry", part, row=row, folder=tmp_path)

    assert told[figure] > 0


@pytest.mark.parametrize(
    ("command", "row", "figure"),
    [
        (["consume", "trivial"], "ours", "rate"),
        (["consume", "trivial"], "by hand, boto3", "rate"),
        (["produce"], "ours", "rps"),
    ],
)
def test_queue_benches_measure(command: list[str], row: str, figure: str, tmp_path: Path) -> None:
    """Nothing is lost on the way, and the figure it is there for is told."""
    if shutil.which("go") is None:
        pytest.skip("the broker of the queue benches is built by Go")
    told = figures(*command, "--only", row, row=row, folder=tmp_path)

    assert told[figure] > 0
    assert told.get("lost", 0) == told.get("doubled", 0) == 0
    assert told.get("sent", 1) >= 1


def test_the_long_bench_measures() -> None:
    """A queue that is filled again and again is emptied each time, and the memory is told."""
    if shutil.which("go") is None:
        pytest.skip("the broker of the queue benches is built by Go")
    command = [sys.executable, str(ROOT / "bench" / "endure"), "--messages", "400", "--wave", "40"]
    told = subprocess.run(command, check=True, timeout=100, capture_output=True, text=True)
    waves = [
        json.loads(line.partition(": ")[2].partition(": ")[2])
        for line in told.stderr.splitlines()
        if "cpu_us" in line
    ]

    assert len(waves) == 10
    assert all(one["resident_mib"] > 10 and one["redelivered"] == 0 for one in waves)
    assert "| memory at the end, MiB |" in told.stdout


@pytest.mark.parametrize(
    ("part", "row", "figure"),
    [
        ("submit", "ours, 2", "rps_64"),
        ("get", "bare", "rps_1"),
        ("events", "ours", "rps_1"),
        ("listeners", "ours", "memory_mib"),
        ("alone", "ours", "loop_us"),
    ],
)
def test_http_bench_measures(part: str, row: str, figure: str, tmp_path: Path) -> None:
    """Every answer is the one that was asked for, and what is accepted is sent."""
    if shutil.which("go") is None:
        pytest.skip("the broker of the queue benches is built by Go")
    told = figures("http", part, "--only", row, row=row, folder=tmp_path)

    assert told[figure] > 0
    assert told.get("sent", 1) >= 1


@pytest.mark.parametrize(
    ("part", "row", "figure"),
    [
        ("page", "Chromium", "waterfall_ms"),
        ("ingest", "json", "rate"),
        ("start", "tracebaton --help", "seconds"),
    ],
)
def test_viewer_bench_measures(part: str, row: str, figure: str, tmp_path: Path) -> None:
    """The page is looked at, the intake fed, the command started."""
    if part == "page" and not Path("/usr/bin/chromium").exists():
        if os.environ.get("CI"):
            pytest.fail("Chromium is missing (scripts/chromium installs it)")
        pytest.skip("Chromium is missing")
    told = figures("viewer", part, "--only", row, row=row, folder=tmp_path)

    assert told[figure] > 0

"""``bench``: an application under load, with its worker, as whoever sizes it runs it."""

import json
from pathlib import Path

import pytest
from command import running

pytestmark = pytest.mark.acceptance

HERE = Path(__file__).parent


def test_it_measures_traced_and_not(tmp_path: Path) -> None:
    """Every request is accepted and every task ends; the figures are there for both."""
    with running(
        "bench", "--requests", "20", "--connections", "4", "--json", env={}, cwd=tmp_path
    ) as bench:
        code = bench.wait(seconds=120)
    (line,) = bench.lines
    bare, traced = json.loads(line)

    assert code == 0
    assert (bare["traced"], traced["traced"]) == (False, True)
    for one in (bare, traced):
        assert (one["accepted"], one["failed"], one["left"]) == (20, 0, 0)
        assert 0 < one["p50_ms"] <= one["p99_ms"]
        assert one["requests_per_second"] > 0
        assert one["tasks_per_second"] > 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--type", "none"), 2, "known: ai.chat"),
        (("--data", "{"), 2, "is no JSON document"),
        (("--data", '{"message": 1}'), 1, "422"),
        (("no_such:app",), 2, "no module"),
    ],
)
def test_what_it_cannot_measure(
    arguments: tuple[str, ...], code: int, said: str, tmp_path: Path
) -> None:
    """One line, and no figures."""
    with running("bench", *arguments, env={}, cwd=tmp_path) as bench:
        left = bench.wait(seconds=120)

    assert (left, bench.lines) == (code, [])
    assert said in " ".join(bench.errors)

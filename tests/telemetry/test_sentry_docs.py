"""What docs/sentry.md says is what the settings and the code do."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from tracebaton.settings import Settings
from tracebaton.telemetry.sentry.connection import QUEUE_SIZE, QUEUE_SPANS
from tracebaton.telemetry.sentry.transport import CONNECTIONS
from tracebaton.telemetry.units import UNIT_SPANS

TEXT = (Path(__file__).parents[2] / "docs" / "sentry.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("block", [text for kind, text in BLOCKS if kind == "sh"])
def test_every_variable_of_a_block_is_one_that_is_read(block: str) -> None:
    """With a value that is taken."""
    lines = [shlex.split(line) for line in block.splitlines()]
    given = dict(word.split("=", 1) for export, word in lines if export == "export")
    filled = {
        name: value.replace("HOST/PROJECT_ID", "sentry.example/1") for name, value in given.items()
    }

    assert len(given) == len(lines)
    if any(name.startswith("TRACEBATON_LIVE_") for name in given):
        live = (Path(__file__).parents[1] / "live_sentry" / "test_live_sentry.py").read_text()
        assert all(name.rpartition("_")[2] in live for name in given)
    else:
        settings = Settings.load(filled)
        assert settings.model_fields_set
        assert {Settings.model_fields[n].alias for n in settings.model_fields_set} == set(given)


def test_the_rates_of_the_code_are_the_applications() -> None:
    """The one Python block runs."""
    [block] = [text for kind, text in BLOCKS if kind == "python"]
    space: dict[str, Any] = {"__name__": "docs"}
    exec(compile(block, "docs/sentry.md", "exec"), space)

    assert space["app"].sample_rates == {
        "report.daily": 0.5,
        "GET /v1/feed": 0.01,
        "HEAD /v1/feed": 0.01,
    }


def test_the_limits_are_the_codes() -> None:
    """Four numbers that a reader plans with."""

    assert f"at most {CONNECTIONS} connections" in TEXT
    assert f"{QUEUE_SIZE:,} transactions and {QUEUE_SPANS:,} spans may wait" in TEXT
    assert f"{UNIT_SPANS:,}, the last ones" in TEXT

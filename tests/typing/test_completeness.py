"""Whoever imports the package gets its types: pyright's own measure of that, as a floor."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PYRIGHT = ROOT / ".tools" / "pyright" / "node_modules" / "pyright" / "index.js"
#: Folders and modules that may still set an attribute without naming its type, which other type
#: checkers may infer differently. Nothing may join them, and what is whole is struck out.
UNNAMED = {
    *("errors", "examples", "http", "queue", "runtime", "settings", "tasks", "telemetry"),
    "testing",
}
#: The share of all names, those of private modules included, whose type is wholly known.
FLOOR = 0.9


@pytest.fixture(scope="module")
def completeness() -> dict[str, Any]:
    """Return what pyright says of the package's types; skip without it, fail in CI."""
    if not PYRIGHT.exists() or shutil.which("node") is None:
        reason = "pyright is missing (scripts/pyright installs it)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    # Only of the first Python on the path it looks through the packages in this mode.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["node", PYRIGHT, "--outputjson", "--verifytypes", "tracebaton", "--ignoreexternal"],
        env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT / "src")},
        cwd=ROOT / "tests",
        stdout=subprocess.PIPE,
        text=True,
        timeout=110,
    )
    found: dict[str, Any] = json.loads(done.stdout)["typeCompleteness"]
    return found


def test_the_types_of_nine_names_in_ten_are_wholly_known(completeness: dict[str, Any]) -> None:
    """What is not is known in all but an attribute, or inherits from what is."""
    assert completeness["ignoreUnknownTypesFromImports"]
    assert completeness["completenessScore"] >= FLOOR


def test_every_attribute_names_its_type(completeness: dict[str, Any]) -> None:
    """In all folders but those that are still to be gone through."""
    unnamed = {
        symbol["name"]
        for symbol in completeness["symbols"]
        if symbol["isExported"]
        for told in symbol["diagnostics"]
        if "missing type annotation" in told["message"]
        if symbol["name"].split(".")[1] not in UNNAMED
    }

    assert unnamed == set()

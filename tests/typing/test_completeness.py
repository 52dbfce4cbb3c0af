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
#: The share of all names, those of private modules included, whose type is wholly known.
FLOOR = 0.98


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


def test_nearly_all_names_have_a_type_that_is_wholly_known(completeness: dict[str, Any]) -> None:
    """What is not comes from a package that is not wholly typed."""
    assert completeness["ignoreUnknownTypesFromImports"]
    assert completeness["completenessScore"] >= FLOOR


def test_every_attribute_names_its_type(completeness: dict[str, Any]) -> None:
    """Type checkers may infer one differently, so that none is left to them."""
    unnamed = {
        symbol["name"]
        for symbol in completeness["symbols"]
        if symbol["isExported"]
        for told in symbol["diagnostics"]
        if "missing type annotation" in told["message"]
    }

    assert unnamed == set()

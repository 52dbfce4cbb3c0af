"""
Peers, each in a folder of its own that git ignores, installed when a bench needs it first.

A peer pins what we do not pin (logfire the SDK, aiobotocore botocore), so none shares our `.venv`.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rounds import ROOT, say

TOOLS = ROOT / ".tools"


def python_peer(name: str, requirements: Sequence[str]) -> Path:
    """Return the Python of a virtual environment that has *requirements*."""
    folder = TOOLS / f"bench-{name}"
    python = folder / "bin" / "python"
    if _is_due(folder, requirements):
        say(f"installing {name}: {' '.join(requirements)}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *requirements], check=True)
        _note(folder, requirements)
    return python


def node_peer(name: str, packages: Sequence[str]) -> Path:
    """Return a folder whose ``node_modules`` has *packages*."""
    folder = TOOLS / f"bench-{name}"
    if _is_due(folder, packages):
        say(f"installing {name}: {' '.join(packages)}")
        folder.mkdir(parents=True, exist_ok=True)
        npm = ["npm", "install", "--silent", "--no-fund", "--no-audit", "--prefix", str(folder)]
        subprocess.run([*npm, *packages], check=True)
        _note(folder, packages)
    return folder


def own_python() -> Path:
    """Return the Python of this checkout's `.venv`, with what the tests need."""
    sys.path.insert(0, str(ROOT / "scripts"))
    from environment import ready

    return ready(dev=True)


def beside_ours(name: str, requirements: Sequence[str]) -> Path:
    """Return a folder for ``PYTHONPATH`` with *requirements* that our `.venv` lacks."""
    folder = TOOLS / f"bench-{name}"
    if _is_due(folder, requirements):
        say(f"installing {name}: {' '.join(requirements)}")
        command = [own_python(), "-m", "pip", "install", "-q", "--no-deps", "--upgrade"]
        subprocess.run([*command, "--target", str(folder), *requirements], check=True)
        _note(folder, requirements)
    return folder


def versions(python: Path | str, packages: Sequence[str]) -> dict[str, str]:
    """Return the installed version of each of *packages*."""
    script = (
        "import json, sys; from importlib.metadata import version;"
        " print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
    )
    told = subprocess.run([python, "-c", script, *packages], stdout=subprocess.PIPE, check=True)
    found: dict[str, str] = json.loads(told.stdout)
    return found


def _stamp(wanted: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(wanted).encode()).hexdigest()


def _is_due(folder: Path, wanted: Sequence[str]) -> bool:
    stamp = folder / "installed"
    return not stamp.exists() or stamp.read_text() != _stamp(wanted)


def _note(folder: Path, wanted: Sequence[str]) -> None:
    (folder / "installed").write_text(_stamp(wanted))

"""The one virtual environment of this checkout, for the scripts beside this file; stdlib only."""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"


def ready(*, dev: bool) -> Path:
    """Make `.venv`, install this checkout into it where that is due, and return its Python."""
    if sys.version_info < (3, 11):  # noqa: UP036 - an older one may well start this script
        raise SystemExit(f"tracebaton needs Python 3.11 or later, this is {sys.version.split()[0]}")
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    stamp = VENV / f"installed-{'dev' if dev else 'base'}"
    if stamp.exists() and stamp.read_text() == wanted:
        return PYTHON
    if not PYTHON.exists():
        say("making .venv")
        run(sys.executable, "-m", "venv", str(VENV))
    say("installing" + (" with what the tests need" if dev else ""))
    # Dependency groups need pip 25.1; the one that comes with Python is older.
    run(str(PYTHON), "-m", "pip", "install", "-q", "--upgrade", "pip>=25.1")
    group = ["--group", "dev"] if dev else []
    run(str(PYTHON), "-m", "pip", "install", "-q", "-e", str(ROOT), *group)
    stamp.write_text(wanted)
    return PYTHON


def run(*command: str, env: dict[str, str] | None = None) -> None:
    """Run *command* in the root of the checkout and leave with its exit code if it fails."""
    code = subprocess.run(command, cwd=ROOT, env={**os.environ, **(env or {})}).returncode
    if code:
        raise SystemExit(code)


def beside(commands: Mapping[str, Sequence[str]], *, lanes: int) -> None:
    """
    Run *commands*, *lanes* of them at a time, in their order; leave with the worst exit code.

    What each wrote is told when it is over, so that no two are mixed.
    """

    def one(name: str) -> int:
        started = time.monotonic()
        done = subprocess.run(
            commands[name], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        took = time.monotonic() - started
        verdict = f"failed with {done.returncode}" if done.returncode else "well"
        print(f"== {name}\n{done.stdout}== {name}: {verdict}, {took:.0f} s", flush=True)
        return done.returncode

    with ThreadPoolExecutor(lanes) as pool:
        codes = dict(zip(commands, pool.map(one, commands), strict=True))
    if failed := [name for name, code in codes.items() if code]:
        say(f"failed: {', '.join(failed)}")
        raise SystemExit(max(codes.values()))


def say(text: str) -> None:
    """Tell what is going on, on stderr."""
    print(f"tracebaton: {text}", file=sys.stderr, flush=True)

"""The command line as a whole: what it lists, and that it loads no more than it needs."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from tracebaton.cli import command
from tracebaton.cli.group import COMMANDS

#: What the help of the whole command has no use for, and what takes long to load.
UNUSED = ("tracebaton.cli.serve", "tracebaton.settings", "rich.markdown", "rich.traceback", "httpx")


def run(*arguments: str, **more: Any) -> "subprocess.CompletedProcess[str]":
    """Run the command to its end."""
    words = [str(Path(sys.executable).with_name("tracebaton")), *arguments]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, **more)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_of_a_command_what_it_says_of_itself(name: str) -> None:
    """The list is drawn without loading the command, so that the words stand twice."""
    found = typer.main.get_command(command).commands[name]  # type: ignore[attr-defined]

    if COMMANDS[name].said:
        assert inspect.cleandoc(found.help).split("\n\n")[0].replace("\n", " ") == (
            COMMANDS[name].said
        )
    assert (found.name, found.hidden) == (name, not COMMANDS[name].said)


def test_the_help_lists_every_command_in_a_box() -> None:
    """But for the one that only `tracebaton chaos` runs; so does no argument at all."""
    asked, bare = run("--help"), run()

    listed = [line.split()[1] for line in asked.stdout.splitlines() if line.startswith("│ ")]
    assert (asked.returncode, asked.stderr) == (0, "")
    assert [name for name in listed if name in COMMANDS] == list(COMMANDS)[:-1]
    assert "╭─ Commands ─" in asked.stdout
    assert "--install-completion" in asked.stdout
    assert bare.stdout.strip() == asked.stdout.strip()


def test_the_help_loads_none_of_the_commands() -> None:
    """It is what a person waits for; `dev` and `api` load a server, SQS and telemetry."""
    script = (
        "import sys; from tracebaton.cli import command;"
        f"command(['--help'], standalone_mode=False); sys.exit(str([n for n in {UNUSED!r}"
        " if n in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )

    assert done.stderr.strip() == "[]"


def test_a_misspelled_command_is_answered_with_the_near_ones() -> None:
    """Exit code 2, as for every wrong use."""
    done = run("sendd")

    assert done.returncode == 2
    assert "Did you mean 'send'?" in done.stderr


def test_a_shell_completes_the_commands() -> None:
    """By the same names."""
    asked = {
        "_TRACEBATON_COMPLETE": "complete_bash",
        "COMP_WORDS": "tracebaton d",
        "COMP_CWORD": "1",
    }
    done = run(env=asked)

    assert done.stdout.split() == ["dev", "doctor", "dlq"]

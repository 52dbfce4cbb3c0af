"""
The command ``tracebaton``: it parses, calls the runtime, and prints.

Exit codes: 0 ok, 1 failed, 2 usage or configuration. A wrong setting is one line on stderr.
"""

import sys

import typer

from tracebaton.cli.group import CommandGroup
from tracebaton.errors import ConfigurationError, TracebatonError

__all__ = ["main"]

command: typer.Typer = typer.Typer(
    name="tracebaton",
    cls=CommandGroup,
    help="One trace, one request store, one log schema and one error story from API to SQS worker.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
command.callback()(lambda: None)


def main() -> None:
    """Run the command line."""
    try:
        command()
    except ConfigurationError as exc:
        print(f"tracebaton: {exc.detail}", file=sys.stderr)
        sys.exit(2)
    except TracebatonError as exc:
        print(f"tracebaton: {exc.detail}", file=sys.stderr)
        sys.exit(1)

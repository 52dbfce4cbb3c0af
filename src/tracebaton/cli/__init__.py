"""
The command ``tracebaton``: it parses, calls the runtime, and prints.

Exit codes: 0 ok, 1 failed, 2 usage or configuration. A wrong setting is one line on stderr.
"""

import sys

import typer

from tracebaton.cli import bench, chaos, doctor, keys, letters, schema, serve, tasks, trace
from tracebaton.errors import ConfigurationError, TracebatonError

__all__ = ["main"]

command: typer.Typer = typer.Typer(
    name="tracebaton",
    help="One trace, one request store, one log schema and one error story from API to SQS worker.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
command.command("dev")(serve.dev)
command.command("api")(serve.api)
command.command("worker")(serve.worker)
command.command("schema")(schema.schema)
command.command("send")(tasks.send)
command.command("tasks")(tasks.tasks)
command.command("trace")(trace.trace)
command.command("viewer")(serve.viewer)
command.command("doctor")(doctor.doctor)
command.command("chaos")(chaos.chaos)
command.command("bench")(bench.bench)
command.command("chaos-worker", hidden=True)(chaos.chaos_worker)
command.add_typer(keys.command, name="keys")
command.add_typer(letters.commands("dlq"), name="dlq")
command.add_typer(letters.commands("quarantine"), name="quarantine")


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

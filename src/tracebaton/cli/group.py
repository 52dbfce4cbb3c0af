"""
The commands by name, each imported when it is asked for.

``tracebaton --help`` needs none of them: it took twice as long with all, and with what typer draws
its help by (Markdown, tracebacks with colours).
"""

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from importlib import import_module
from typing import Any, Final, NamedTuple, cast

import typer
from typer.core import TyperGroup

__all__ = ["COMMANDS", "CommandGroup", "Place"]


class Place(NamedTuple):
    """Where a command is, and the line that says what it does; without one it is not listed."""

    module: str
    attribute: str
    said: str


COMMANDS: Final = {
    "dev": Place(
        "serve", "dev", "Run API, worker, a local SQS and a trace viewer on this machine."
    ),
    "api": Place("serve", "api", "Serve the API."),
    "worker": Place(
        "serve", "worker", "Run the worker; --host and --port are those of its health page."
    ),
    "schema": Place("schema", "schema", "Print the JSON Schema of every task type."),
    "send": Place(
        "tasks",
        "send",
        "Submit a task; with --wait show its progress, and exit 0 only if it succeeds.",
    ),
    "tasks": Place("tasks", "tasks", "List your tasks, the newest first, or show one."),
    "trace": Place("trace", "trace", "Draw the trace of a task, a request or a correlation id."),
    "viewer": Place(
        "serve",
        "viewer",
        "Serve the trace viewer alone, on loopback; it takes OTLP over HTTP from anything.",
    ),
    "doctor": Place(
        "doctor",
        "doctor",
        "Check settings, credentials, queues, store, sinks and clock, and probe the whole way.",
    ),
    "chaos": Place(
        "chaos",
        "chaos",
        "Run the handlers of APP while calls fail, messages double, the store is away and workers"
        " are killed.",
    ),
    "bench": Place(
        "bench",
        "bench",
        "Load the API of APP and wait for its worker, traced and not, and print rates and"
        " latencies.",
    ),
    "keys": Place("keys", "command", "Create, list and revoke API keys."),
    "dlq": Place(
        "letters", "dlq", "List, show, redrive and purge what lies in the dead-letter queue."
    ),
    "quarantine": Place(
        "letters", "quarantine", "List, show, redrive and purge what lies in the quarantine queue."
    ),
    "chaos-worker": Place("chaos", "chaos_worker", ""),
}


class _Commands(Mapping[str, Any]):
    """Each command by its name, made when it is looked up."""

    def __getitem__(self, name: str) -> Any:
        place = COMMANDS[name]
        found = getattr(import_module(f"tracebaton.cli.{place.module}"), place.attribute)
        if not isinstance(found, typer.Typer):
            alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            alone.command(name, hidden=not place.said)(found)
            found = alone
        made = typer.main.get_command(found)
        made.name = name
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class CommandGroup(TyperGroup):
    """`COMMANDS` as typer sees them."""

    def __init__(self, **given: Any) -> None:
        """Take what typer gives, but for the commands."""
        super().__init__(**given)
        self.commands: MutableMapping[str, Any] = cast("MutableMapping[str, Any]", _Commands())

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all that are listed."""
        return [name for name, place in COMMANDS.items() if place.said]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print what typer would, by less of rich."""
        from rich.console import Console
        from rich.padding import Padding

        console = Console(highlight=False)
        usage = self.get_usage(ctx).removeprefix("Usage: ")
        console.print(Padding(f"[yellow]Usage:[/] [bold]{_plain(usage)}[/]", 1))
        console.print(Padding(_plain(self.help or ""), (0, 1, 1, 1)))
        options = [
            option for option in self.get_params(ctx) if not getattr(option, "hidden", False)
        ]
        console.print(
            _panel("Options", ((", ".join(one.opts), getattr(one, "help", "")) for one in options))
        )
        named = ((name, COMMANDS[name].said) for name in self.list_commands(ctx))
        console.print(_panel("Commands", named))


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _panel(title: str, rows: Iterable[tuple[str, str]]) -> Any:
    from rich.panel import Panel
    from rich.table import Table

    table = Table(box=None, show_header=False, expand=True, pad_edge=False)
    table.add_column(style="bold cyan", no_wrap=True)
    table.add_column(ratio=1)
    for name, said in rows:
        table.add_row(_plain(name), _plain(said))
    return Panel(table, title=title, title_align="left", border_style="dim")

"""``trace``: one trace as a waterfall in the terminal."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tracebaton.traces import Source

__all__ = ["trace"]

#: Where ``dev`` serves its viewer when the port is free.
_VIEWER = "http://127.0.0.1:8001"
#: Columns where the output is no terminal.
_WIDTH = 120


def trace(
    identifier: Annotated[
        str, typer.Argument(metavar="ID", help="A task id, a correlation id or a trace id.")
    ],
    viewer: Annotated[
        str | None, typer.Option(help=f"The viewer's URL; TRACEBATON_VIEWER_URL, else {_VIEWER}.")
    ] = None,
    jaeger: Annotated[
        str | None, typer.Option(help="Ask Jaeger at this query URL instead.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="Read OTLP JSON, a document a line, instead.")
    ] = None,
    logs: Annotated[bool, typer.Option(help="Show log lines under their span.")] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print OTLP JSON and the log lines.")
    ] = False,
) -> None:
    """Draw the trace of a task, a request or a correlation id."""
    from tracebaton.traces import read_trace

    document, lines = _source(viewer, jaeger, file).find(identifier)
    found = read_trace(document, lines)
    if as_json:
        print(json.dumps({**document, "logs": list(lines)}))
        return
    if found is None:
        print(f"tracebaton: {identifier} has no spans", file=sys.stderr)
        raise typer.Exit(1)
    from rich.console import Console

    from tracebaton.cli.waterfall import draw

    console = Console(width=None if sys.stdout.isatty() else _WIDTH, soft_wrap=True)
    for line in draw(found, width=console.width, logs=logs):
        console.print(line, soft_wrap=True)


def _source(viewer: str | None, jaeger: str | None, file: Path | None) -> "Source":
    from tracebaton.cli.running import settings
    from tracebaton.errors import ConfigurationError
    from tracebaton.traces import FileSource, JaegerSource, ViewerSource

    if sum(choice is not None for choice in (viewer, jaeger, file)) > 1:
        raise ConfigurationError("--viewer, --jaeger and --file: choose one")
    if file is not None:
        return FileSource(file)
    if jaeger is not None:
        return JaegerSource(jaeger)
    return ViewerSource(viewer or settings().viewer_url or _VIEWER)

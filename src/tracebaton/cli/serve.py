"""``dev``, ``api`` and ``worker``: the commands that stay until they are told to stop."""

import json
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from tracebaton.cli import loop

__all__ = ["announce", "api", "dev", "viewer", "worker"]

_CHAT = "tracebaton.examples.chat:app"
#: The highest port there is.
_PORTS = 65_535

App = Annotated[str, typer.Argument(help="The application, module:attribute.")]
Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[
    int, typer.Option(min=0, max=_PORTS, help="Port to listen on, 0 for any free one.")
]


def dev(
    app: App = _CHAT,
    host: Host = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=0, max=_PORTS, help="API port; 8000 if free.")
    ] = None,
    sqs_port: Annotated[
        int | None, typer.Option(min=0, max=_PORTS, help="SQS port; 9324 if free.")
    ] = None,
    viewer_port: Annotated[
        int | None, typer.Option(min=0, max=_PORTS, help="Viewer port; 8001 if free.")
    ] = None,
    data: Annotated[Path, typer.Option(help="Folder of tasks and traces.")] = Path(".tracebaton"),
    viewer: Annotated[bool, typer.Option(help="Serve the trace viewer.")] = True,
) -> None:
    """Run API, worker, a local SQS and a trace viewer on this machine."""
    loop.leave_on_signals()
    from tracebaton.dev import DevOptions, run_dev

    options = DevOptions(
        app=app,
        host=host,
        port=port,
        sqs_port=sqs_port,
        viewer_port=viewer_port,
        data=data,
        viewer=viewer,
    )
    failures: list[int] = []

    def fail(name: str, code: int) -> None:
        print(f"tracebaton: the {name} process {_ending(code)}", file=sys.stderr)
        failures.append(2 if code == 2 else 1)

    def code(_: None) -> int:
        return max(failures, default=0)

    loop.serve(
        run_dev(
            options,
            announce=partial(_announce_dev, app),
            pretty=sys.stdout.isatty(),
            out=sys.stdout.buffer,
            fail=fail,
        ),
        code=code,
    )
    _leave(code(None))


def api(app: App = _CHAT, host: Host = "127.0.0.1", port: Port = 8000) -> None:
    """Serve the API."""
    loop.leave_on_signals()
    from tracebaton.processes import load_app, run_api

    loop.serve(run_api(load_app(app), host=host, port=port, announce=announce), fast=True)
    _leave(0)


def worker(
    app: App = _CHAT,
    host: Host = "127.0.0.1",
    port: Port = 0,
    processes: Annotated[int, typer.Option(min=1, help="Workers, each a process.")] = 1,
) -> None:
    """Run the worker; --host and --port are those of its health page."""
    loop.leave_on_signals()
    if processes > 1:
        from tracebaton.crew import CrewOptions, run_crew

        options = CrewOptions(app=app, processes=processes, host=host, port=port)
        out, pretty = sys.stdout.buffer, sys.stdout.isatty()
        crew = run_crew(options, announce=announce, out=out, pretty=pretty)
        _leave(loop.serve(crew, code=int))
    from tracebaton.processes import load_app, run_worker

    loop.serve(run_worker(load_app(app), host=host, port=port, announce=announce))
    _leave(0)


def viewer(
    port: Port = 8001,
    data: Annotated[Path, typer.Option(help="Folder of the traces.")] = Path(".tracebaton"),
) -> None:
    """Serve the trace viewer alone, on loopback; it takes OTLP over HTTP from anything."""
    loop.leave_on_signals()
    from tracebaton.dev import run_viewer

    loop.serve(run_viewer(port=port, data=data, announce=announce))
    _leave(0)


def _ending(code: int) -> str:
    """Return how a process ended by itself."""
    with suppress(ValueError):  # no signal, or none of this system
        return f"was ended by {signal.Signals(-code).name}, and with it all of dev"
    return f"ended by itself with {code}"


def _leave(code: int) -> None:
    sys.stdout.flush()
    raise typer.Exit(code)


def announce(event: Mapping[str, Any]) -> None:
    """Print the one line that says a process is up."""
    if not sys.stdout.isatty():
        print(json.dumps(event), flush=True)
        return
    rest = "  ".join(f"{name} {value}" for name, value in event.items() if name != "event")
    print(f"{event['event']}  {rest}", flush=True)


def _announce_dev(app: str, event: Mapping[str, Any]) -> None:
    if not sys.stdout.isatty():
        announce(event)
        return
    print(
        f"ready  api {event['api']}  viewer {event['viewer'] or 'off'}  sqs {event['sqs']}"
        f"  tasks {event['store']}\n{_next_step(app, event['api'])}",
        flush=True,
    )


def _next_step(app: str, api: str) -> str:
    """Return what can be done now: only the example has a request that is known."""
    if app != _CHAT:
        return f"try    {api}/docs"
    body = """'{"message": "What is one trace?"}'"""
    return f"try    curl -s {api}/v1/ai/chat -H 'content-type: application/json' -d {body}"

"""``send`` and ``tasks``: submit a task, list them, look at one, over the API."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Annotated, Any

import typer

from tracebaton.cli.text import json_document, print_json, print_table

__all__ = ["send", "tasks"]

#: What a list shows of each task.
_COLUMNS = ("task_id", "type", "status", "progress", "attempt", "created_at")

ApiUrl = Annotated[
    str | None, typer.Option("--api", help="The API's URL; TRACEBATON_API_URL by default.")
]
ApiKey = Annotated[
    str | None,
    typer.Option("--key", help="An API key or token; better TRACEBATON_API_KEY: others see this."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def send(
    task_type: Annotated[str, typer.Argument(metavar="TYPE", help="The task type.")],
    data: Annotated[str, typer.Argument(metavar="JSON", help="Its data; - reads stdin.")],
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it has ended.")] = False,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Sent twice with it, the task is made once.")
    ] = None,
    api: ApiUrl = None,
    key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Submit a task; with --wait show its progress, and exit 0 only if it succeeds."""
    from tracebaton.cli.api import Api

    document = json_document(sys.stdin.read() if data == "-" else data, "JSON: the data")
    with Api(api, key) as client:
        task = client.send(task_type, document, key=idempotency_key)
        if wait:
            shown = _bar(task_type) if sys.stderr.isatty() else nullcontext(lambda task: None)
            with shown as tell:
                task = client.wait(task["task_id"], tell=tell)
    if as_json:
        print_json(task)
    else:
        _print_task(task)
    if wait and task["status"] != "succeeded":
        raise typer.Exit(1)


def tasks(
    task_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="One task, with its result or its error.")
    ] = None,
    status: Annotated[
        str | None,
        typer.Option(help="queued, running, succeeded, failed, dead or cancelled."),
    ] = None,
    task_type: Annotated[str | None, typer.Option("--type", help="Of this type only.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The most to list.")] = 50,
    every: Annotated[bool, typer.Option("--all", help="List all of them.")] = False,
    api: ApiUrl = None,
    key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List your tasks, the newest first, or show one."""
    from tracebaton.cli.api import Api

    if task_id is not None:
        with Api(api, key) as client:
            _show(client.task(task_id), as_json=as_json)
        return
    wanted = {"status": status, "type": task_type}
    query = {name: value for name, value in wanted.items() if value is not None}
    with Api(api, key) as client:
        found = list(client.tasks(query, most=None if every else limit))
    if as_json:
        print_json(found)
    else:
        print_table(found, _COLUMNS)


def _show(task: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(task)
        return
    print_table([task], _COLUMNS)
    _print_outcome(task)


@contextmanager
def _bar(task_type: str) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Show how far a task is, on stderr, so that what is printed can still be read by a program."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    from tracebaton.terminal import printable

    said = TextColumn("{task.fields[said]}", markup=False)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
    with Progress(*columns, said, console=Console(stderr=True), transient=True) as shown:
        row = shown.add_task(printable(task_type), total=100, said="")

        def tell(task: dict[str, Any]) -> None:
            parts = (task.get("status"), task.get("progress_message"))
            words = " ".join(printable(part) for part in parts if part)
            done = 100 if task.get("status") == "succeeded" else task.get("progress") or 0
            shown.update(row, completed=done, said=words)

        yield tell


def _print_task(task: dict[str, Any]) -> None:
    from tracebaton.terminal import printable

    print(f"{printable(task['task_id'])}  {printable(task['status'])}")
    _print_outcome(task)


def _print_outcome(task: dict[str, Any]) -> None:
    from tracebaton.terminal import printable, printable_lines

    if task.get("result") is not None:
        print(printable_lines(json.dumps(task["result"], indent=2, ensure_ascii=False)))
    if error := task.get("error"):
        print(f"{printable(error.get('code'))}: {printable(error.get('detail'))}")
        if link := (task.get("links") or {}).get("trace"):
            print(f"trace: {printable(link)}")

"""``bench``: what an application takes on this machine, traced and not."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tracebaton.cli import loop
from tracebaton.cli.text import json_document, print_json, print_table

if TYPE_CHECKING:
    from tracebaton.testing.load import Measured

__all__ = ["bench"]

_COLUMNS = ("traced", "accepted", "failed", "requests/s", "p50 ms", "p99 ms", "tasks/s", "left")


def bench(
    app: Annotated[
        str, typer.Argument(help="The application, module:attribute.")
    ] = "tracebaton.examples.chat:app",
    task_type: Annotated[
        str | None, typer.Option("--type", help="The task type to send; the first by default.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="JSON", help="Its data; a sample by default.")
    ] = None,
    requests: Annotated[int, typer.Option(min=1, help="Requests to measure.")] = 1_000,
    connections: Annotated[int, typer.Option(min=1, max=1_000, help="Connections at once.")] = 16,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each; the median is shown.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """
    Load the API of APP and wait for its worker, traced and not, and print rates and latencies.

    API, worker and a loopback SQS are started for each run and thrown away; what the handlers call
    is called for real. Exit code 1: a request failed, or a task had not ended in time.
    """
    from tracebaton.processes import load_app
    from tracebaton.testing.load import Load, measure

    kind, content = _chosen(load_app(app).registry, task_type, data)
    measured: list[Measured] = []
    for traced in (False, True):
        load = Load(
            app=app,
            task_type=kind,
            data=content,
            requests=requests,
            connections=connections,
            traced=traced,
        )
        measured.append(_median([loop.run(measure(load)) for _ in range(rounds)]))
    if as_json:
        print_json([one.document() for one in measured])
    else:
        print_table([_row(one) for one in measured], _COLUMNS)
    if any(one.failed or one.left for one in measured):
        raise typer.Exit(1)


def _chosen(registry: Any, name: str | None, data: str | None) -> tuple[str, Any]:
    from tracebaton.errors import ConfigurationError
    from tracebaton.testing.samples import sample

    kinds = list(registry)
    if name is None and not kinds:
        raise ConfigurationError("APP: has no task type")
    if name is not None and name not in registry:
        known = ", ".join(kind.name for kind in kinds) or "none"
        raise ConfigurationError(f"--type: there is no {name!r}; known: {known}")
    kind = kinds[0] if name is None else registry[name]
    return kind.name, sample(kind) if data is None else json_document(data, "--data:")


def _median(runs: "list[Measured]") -> "Measured":
    """Return the run in the middle by requests a second; failures of any run stay visible."""
    bad = [run for run in runs if run.failed or run.left]
    ordered = sorted(bad or runs, key=lambda run: run.requests_per_second)
    return ordered[len(ordered) // 2]


def _row(one: "Measured") -> dict[str, Any]:
    return {
        "traced": "yes" if one.traced else "no",
        "accepted": one.accepted,
        "failed": one.failed,
        "requests/s": f"{one.requests_per_second:.0f}",
        "p50 ms": f"{one.p50_ms:.1f}",
        "p99 ms": f"{one.p99_ms:.1f}",
        "tasks/s": f"{one.tasks_per_second:.0f}",
        "left": one.left,
    }

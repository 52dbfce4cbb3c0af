"""``chaos``: an application's workers while everything around them fails."""

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tracebaton.cli import loop
from tracebaton.cli.text import print_json
from tracebaton.terminal import printable

if TYPE_CHECKING:
    from tracebaton.tasks import Registry
    from tracebaton.testing import Plan, Verdict
    from tracebaton.testing.chaos import Progress

__all__ = ["chaos", "chaos_worker"]

_CHAT = "tracebaton.examples.chat:app"


def chaos(
    app: Annotated[str, typer.Argument(help="The application, module:attribute.")] = _CHAT,
    types: Annotated[list[str] | None, typer.Option("--type", help="Only this task type.")] = None,
    data: Annotated[
        list[str] | None, typer.Option(metavar="TYPE=JSON", help="Data of a task type; repeatable.")
    ] = None,
    messages: Annotated[int, typer.Option(min=1, help="Tasks to send.")] = 200,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 2,
    seconds: Annotated[float, typer.Option(min=0, help="Longest storm.")] = 30.0,
    seed: Annotated[int, typer.Option(help="The same seed, the same faults.")] = 0,
    kill: Annotated[bool, typer.Option(help="Kill workers with kill -9.")] = True,
    outages: Annotated[bool, typer.Option(help="Take the task store away for seconds.")] = True,
    groups: Annotated[
        int, typer.Option(min=0, help="Use a FIFO queue, the tasks dealt out over its groups.")
    ] = 0,
    check: Annotated[
        str | None,
        typer.Option(metavar="MODULE:FUNCTION", help="Gets every task at the end; may assert."),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Keep store, journal and worker lines here.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """
    Run the handlers of APP while calls fail, messages double, the store is away and workers are
    killed.

    Queue, store, Sentry and workers are made for this run and thrown away; what the handlers
    themselves call is called for real. Exit code 1: something was lost, or a handler is not
    idempotent.
    """
    from tracebaton.processes import load_app
    from tracebaton.testing import Plan

    items = _items(load_app(app).registry, types or (), data or (), messages)
    plan = Plan(
        items=items,
        workers=workers,
        seed=seed,
        storm_seconds=seconds,
        groups=groups,
        kill_seconds=4.0 if kill else None,
        outage_seconds=10.0 if outages else None,
        lose=0.2,
    )
    shown = _bar(messages) if sys.stderr.isatty() and not as_json else nullcontext(_silent)
    with tempfile.TemporaryDirectory(prefix="tracebaton-chaos-") as temporary, shown as tell:
        kept = folder or Path(temporary)
        kept.mkdir(parents=True, exist_ok=True)
        verdict = loop.run(_run(app, plan, kept, tell, check))
    _conclude(verdict, as_json=as_json)


async def _run(
    app: str, plan: "Plan", folder: Path, tell: "Callable[[Progress], None]", check: str | None
) -> "Verdict":
    from tracebaton.testing import Chaos

    run = Chaos(app, plan, folder=folder, tell=tell, check=None if check is None else _found(check))
    return await run.run()


def _found(target: str) -> Callable[[Sequence[Any]], Any]:
    import importlib

    from tracebaton.errors import ConfigurationError

    name, _, attribute = target.partition(":")
    try:
        found = getattr(importlib.import_module(name), attribute, None) if name else None
    except ModuleNotFoundError as exc:
        raise ConfigurationError(f"--check: there is no module {name!r}") from exc
    if not callable(found):
        raise ConfigurationError(f"--check: {target!r} is no module:function")
    return found  # type: ignore[no-any-return]  # anything that can be called with the tasks


def _items(
    registry: "Registry", types: Sequence[str], data: Sequence[str], messages: int
) -> list[tuple[str, Mapping[str, Any]]]:
    """Return what to send: every type in turn, with the data given or a sample."""
    from tracebaton.errors import ConfigurationError
    from tracebaton.testing.samples import sample

    given = dict(_parsed(text) for text in data)
    names = list(types) or list(given) or [kind.name for kind in registry]
    unknown = [name for name in (*names, *given) if name not in registry]
    if unknown or not names:
        known = ", ".join(kind.name for kind in registry) or "none"
        raise ConfigurationError(
            f"--type: there is no {unknown[:1] or 'task type'}; known: {known}"
        )
    ready = {name: given[name] if name in given else sample(registry[name]) for name in names}
    return [(name, ready[name]) for name in (names[n % len(names)] for n in range(messages))]


def _parsed(text: str) -> tuple[str, Any]:
    name, equals, rest = text.partition("=")
    try:
        return name, json.loads(rest)
    except ValueError:
        reason = "is not JSON" if equals else "is not TYPE=JSON"
        raise typer.BadParameter(f"{text[:100]!r} {reason}", param_hint="--data") from None


def _silent(progress: "Progress") -> None:
    """Show nothing."""


@contextmanager
def _bar(total: int) -> "Iterator[Callable[[Progress], None]]":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[said]}"))
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("chaos", total=total, said="")

        def tell(progress: "Progress") -> None:
            weather = "storm" if progress.storm else "calm"
            said = f"ended, {progress.kills} kills, {weather}"
            bar.update(task, completed=progress.ended, said=said)

        yield tell


def _conclude(verdict: "Verdict", *, as_json: bool) -> None:
    if as_json:
        content = {"good": verdict.good, "findings": list(verdict.findings)}
        print_json(content | {"figures": dict(verdict.figures)})
    else:
        for name, value in verdict.figures.items():
            print(f"{name:<10} {_told(value)}")
        for finding in verdict.findings:
            print(f"finding    {printable(finding)}")
        print(f"verdict    {_WORDS[verdict.good]}")
    raise typer.Exit(0 if verdict.good else 1)


_WORDS = {
    True: "good: every task ended once, nothing was lost, no handler contradicted itself",
    False: "not good",
}


def _told(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {count}" for name, count in value.items())
    return str(value)


def chaos_worker(
    app: Annotated[str, typer.Argument(help="The application, module:attribute.")],
    journal: Annotated[Path, typer.Option(help="Where the runs of handlers are written down.")],
    lose: Annotated[float, typer.Option(help="Share of results that are thrown away.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Decides which.")] = 0,
) -> None:
    """Run a worker that keeps a journal; `tracebaton chaos` starts it."""
    from tracebaton.cli.serve import announce
    from tracebaton.processes import load_app, run_worker
    from tracebaton.testing.journal import Journal

    application = load_app(app)
    registry = Journal(journal).recorded(application.registry, lose=lose, seed=seed)
    application.registry = registry
    loop.serve(run_worker(application, host="127.0.0.1", port=0, announce=announce))

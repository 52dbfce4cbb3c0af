"""
``dlq`` and ``quarantine``: look at the messages that lie there, send them back, or let them go.
"""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from tracebaton.cli import loop
from tracebaton.cli.options import built
from tracebaton.cli.text import duration, fail, print_json, print_table, rate
from tracebaton.terminal import printable

if TYPE_CHECKING:
    from tracebaton.queue.clearing import Act, Pace, Tally
    from tracebaton.queue.letters import Choice, Kind, Letter, Letters
    from tracebaton.queue.sqs import Queue
    from tracebaton.runtime import Runtime

__all__ = ["dlq", "quarantine"]

Result = TypeVar("Result")

_COLUMNS = ("since", "type", "task_id", "status", "attempts", "reason", "error_type", "message_id")

Types = Annotated[list[str] | None, typer.Option("--type", help="Only of this task type.")]
Ids = Annotated[
    list[str] | None, typer.Option("--id", "--task-id", help="Only this task or message.")
]
Reasons = Annotated[
    list[str] | None, typer.Option("--reason", help="Only with this code or error class.")
]
Older = Annotated[
    float | None, typer.Option(parser=duration, metavar="TIME", help="Only older ones: 10m, 7d.")
]
Newer = Annotated[
    float | None, typer.Option(parser=duration, metavar="TIME", help="Only newer ones.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="No more than these.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and do nothing.")]
Rate = Annotated[
    float | None, typer.Option("--rate", parser=rate, metavar="RATE", help="No faster: 5/s, 100/m.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
OneId = Annotated[str, typer.Argument(help="Task or message id, as `list` shows it.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def _commands(kind: "Kind") -> typer.Typer:
    """Return the four commands of the DLQ or of the quarantine queue."""
    where = "dead-letter queue" if kind == "dlq" else "quarantine queue"
    group = typer.Typer(
        help=f"List, show, redrive and purge what lies in the {where}.",
        no_args_is_help=True,
        add_completion=False,
    )
    one = _Commands(kind, where)
    filtered, paced = built(choice=_choice), built(choice=_choice, pace=_pace)
    listing = f"List the messages in the {where}; they stay there."
    group.command("list", help=listing)(filtered(one.list_))
    group.command("show", help="Show all there is about one message.")(one.show)
    sending = "Send messages back to the queue they came from."
    group.command("redrive", help=sending)(paced(one.redrive))
    group.command("purge", help="Delete messages for good.")(paced(one.purge))
    return group


@dataclass(frozen=True, slots=True)
class _Commands:
    """The commands of one queue."""

    kind: "Kind"
    where: str

    def list_(self, choice: "Choice", limit: Limit = None, as_json: AsJson = False) -> None:
        url, found = _run(lambda: _found(self.kind, choice, limit))
        rows = [letter.summary() for letter in found]
        if as_json:
            print_json(rows)
        elif rows:
            print_table(rows, _COLUMNS)
        else:
            what = "no messages" if choice == _choice() else "no such messages"
            print(f"{what} in the {self.where}, {printable(url)}", file=sys.stderr)

    def show(self, id: OneId, as_json: AsJson = False) -> None:
        url, found = _run(lambda: _found(self.kind, _choice(id=[id]), 1))
        if not found:
            raise fail(f"there is no message or task {id} in the {self.where}, {url}")
        document = found[0].document()
        if as_json:
            print_json(document)
            return
        for name, value in document.items():
            print(f"{name.replace('_', ' '):<15} {'' if value is None else printable(value)}")

    def redrive(self, choice: "Choice", pace: "Pace", as_json: AsJson = False) -> None:
        tally = _run(lambda: _cleared(self.kind, "redrive", choice, pace, bar=not as_json))
        _conclude(tally, "redriven", pace, as_json=as_json)

    def purge(
        self, choice: "Choice", pace: "Pace", yes: Yes = False, as_json: AsJson = False
    ) -> None:
        if not (yes or pace.dry_run):
            _confirm(f"Delete messages of the {self.where} for good?")
        tally = _run(lambda: _cleared(self.kind, "purge", choice, pace, bar=not as_json))
        _conclude(tally, "purged", pace, as_json=as_json)


def _choice(
    type: Types = None,
    id: Ids = None,
    reason: Reasons = None,
    older_than: Older = None,
    newer_than: Newer = None,
) -> "Choice":
    from tracebaton.queue.letters import Choice

    return Choice(
        types=frozenset(type or ()),
        ids=frozenset(id or ()),
        reasons=frozenset(reason or ()),
        older_than=older_than,
        newer_than=newer_than,
    )


def _pace(limit: Limit = None, pace: Rate = None, dry_run: DryRun = False) -> "Pace":
    from tracebaton.queue.clearing import Pace

    return Pace(dry_run=dry_run, rate=pace, limit=limit)


def _confirm(question: str) -> None:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise fail("purge deletes for good: say --yes", code=2)
    if not typer.confirm(question):
        raise typer.Exit(1)


def _run(work: Callable[[], Awaitable[Result]]) -> Result:
    from tracebaton.errors import ConfigurationError, TracebatonError

    async def run() -> Result:
        return await work()

    try:
        return loop.run(run())
    except ConfigurationError:
        raise
    except TracebatonError as exc:
        raise fail(str(exc.__cause__ or exc.detail)) from exc


@asynccontextmanager
async def _opened(kind: "Kind") -> AsyncIterator[tuple["Runtime", "Queue", "Letters"]]:
    from tracebaton.cli.running import settings
    from tracebaton.runtime import Runtime
    from tracebaton.tasks import Registry

    runtime = Runtime(settings(), role="worker", registry=Registry())
    try:
        yield runtime, await runtime.mailbox(kind), runtime.letters(kind)
    finally:
        await runtime.close()


async def _found(kind: "Kind", choice: "Choice", limit: int | None) -> "tuple[str, list[Letter]]":
    """Return the queue's URL, and what lies there."""
    import time

    from tracebaton.queue.walk import Walk

    found: list[Letter] = []
    async with _opened(kind) as (runtime, queue, letters), Walk(runtime.sqs, queue) as walk:
        async for batch in letters.of(walk):
            now = time.time()
            found += [letter for letter in batch if choice.matches(letter, now=now)]
            if limit is not None and len(found) >= limit:
                break
        return await queue.url(), found[:limit]


async def _cleared(
    kind: "Kind", what: str, choice: "Choice", pace: "Pace", *, bar: bool
) -> "Tally":
    from tracebaton.queue.clearing import Clearing
    from tracebaton.queue.redrive import Purge

    async with _opened(kind) as (runtime, queue, letters):
        dead = runtime.dead_letters(queue) if kind == "dlq" else None
        act: Act = runtime.redrive() if what == "redrive" else Purge(dead)
        attributes = await queue.attributes()
        total = int(attributes.get("ApproximateNumberOfMessages", 0))
        shown = _bar(what, total) if bar and sys.stderr.isatty() else nullcontext(_silent)
        with shown as tell:
            clearing = Clearing(
                runtime.sqs,
                queue,
                letters=letters,
                choice=choice,
                act=act,
                pace=pace,
                tell=tell,
            )
            return await clearing.run()


def _silent(tally: "Tally") -> None:
    """Show nothing."""


@contextmanager
def _bar(what: str, total: int) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[done]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total, done="")

        def tell(tally: "Tally") -> None:
            seen = f"{tally.done} done"
            progress.update(task, completed=tally.seen, total=max(total, tally.seen), done=seen)

        yield tell


def _conclude(tally: "Tally", done: str, pace: "Pace", *, as_json: bool) -> None:
    refused = sum(tally.refused.values())
    if as_json:
        print_json(
            {
                "seen": tally.seen,
                done: tally.done,
                "refused": refused,
                "reasons": dict(tally.refused),
                "dry_run": pace.dry_run,
            }
        )
    else:
        would = "would be " if pace.dry_run else ""
        print(f"{tally.done} {would}{done}, {refused} refused, {tally.seen} seen")
        for reason, count in tally.refused.most_common():
            print(f"{count} refused: {printable(reason)}", file=sys.stderr)
    if refused:
        raise typer.Exit(1)


dlq: typer.Typer = _commands("dlq")
quarantine: typer.Typer = _commands("quarantine")

"""``doctor``: is everything as it has to be, and what is to be done where it is not."""

import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tracebaton.cli import loop
from tracebaton.cli.text import print_json
from tracebaton.terminal import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracebaton.doctor import Explained, Finding
    from tracebaton.settings import Settings
    from tracebaton.traces import Source

__all__ = ["doctor"]

_STYLES: Final = {"ok": "green", "skipped": "dim", "warning": "yellow", "failed": "bold red"}


def doctor(
    probe: Annotated[bool, typer.Option(help="Send a request through everything.")] = True,
    api: Annotated[
        str | None, typer.Option(help="The API's URL; TRACEBATON_API_URL by default.")
    ] = None,
    viewer: Annotated[
        str | None, typer.Option(help="Fetch the probe's trace from the viewer at this URL.")
    ] = None,
    jaeger: Annotated[
        str | None, typer.Option(help="Fetch it from Jaeger at this query URL.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=1, help="How long a worker may take with the probe.")
    ] = 30.0,
    explain: Annotated[
        bool, typer.Option("--settings", help="Explain every setting, and look no further.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Check settings, credentials, queues, store, sinks and clock, and probe the whole way."""
    from tracebaton.cli.running import settings
    from tracebaton.doctor import Finding, explained, healthy
    from tracebaton.errors import ConfigurationError

    try:
        found = settings(api_url=api)
    except ConfigurationError as exc:
        remedy = "Correct each; `tracebaton doctor --settings` explains them."
        finding = Finding(check="settings", state="failed", said=exc.detail, remedy=remedy)
        _conclude([finding], [], as_json=as_json)
        raise typer.Exit(2) from None
    every = explained(found)
    if explain:
        _explain(every, as_json=as_json)
        return
    given = [one for one in every if one.value is not None]
    names = ", ".join(one.name for one in given) or "none"
    first = Finding(check="settings", state="ok", said=f"set: {names}")
    show = None if as_json else _show
    findings = loop.run(_look(found, first, _source(viewer, jaeger, found), probe, seconds, show))
    if as_json:
        _conclude(findings, every, as_json=True)
    if not healthy(findings):
        raise typer.Exit(1)


async def _look(
    settings: "Settings",
    first: "Finding",
    source: "Source | None",
    probe: bool,
    seconds: float,
    show: "Callable[[Finding], None] | None",
) -> "list[Finding]":
    from tracebaton.doctor import examine

    findings = [first]
    if show is not None:
        show(first)
    async for finding in examine(settings, source=source, probe=probe, probe_seconds=seconds):
        findings.append(finding)
        if show is not None:
            show(finding)
    return findings


def _source(viewer: str | None, jaeger: str | None, settings: "Settings") -> "Source | None":
    from tracebaton.errors import ConfigurationError
    from tracebaton.traces import JaegerSource, ViewerSource

    if viewer and jaeger:
        raise ConfigurationError("--viewer and --jaeger: choose one")
    if jaeger:
        return JaegerSource(jaeger)
    url = viewer or settings.viewer_url
    return ViewerSource(url) if url else None


def _conclude(findings: "list[Finding]", every: "list[Explained]", *, as_json: bool) -> None:
    from tracebaton.doctor import healthy

    if not as_json:
        for finding in findings:
            _show(finding)
        return
    print_json(
        {
            "ok": healthy(findings),
            "findings": [finding.document() for finding in findings],
            "settings": [one.document() for one in every],
        }
    )


def _show(finding: "Finding") -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)
    line = Text(f"{finding.state:<8}", style=_STYLES[finding.state])
    line.append(f"{printable(finding.check)}: ", style="bold")
    line.append(printable(finding.said), style="")
    console.print(line)
    if finding.remedy:
        console.print(Text(f"{'':<8}→ {printable(finding.remedy)}", style="cyan"))
    sys.stdout.flush()


def _explain(every: "list[Explained]", *, as_json: bool) -> None:
    if as_json:
        print_json([one.document() for one in every])
        return
    for one in every:
        value = "unset" if one.value is None else printable(one.value)
        default = f", default {one.default}" if one.default else ""
        print(f"{one.name} ({value}{default})\n    {printable(one.meaning)}")

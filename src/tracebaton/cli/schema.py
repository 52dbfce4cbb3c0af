"""``schema``: the contract of each task type, and whether a change of it breaks producers."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tracebaton.cli.text import fail, print_json

__all__ = ["schema"]

App = Annotated[str, typer.Argument(help="The application, module:attribute.")]


def schema(
    app: App = "tracebaton.examples.chat:app",
    check: Annotated[
        Path | None,
        typer.Option(help="Compare with the schemas in this file; exit 1 on a breaking change."),
    ] = None,
    openapi: Annotated[bool, typer.Option(help="Print the OpenAPI document instead.")] = False,
) -> None:
    """Print the JSON Schema of every task type."""
    from tracebaton.processes import load_app
    from tracebaton.tasks import task_schemas
    from tracebaton.tasks.compatibility import breaking_changes

    found = load_app(app)
    if openapi:
        from tracebaton.http.openapi import openapi as described

        print_json(described(found.registry, found.routes, title="tracebaton", version="1"))
        return
    schemas = task_schemas(found.registry)
    if check is None:
        print(json.dumps(schemas, indent=2))
        return
    changes = breaking_changes(_old(check), schemas)
    for change in changes:
        print(f"tracebaton: {change}", file=sys.stderr)
    if changes:
        raise fail("these changes break producers: give the task type a new version")


def _old(path: Path) -> dict[str, Any]:
    from tracebaton.errors import ConfigurationError

    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"--check: {path} cannot be read: {exc}") from None
    good = isinstance(document, dict) and all(isinstance(one, dict) for one in document.values())
    if not good:
        raise ConfigurationError(f"--check: {path} is not what `tracebaton schema` prints")
    return dict(document)

"""``keys``: API keys are made, listed and revoked here; the file keeps their hashes only."""

from pathlib import Path
from typing import Annotated

import typer

from tracebaton.cli.text import fail, print_json, print_table

__all__ = ["command"]

command: typer.Typer = typer.Typer(
    help="Create, list and revoke API keys.", no_args_is_help=True, add_completion=False
)

File = Annotated[
    Path | None, typer.Option("--file", help="The key file; TRACEBATON_API_KEYS_FILE by default.")
]


def _path(file: Path | None) -> Path:
    from tracebaton.errors import ConfigurationError
    from tracebaton.settings import Settings

    chosen = file or Settings.load().api_keys_file
    if chosen is None:
        raise ConfigurationError("TRACEBATON_API_KEYS_FILE: is not set, and --file is not given")
    return chosen


@command.command("create")
def create(
    user_id: Annotated[str, typer.Argument(help="Whom the key stands for.")],
    name: Annotated[str, typer.Option(help="What the key is for.")] = "",
    file: File = None,
) -> None:
    """Make a key and print it; it cannot be shown again."""
    from tracebaton.http.keys import create_key

    print(create_key(_path(file), user_id, name=name))


@command.command("list")
def list_(
    file: File = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the keys, without their secrets."""
    from tracebaton.http.keys import list_keys

    keys = [key.public() for key in list_keys(_path(file))]
    if as_json:
        print_json(keys)
    else:
        print_table(keys, ("id", "user_id", "name", "created_at", "revoked_at"))


@command.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(help="The id, as `keys list` shows it.")],
    file: File = None,
) -> None:
    """Revoke a key; running APIs notice by themselves."""
    from tracebaton.http.keys import revoke_key

    if not revoke_key(_path(file), key_id):
        raise fail(f"there is no active key {key_id}")

"""
Options that several commands share, written once.

    def pace(rate: Rate = None, dry_run: DryRun = False) -> Pace: ...

    @group.command("redrive")
    @built(pace=pace)
    def redrive(pace: Pace, as_json: AsJson = False) -> None: ...

The command line has ``--rate``, ``--dry-run`` and ``--json``; the command gets a `Pace`.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["built"]

Command = Callable[..., None]


def built(**makers: Callable[..., Any]) -> Callable[[Command], Command]:
    """
    Give a command the options of *makers* in place of the arguments of those names.

    Args:
        makers: Each makes one argument of its own parameters, which all have defaults.
    """

    def decorate(command: Command) -> Command:
        options = {name: inspect.signature(make).parameters for name, make in makers.items()}

        @functools.wraps(command)
        def run(**given: Any) -> None:
            for name, make in makers.items():
                given[name] = make(**{option: given.pop(option) for option in options[name]})
            command(**given)

        _describe(run, _parameters(command, options))
        return run

    return decorate


def _parameters(
    command: Command, options: Mapping[str, Mapping[str, inspect.Parameter]]
) -> list[inspect.Parameter]:
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        parameters += options.get(parameter.name, {parameter.name: parameter}).values()
    return [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]


def _describe(run: Command, parameters: list[inspect.Parameter]) -> None:
    """Let typer see *parameters*: it reads the signature and the annotations."""
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # inspect reads it
    run.__annotations__ = {one.name: one.annotation for one in parameters}

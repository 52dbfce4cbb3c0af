"""The settings of a command that looks at something running: the environment's, or ``dev``'s."""

import json
from pathlib import Path

from tracebaton.settings import Settings, child_environment

__all__ = ["settings"]


def settings(*, api_url: str | None = None) -> Settings:
    """
    Return the settings; where the environment names no queue, those of the ``dev`` that runs here.

    Args:
        api_url: Counts in place of ``TRACEBATON_API_URL``.

    Raises:
        ConfigurationError: A variable is wrong.
    """
    given = {"TRACEBATON_API_URL": api_url}
    found = Settings.load(child_environment(given))
    if found.queue_url or found.queue_name:
        return found
    started = _of_dev(found.data / "dev.json")
    return Settings.load(child_environment(started | {k: v for k, v in given.items() if v}))


def _of_dev(path: Path) -> dict[str, str | None]:
    """Return what ``dev`` has set for its processes, nothing where it does not run."""
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(name): str(value) for name, value in written.items() if value is not None}

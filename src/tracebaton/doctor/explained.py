"""
Every setting with its value, its default and its meaning, out of the one file that lists them.
"""

import re
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any, Final

from tracebaton.redaction import MASK, redact_text
from tracebaton.settings import ENVIRONMENT, Settings

__all__ = ["Explained", "explained", "listed"]

_VARIABLE: Final = re.compile(r"#?([A-Z][A-Z0-9_]+)=(.*)")


@dataclass(frozen=True, slots=True)
class Explained:
    """
    One variable.

    Attributes:
        value: What it is set to, None where it is not; a secret is masked.
        default: What counts where it is not set; empty for nothing.
        meaning: Its comment in ``.env.example``.
    """

    name: str
    value: str | None
    default: str
    meaning: str

    def document(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


def explained(settings: Settings) -> list[Explained]:
    """Return each variable that tracebaton reads, in the order of ``.env.example``."""
    fields = {variable: name for name, variable in ENVIRONMENT.items()}
    return [
        Explained(name, _value(settings, fields[name]), default, meaning)
        for name, default, meaning in listed()
        if name in fields
    ]


def listed() -> list[tuple[str, str, str]]:
    """Return name, default and comment of each variable; neighbours share a comment."""
    text = files("tracebaton").joinpath("env.example").read_text(encoding="utf-8")
    found: list[tuple[str, str, str]] = []
    comment: list[str] = []
    fresh = True
    for line in text.splitlines():
        if match := _VARIABLE.fullmatch(line):
            found.append((match[1], match[2], " ".join(comment)))
            fresh = True
        elif not line:
            comment = []
        elif line.startswith("# ") and not line.startswith("# ---"):
            comment = [*([] if fresh else comment), line[2:]]
            fresh = False
    return found


def _value(settings: Settings, field: str) -> str | None:
    if field not in settings.model_fields_set:
        return None
    if not Settings.model_fields[field].repr:
        return MASK
    return redact_text(_written(getattr(settings, field)))


def _written(value: object) -> str:
    """Return *value* as one would write it into the environment."""
    match value:
        case bool():
            return str(value).lower()
        case dict():
            return ",".join(f"{name}={one}" for name, one in value.items())
        case frozenset():
            return ",".join(sorted(map(str, value)))
        case tuple():
            return ",".join(map(_written, value))
        case _ if (queue := getattr(value, "queue", None)) is not None:
            weight = getattr(value, "weight", 1)
            return str(queue) if weight == 1 else f"{queue}*{weight}"
        case _:
            return str(value)

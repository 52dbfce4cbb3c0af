"""
What a check found, and what to do about it.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Finding", "State", "healthy", "no_api"]

#: ``skipped`` says what was not looked at, and why; it is no fault.
State = Literal["ok", "skipped", "warning", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """
    The outcome of one check.

    Attributes:
        check: What was looked at, such as ``queue tasks`` or ``sentry``.
        said: What was found, one sentence without a secret.
        remedy: What to do about it; empty where nothing is to be done.
    """

    check: str
    state: State
    said: str
    remedy: str = ""

    def document(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


def healthy(findings: Iterable[Finding]) -> bool:
    """Tell whether nothing has failed; a warning is for people to weigh."""
    return all(finding.state != "failed" for finding in findings)


def no_api(check: str, url: str, exc: Exception) -> Finding:
    """Return what *check* found where the API at *url* ends in *exc* and no answer."""
    said = f"{url} does not answer ({type(exc).__name__})"
    remedy = "Start `tracebaton api`, or name the right one by --api."
    return Finding(check=check, state="failed", said=said, remedy=remedy)

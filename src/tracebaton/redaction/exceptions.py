"""An exception's stack and message as text, without secrets and within a size."""

import traceback
from typing import Final

from tracebaton.redaction.text import TEXT_LIMIT, redact_text

__all__ = ["redact_exception"]

#: Frames of each stack that are kept, the innermost ones: a runaway recursion has a thousand.
_FRAMES: Final = 50


def redact_exception(exc: BaseException, *, limit: int = TEXT_LIMIT) -> str:
    """
    Return the traceback of *exc* with its causes, of about *limit* characters at most.

    What does not fit is left out of the middle: how it began and what was raised last remain. A
    message that cannot be shown is said to be so; nothing raises.
    """
    described = traceback.TracebackException(type(exc), exc, exc.__traceback__, limit=-_FRAMES)
    parts = list(described.format())
    if sum(map(len, parts)) <= limit:
        return redact_text("".join(parts), limit=limit).rstrip("\n")
    # Each entry by itself, so that no secret is cut in two before it is seen whole.
    parts = [redact_text(part, limit=limit // 3) for part in parts]
    return "".join(_ends(parts, limit)).rstrip("\n")


def _ends(parts: list[str], limit: int) -> list[str]:
    """Return the first entries of *parts*, a quarter of *limit*, and as many last ones as fit."""
    first = _fitting(parts, limit // 4)
    room = limit - sum(map(len, parts[:first])) - len(_LEFT_OUT)
    last = max(first, len(parts) - _fitting(parts[::-1], room))
    left_out = last - first
    return [*parts[:first], _LEFT_OUT.format(left_out), *parts[last:]] if left_out else parts


_LEFT_OUT: Final = "  … {:>6} entries left out\n"


def _fitting(parts: list[str], room: int) -> int:
    """Return how many of *parts* fit into *room*, at least one."""
    count = 0
    for part in parts:
        room -= len(part)
        if room < 0 and count:
            break
        count += 1
    return count

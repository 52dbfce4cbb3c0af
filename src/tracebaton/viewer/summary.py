"""What a list of traces shows of each, folded out of its spans as they arrive."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tracebaton.semconv import CORRELATION_ID, HTTP_STATUS_CODES, USER_ID
from tracebaton.viewer.rows import SpanRow

__all__ = ["Summary", "http_status", "labels"]

#: What leads to a trace beside its tasks.
LABELS: Final = (CORRELATION_ID, USER_ID)
#: Services that a trace lists; more is a forged trace.
MAX_SERVICES: Final = 32


@dataclass(slots=True)
class Summary:
    """The row of one trace; ``http_status`` is that of the span that names it."""

    trace_id: bytes
    start: int
    end: int
    name: str
    rootless: bool
    name_start: int
    error: bool
    services: list[str]
    correlation_id: str | None = None
    user_id: str | None = None
    spans: int = 0
    dropped: int = 0
    bytes: int = 0
    http_status: int | None = None

    def add(self, row: SpanRow) -> None:
        """Take *row* into account. A root names the trace; without one, the earliest span does."""
        self.start = min(self.start, row.start)
        self.end = max(self.end, row.end)
        if (not row.root, row.start) < (self.rootless, self.name_start):
            self.name, self.rootless, self.name_start = row.name, not row.root, row.start
            self.http_status = http_status(row)
        self.error = self.error or row.error
        if row.service not in self.services and len(self.services) < MAX_SERVICES:
            self.services = sorted([*self.services, row.service])
        self.correlation_id = self.correlation_id or row.indexed.get(CORRELATION_ID)
        self.user_id = self.user_id or row.indexed.get(USER_ID)


def http_status(row: SpanRow) -> int | None:
    """Return what *row* says was answered, None where it is no answer."""
    text = next((row.indexed[name] for name in HTTP_STATUS_CODES if name in row.indexed), "")
    return int(text) if len(text) == 3 and text.isascii() and text.isdigit() else None


def labels(rows: Iterable[SpanRow]) -> set[tuple[str, str, bytes]]:
    """Return what the traces of *rows* are found by: attribute, value, trace id."""
    return {
        (name, row.indexed[name], row.trace_id)
        for row in rows
        for name in LABELS
        if name in row.indexed
    }

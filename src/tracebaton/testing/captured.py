"""What a stage keeps in place of sending it: failures, spans, log lines."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

from tracebaton.logs import log_fields
from tracebaton.problems import Outcome

__all__ = ["SERVICE", "CapturedEvent", "Events", "Lines", "Listening", "Spans"]

#: The service that everything on a stage belongs to.
SERVICE = "tracebaton-test"


@dataclass(frozen=True, slots=True)
class CapturedEvent:
    """
    A failure that would be a Sentry event.

    Attributes:
        exception: The original.
        outcome: What the one error mapping says of it.
        tags: Tags beside those of the request store.
        failures: The attempts that failed before.
    """

    exception: BaseException
    outcome: Outcome
    tags: Mapping[str, str]
    failures: Sequence[Mapping[str, Any]]
    event_id: str = field(default_factory=lambda: uuid4().hex)


class Events(list[CapturedEvent]):
    """The reporter of a stage."""

    def isolated(self) -> AbstractContextManager[None]:
        return nullcontext()

    def report(
        self,
        exc: BaseException,
        outcome: Outcome,
        *,
        mechanism: str,
        tags: Mapping[str, str],
        failures: Sequence[Mapping[str, Any]] = (),
    ) -> str | None:
        known = next((event for event in self if event.exception is exc), None)
        if known is None:
            known = CapturedEvent(exc, outcome, dict(tags), failures)
            self.append(known)
        return known.event_id


class Spans(SpanProcessor):
    """Keeps ended spans while its stage stands."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []
        self.active = True

    def on_end(self, span: ReadableSpan) -> None:
        if self.active:
            self.spans.append(span)


class Lines(logging.Handler):
    """Keeps the events of the one log schema."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(log_fields(record, service=SERVICE))


class Listening(AbstractContextManager[object]):
    """Takes log records in while the stage stands, and ends the capture of spans with it."""

    def __init__(self, spans: Spans, lines: Lines) -> None:
        self._spans = spans
        self._lines = lines
        self._level = logging.WARNING

    def __enter__(self) -> object:
        root = logging.getLogger()
        self._level = root.level
        root.setLevel(min(root.level or logging.INFO, logging.INFO))
        root.addHandler(self._lines)
        return self

    def __exit__(self, *error: object) -> None:
        root = logging.getLogger()
        root.removeHandler(self._lines)
        root.setLevel(self._level)
        self._spans.active = False

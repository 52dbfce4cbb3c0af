"""
``progress()``: how far a handler is, for whoever waits for its task.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from time import monotonic
from types import TracebackType
from typing import Any, Final

from opentelemetry import context as otel

from tracebaton.errors import TracebatonError
from tracebaton.events import say
from tracebaton.semconv import EVENT_TASK_PROGRESS, EVENT_TASK_STORE_FAILED

__all__ = ["MESSAGE_LIMIT", "progress", "reporting"]

#: Characters of a message that are kept: it is a line on somebody's screen.
MESSAGE_LIMIT: Final = 500
#: Seconds between two log lines of one attempt; a handler may report at each row of a file.
LINE_EVERY: Final = 1.0

_KEY = otel.create_key("tracebaton-progress")
_log = logging.getLogger("tracebaton.worker")

#: Writes a percentage and a message to the task.
Write = Callable[[int, str | None], Awaitable[None]]


def progress(percent: float, message: str | None = None) -> Awaitable[None]:
    """
    Say how far the current task is.

    Await it in an ``async def`` handler to go on when it is written; in a ``def`` handler the call
    alone is enough. Calls without await are written in order, as fast as the task store takes them:
    one that is overtaken by a later one is skipped. Outside a task nothing happens, and a store
    that is away fails no handler. What was written is also a log line, ``task.progress``: one a
    second at most, and 100 in any case.

    Args:
        percent: Taken to the nearest whole number from 0 to 100. It never falls within an attempt.
        message: A line about what is done right now.
    """
    found = otel.get_value(_KEY)
    if not isinstance(found, _Reporter) or math.isnan(percent):
        return _Written(None)
    text = message if message is None else _cut(message)
    return found.report(round(min(100.0, max(0.0, percent))), text)


class reporting:  # noqa: N801  # it is used like a function, and each message makes one
    """
    Let `progress()` inside the block report by *write*.

    What was reported is written when the block ends, unless it was cancelled; what comes after that
    is dropped.
    """

    __slots__ = ("_reporter", "_token")

    def __init__(self, write: Write) -> None:
        self._reporter = _Reporter(write)

    async def __aenter__(self) -> None:
        self._token = otel.attach(otel.set_value(_KEY, self._reporter))

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self._reporter.writes and (exc is None or isinstance(exc, Exception)):
                await self._reporter.written()
        finally:
            self._reporter.open = False
            otel.detach(self._token)


class _Written:
    """Over when *writer* has written everything; awaiting it is nobody's duty."""

    __slots__ = ("_writer",)

    def __init__(self, writer: "asyncio.Task[None] | None") -> None:
        self._writer = writer

    def __await__(self) -> Generator[Any, None, None]:
        if self._writer is not None:
            yield from asyncio.shield(self._writer).__await__()


class _Reporter:
    """Writes the latest word of one attempt, one after the other."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._loop = asyncio.get_running_loop()
        self._latest: tuple[int, str | None] | None = None
        self._writer: asyncio.Task[None] | None = None
        self._said = -math.inf
        self._later: asyncio.TimerHandle | None = None
        self.open = True

    def report(self, percent: int, message: str | None) -> Awaitable[None]:
        try:
            on_loop = asyncio.get_running_loop() is self._loop
        except RuntimeError:  # a handler in a thread, which cannot wait
            on_loop = False
        if on_loop:
            return _Written(self._note(percent, message))
        with suppress(RuntimeError):  # the loop is closed: nobody waits for this handler any more
            self._loop.call_soon_threadsafe(self._note, percent, message)
        return _Written(None)

    @property
    def writes(self) -> bool:
        """Tell whether anything was reported."""
        return self._writer is not None

    async def written(self) -> None:
        """Wait for what was reported so far."""
        await _Written(self._writer)

    def _note(self, percent: int, message: str | None) -> "asyncio.Task[None] | None":
        if not self.open:
            return None
        highest = self._latest[0] if self._latest else 0
        if percent >= highest:  # a lower one changes nothing, and must not hide what waits
            self._latest = (percent, message)
        if self._writer is None or self._writer.done():
            self._writer = self._loop.create_task(self._write_all())
        return self._writer

    async def _write_all(self) -> None:
        while self._latest is not None and self.open:
            percent, message = self._latest
            self._latest = None
            try:
                await self._write(percent, message)
                self._say(percent, message)
            except TracebatonError as exc:
                fields = {"code": exc.code, "reason": str(exc.__cause__ or exc)}
                _log.warning(EVENT_TASK_STORE_FAILED, extra={"fields": fields})

    def _say(self, percent: int, message: str | None) -> None:
        """Write a log line, at once or when the next one may come; the latest word is said."""
        if self._later is not None:
            self._later.cancel()
        if not self.open:
            return
        wait = 0.0 if percent == 100 else self._said + LINE_EVERY - monotonic()
        if wait > 0:
            self._later = self._loop.call_later(wait, self._say, percent, message)
            return
        self._said = monotonic()
        say(_log, EVENT_TASK_PROGRESS, {"percent": percent, "message": message})


def _cut(message: str) -> str:
    # Half a surrogate pair is no text that a store could keep.
    text = message[: MESSAGE_LIMIT + 1].encode("utf-8", "replace").decode()
    return text if len(text) <= MESSAGE_LIMIT else f"{text[: MESSAGE_LIMIT - 1]}…"

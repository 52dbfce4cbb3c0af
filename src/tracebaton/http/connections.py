"""
uvicorn's connections, as the command serves them: who says nothing, or takes nothing, is let go.

An event stream may be silent for hours, and a worker's answer may take a while; what nobody has a
reason for is half of a request's head, and a reader that takes nothing of what was sent to it.
"""

import asyncio
import fcntl
import logging
import sys
import termios
from contextlib import suppress
from functools import cache
from typing import Any, Final

from opentelemetry.metrics import Counter, get_meter
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from tracebaton.semconv import EVENT_HTTP_GIVEN_UP, METRIC_GIVEN_UP, OUTCOME, SCOPE

__all__ = ["HEADER_BYTES", "PatientProtocol"]

#: Bytes of headers that are read before the parser gives up: above our own limit, so that ours
#: answers.
HEADER_BYTES: Final = 256 * 1024
#: Seconds that the head of a request may take, from the connection or from its first byte.
HEAD_SECONDS: Final = 30.0
#: Seconds in which a reader has to take some of what waits for it.
READ_SECONDS: Final = 30.0
#: Bytes that wait for a slow reader in this process before its application has to wait too. The
#: system's own buffers come before that.
_WAITING_BYTES: Final = 16 * 1024

_log = logging.getLogger("tracebaton.http")


class PatientProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]  # h11's or httptools's
    """One connection: its parser tells the application when it gives up, and it ends in time."""

    _head: asyncio.TimerHandle | None = None
    _reader: asyncio.TimerHandle | None = None
    _upgraded = False

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Wait for the first head."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=_WAITING_BYTES)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_head()
        self._stop_reader()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Start or end the wait for a head."""
        super().data_received(data)
        if self._upgraded or (self.cycle is not None and not self.cycle.response_complete):
            self._stop_head()
        else:
            self._expect_head()

    def handle_websocket_upgrade(self, *event: Any) -> None:
        """Leave the connection to its new protocol."""
        self._upgraded = True
        self._stop_head()
        super().handle_websocket_upgrade(*event)

    def pause_writing(self) -> None:
        """Wait for the reader."""
        super().pause_writing()
        self._expect_reader()

    def resume_writing(self) -> None:
        """Stop waiting for the reader."""
        self._stop_reader()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer 400 in place of the application, which is told that it cannot answer any more."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:  # what is half written cannot become another answer
                self.transport.close()
                return
        super().send_400_response(msg)

    def _expect_head(self) -> None:
        if self._head is None:
            self._head = self.loop.call_later(HEAD_SECONDS, self._give_up, "head")

    def _stop_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _expect_reader(self) -> None:
        self._reader = self.loop.call_later(READ_SECONDS, self._ask_reader, self._waiting())

    def _stop_reader(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None

    def _ask_reader(self, waiting: int) -> None:
        if self._waiting() < waiting:  # slow, but it reads
            self._expect_reader()
        else:
            self._give_up("reader")

    def _waiting(self) -> int:
        """
        Return the bytes that the reader has not taken.

        Those in the system's buffer count: it takes more of ours only when a third of it is free,
        which for a slow reader may be minutes.
        """
        queued = bytearray(4)
        with suppress(OSError, ValueError):  # not on every system, and not on a closed socket
            fcntl.ioctl(self.transport.get_extra_info("socket"), termios.TIOCOUTQ, queued)
        held: int = self.transport.get_write_buffer_size()
        return held + int.from_bytes(queued, sys.byteorder)

    def _give_up(self, outcome: str) -> None:
        """
        End the connection and forget what waits for it.

        Args:
            outcome: What was waited for, ``head`` or ``reader``.
        """
        fields = {
            "client": self.client[0] if self.client else None,
            "waited_for": outcome,
            "bytes": self.transport.get_write_buffer_size(),
        }
        _log.warning(EVENT_HTTP_GIVEN_UP, extra={"fields": fields})
        _given_up().add(1, {OUTCOME: outcome})
        self.transport.abort()  # close() would wait until somebody read what is left


@cache
def _given_up() -> Counter:
    return get_meter(SCOPE).create_counter(
        METRIC_GIVEN_UP, "{connection}", "Connections that were ended because nothing moved."
    )

"""
The connections that OTLP leaves by, and why something did not.

A session of ours stands under the SDK's exporters: a forked child does not share it, a second
destination does not get the first one's headers, a redirect is no arrival, and a server that asks
for a pause gets it.
"""

import logging
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import requests
from requests.adapters import HTTPAdapter

from tracebaton.telemetry.forks import in_child

__all__ = ["REASONS", "Connections", "OwnHeaders", "silence"]

#: The SDK's own lines about a failed export; ours say it once an interval, with the count.
_SDK_LOGGERS: Final = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.exporter.otlp.proto.http._log_exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.sdk._shared_internal",
)
_SENT_HEADERS: Final = frozenset({"content-type", "content-encoding", "content-length", "host"})
#: Seconds after which a server is asked again however long a pause it wanted.
LONGEST_PAUSE: Final = 300.0
#: Characters of a reason: an exception's text may hold a whole answer.
_REASON_LENGTH: Final = 300


class _Reasons(logging.Filter):
    """
    Knows why the current thread's last export failed, and keeps the SDK's lines out of the log.

    What the connection saw counts more than the SDK's last word, which for a retried batch is that
    it gave up.
    """

    def __init__(self) -> None:
        super().__init__()
        self._here = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        self._here.told = record.getMessage()
        return False

    def note(self, reason: str | None) -> None:
        """Keep what a connection saw; None after an answer that is none of these."""
        self._here.seen = None if reason is None else reason[:_REASON_LENGTH]

    def take(self) -> str | None:
        """Return why, and forget it."""
        seen, told = getattr(self._here, "seen", None), getattr(self._here, "told", None)
        self._here.seen = self._here.told = None
        reason: str | None = seen or told
        return reason


REASONS: Final = _Reasons()


def silence() -> None:
    """Keep the SDK's lines about failed exports out of the log."""
    for name in _SDK_LOGGERS:
        logging.getLogger(name).addFilter(REASONS)  # adding it twice does nothing


class Connections(requests.Session):
    """A session of one process: a forked child's requests would mix with its parent's."""

    def __init__(self) -> None:
        super().__init__()
        self._start_anew()
        in_child(self._start_anew)

    def _start_anew(self) -> None:
        self._closed = threading.Event()
        self._resume = 0.0
        for scheme in ("https://", "http://"):
            self.mount(scheme, HTTPAdapter())

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """
        Send *request* when the server's pause is over.

        Raises:
            requests.ConnectionError: `close()` was called meanwhile.
            requests.HTTPError: The answer is a redirect: the SDK would count it as arrived.
        """
        if self._closed.wait(max(0.0, self._resume - time.monotonic())):
            raise requests.ConnectionError("the exporter was shut down")
        if isinstance(self.verify, str):
            # OTEL_EXPORTER_OTLP_CERTIFICATE; requests would prefer its own REQUESTS_CA_BUNDLE.
            kwargs["verify"] = self.verify
        try:
            answer = super().send(request, **kwargs)
        except Exception as exc:
            REASONS.note(f"{type(exc).__name__}: {exc}")
            raise
        refused = answer.status_code >= 300
        REASONS.note(f"HTTP {answer.status_code} {answer.reason}" if refused else None)
        if answer.status_code in (429, 503):
            pause = _seconds(answer.headers.get("retry-after", ""))
            self._resume = time.monotonic() + min(pause, LONGEST_PAUSE)
        elif 300 <= answer.status_code < 400:
            raise requests.HTTPError(f"HTTP {answer.status_code} is not followed")
        return answer

    def close(self) -> None:
        """Close the connections and end a pause."""
        self._closed.set()
        super().close()


def _seconds(retry_after: str) -> float:
    """Return the seconds that a ``Retry-After`` asks for, 0 where it says nothing readable."""
    if retry_after.isascii() and retry_after.isdecimal():
        return float(retry_after)
    try:
        moment = parsedate_to_datetime(retry_after)
    except ValueError:
        return 0.0
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.now(UTC)).total_seconds())


class OwnHeaders(Connections):
    """
    A session that sends our headers and none of ``OTEL_EXPORTER_OTLP_HEADERS``.

    Those hold the credentials of the configured backend, and the SDK adds them to every exporter.
    """

    def __init__(self, headers: Mapping[str, str], *, trust_env: bool) -> None:
        super().__init__()
        self._own = dict(headers)
        self.trust_env = trust_env

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """Send *request* with our headers in place of the environment's."""
        for name in [name for name in request.headers if name.lower() not in _SENT_HEADERS]:
            del request.headers[name]
        request.headers.update(self._own)
        return super().send(request, **kwargs)

"""
How envelopes leave: several at a time, out of sight of instrumentations, and counted.
"""

import io
import json
import ssl
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from opentelemetry.instrumentation.utils import suppress_instrumentation
from sentry_sdk.consts import EndpointType
from sentry_sdk.envelope import Envelope, Item
from sentry_sdk.transport import HttpTransport
from sentry_sdk.utils import capture_internal_exceptions
from urllib3 import PoolManager

from tracebaton.telemetry.forks import in_child
from tracebaton.telemetry.handover import Handover
from tracebaton.telemetry.losses import InFlight
from tracebaton.telemetry.sentry.posts import Posts

__all__ = ["ParallelTransport"]

#: The SDK sends one envelope after the other: at 50 ms a round trip that is 20 a second.
CONNECTIONS: Final = 16


class _Senders:
    """What the SDK calls a worker, with several threads and safe to fork."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._handover: Handover[Callable[[], object]] = Handover(
            lambda send: send(), name="tracebaton-envelopes", limit=limit, threads=CONNECTIONS
        )

    def submit(self, callback: Callable[[], object]) -> bool:
        """Queue the sending of one envelope."""
        return self._handover.submit(callback)

    def flush(self, timeout: float, callback: object = None) -> None:
        """Wait up to *timeout* seconds for what is queued."""
        self._handover.drain(timeout)

    def stalls(self) -> bool:
        """Tell whether an envelope would have to wait, and may."""
        return CONNECTIONS <= len(self._handover) < self._limit

    def full(self) -> bool:
        """Tell whether the next envelope would be refused."""
        return len(self._handover) >= self._limit

    def kill(self) -> None:
        """Let go of what is queued; the threads are daemons."""
        self._handover.close()


class _Packed:
    """
    An envelope that waits, as bytes: one object in place of fourteen.

    Where Sentry does not answer, thousands wait, and the collector of garbage would look through
    all of their parts again and again, for a tenth of a second in which no request is served.
    """

    __slots__ = ("_packed", "_send")

    def __init__(self, envelope: Envelope, send: Callable[[Envelope], object]) -> None:
        self._packed = envelope.serialize()
        self._send = send

    def __call__(self) -> None:
        with capture_internal_exceptions():
            self._send(_unpacked(self._packed))


def _unpacked(packed: bytes) -> Envelope:
    """Return the envelope of *packed*; the SDK's way would parse each payload and write it anew."""
    stream, items = io.BytesIO(packed), []
    headers = json.loads(stream.readline())
    while line := stream.readline():
        named = json.loads(line)
        items.append(Item(payload=stream.read(named["length"]), headers=named))
        stream.readline()
    return Envelope(headers=headers, items=items)


class ParallelTransport(HttpTransport):
    """
    The SDK's transport over several connections.

    An instrumented urllib3 would make a transaction of each envelope, so instrumentations do not
    see them. `flight` learns what Sentry took.
    """

    flight: InFlight

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(options)
        self._senders = _Senders(options["transport_queue_size"])
        self._worker = self._senders  # type: ignore[assignment]
        self._send_late = self._send_waiting  # bound once, not for each that waits
        self._refused = threading.local()
        self._posts = self._direct()
        in_child(self._connect_anew)

    def _connect_anew(self) -> None:
        # Two processes on one connection would mix their requests.
        self._pool = self._make_pool()
        if self._posts is not None:
            self._posts.close()
        self._posts = self._direct()

    def kill(self) -> None:
        """Close what is open."""
        super().kill()
        if self._posts is not None:
            self._posts.close()

    def _direct(self) -> Posts | None:
        """Return connections of our own, None where a proxy stands between."""
        if type(self._pool) is not PoolManager or self.parsed_dsn is None:
            return None
        options, dsn = self._get_pool_options(), self.parsed_dsn
        tls = None
        if dsn.scheme == "https":
            tls = ssl.create_default_context(cafile=options["ca_certs"])
            if options["cert_file"]:
                tls.load_cert_chain(options["cert_file"], options["key_file"])
        return Posts(
            str(dsn.host),
            dsn.port,
            tls=tls,
            timeout=self.TIMEOUT,
            socket_options=options.get("socket_options") or (),
        )

    def _request(
        self, method: str, endpoint_type: EndpointType, body: Any, headers: Mapping[str, str]
    ) -> Any:
        if self._posts is not None:
            target = urlsplit(self._auth.get_api_url(endpoint_type)).path
            answer = self._posts.post(target, headers, body)
            if not 300 <= answer.status < 400:
                return answer
        return super()._request(method, endpoint_type, body, headers)

    def _get_pool_options(self) -> dict[str, Any]:
        return {**super()._get_pool_options(), "maxsize": CONNECTIONS}

    def capture_envelope(self, envelope: Envelope) -> None:
        """Queue *envelope*."""
        parcel = envelope.headers.get("event_id")
        self.flight.dispatch(parcel)
        self._refused.reason = None
        waits = self._senders.stalls() and self._senders.submit(_Packed(envelope, self._send_late))
        if not waits:
            super().capture_envelope(envelope)
        if self._refused.reason:  # the queue is full
            self.flight.settle(parcel, self._refused.reason)

    def on_dropped_event(self, _reason: str) -> None:
        """Remember why the envelope in hand did not arrive."""
        self._refused.reason = _reason

    def _send_waiting(self, envelope: Envelope) -> None:
        self._send_envelope(envelope)
        self._flush_client_reports()

    def _send_envelope(self, envelope: Envelope) -> None:
        self._refused.reason = None
        try:
            with suppress_instrumentation():
                super()._send_envelope(envelope)
        finally:
            self.flight.settle(envelope.headers.get("event_id"), self._refused.reason)

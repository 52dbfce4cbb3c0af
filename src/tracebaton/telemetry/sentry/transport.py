"""
How envelopes leave: the SDK's transport, out of sight of instrumentations, with counts.
"""

import threading
from typing import Any

from opentelemetry.instrumentation.utils import suppress_instrumentation
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import HttpTransport

from tracebaton.telemetry.losses import InFlight

__all__ = ["CountingTransport"]


class CountingTransport(HttpTransport):
    """
    The SDK's transport, out of sight of instrumentations, counting the spans that Sentry took.

    An instrumented urllib3 would otherwise make a transaction of each envelope that is sent.
    """

    flight: InFlight

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(options)
        self._refused = threading.local()

    def capture_envelope(self, envelope: Envelope) -> None:
        self.flight.dispatch()
        self._refused.reason = None
        super().capture_envelope(envelope)
        if self._refused.reason:  # the queue is full
            self.flight.settle(_spans_of(envelope), self._refused.reason)

    def on_dropped_event(self, _reason: str) -> None:
        self._refused.reason = _reason

    def _send_envelope(self, envelope: Envelope) -> None:
        self._refused.reason = None
        try:
            with suppress_instrumentation():
                super()._send_envelope(envelope)
        finally:
            self.flight.settle(_spans_of(envelope), self._refused.reason)


def _spans_of(envelope: Envelope) -> int:
    event = envelope.get_transaction_event()
    return 0 if event is None else 1 + len(event.get("spans") or ())

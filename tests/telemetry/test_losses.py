"""Losses are counted always and said once an interval."""

import pytest

from tracebaton.telemetry.losses import INTERVAL, InFlight, Losses


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    return [vars(record)["fields"] for record in caplog.records]


def test_a_line_says_what_was_lost_since_the_last(caplog: pytest.LogCaptureFixture) -> None:
    """The first at once, the next after the interval."""
    clock = [0.0]
    losses = Losses("otlp", now=lambda: clock[0])
    losses.add(1, "refused")
    losses.add(5, "refused")
    clock[0] = INTERVAL
    losses.add(2, None)

    assert losses.count == 8
    assert lines(caplog) == [
        {"destination": "otlp", "spans": 1, "reason": "refused"},
        {"destination": "otlp", "spans": 7, "reason": None},
    ]


def test_parcels_account_for_every_span(caplog: pytest.LogCaptureFixture) -> None:
    """Sent, lost or on the way; a parcel without spans is only a parcel."""
    flight = InFlight(Losses("sentry"))
    flight.receive(10)
    flight.pack("a", 6)
    flight.pack("b", 4)
    for _ in range(3):
        flight.dispatch()
    assert (flight.parcels, flight.sent, flight.unsent) == (3, 0, 10)
    flight.settle("a", None)
    flight.settle("b", "status_500")
    flight.settle(None, None)

    assert (flight.parcels, flight.sent, flight.unsent) == (0, 6, 4)
    assert lines(caplog) == [{"destination": "sentry", "spans": 4, "reason": "status_500"}]

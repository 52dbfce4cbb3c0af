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
    flight = InFlight(Losses("sentry"), Losses("sentry", signal="events"))
    flight.receive(10)
    flight.pack("a", 6)
    flight.pack("b", 4)
    for parcel in ("a", "b", None):
        flight.dispatch(parcel)
    assert (flight.parcels, flight.sent, flight.unsent) == (3, 0, 10)
    flight.settle("a", None)
    flight.settle("b", "status_500")
    flight.settle(None, None)

    assert (flight.parcels, flight.sent, flight.unsent) == (0, 6, 4)
    assert lines(caplog) == [{"destination": "sentry", "spans": 4, "reason": "status_500"}]


def test_an_event_is_a_parcel_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    """One that is lost is said, and so is what was on its way when the process stopped."""
    flight = InFlight(Losses("sentry"), Losses("sentry", signal="events"))
    flight.receive(3)
    flight.pack("spans", 3)
    for parcel in ("spans", "lost", "late", "sent", None):
        flight.dispatch(parcel)
    flight.settle("lost", "network")
    flight.settle("sent", None)
    flight.close()
    for parcel in ("spans", "late", None):  # whoever is still sending comes too late
        flight.settle(parcel, "network")

    assert (flight.parcels, flight.sent, flight.unsent) == (0, 0, 3)
    assert lines(caplog) == [
        {"destination": "sentry", "events": 1, "reason": "network"},
        {"destination": "sentry", "spans": 3, "reason": "the process stopped"},
        {"destination": "sentry", "events": 1, "reason": "the process stopped"},
    ]

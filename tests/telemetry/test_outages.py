"""One event a code and minute, with the count."""

from tracebaton.telemetry.outages import GRACE, WINDOW, Outages


class Bench:
    """Outages with a clock in hand."""

    def __init__(self) -> None:
        self.clock = 1000.0
        self.sent: list[tuple[str, int]] = []
        self.opened = 0
        self.outages = Outages(now=lambda: self.clock)

    def fail(self, code: str = "queue") -> str:
        def opened() -> tuple[str, object]:
            self.opened += 1
            name = f"{code}-{self.opened}"
            return name, lambda count: self.sent.append((name, count))

        return self.outages.add(code, opened)  # type: ignore[arg-type]


def test_the_burst_is_one_event() -> None:
    """It leaves after the grace with the count so far, and once."""
    bench = Bench()
    ids = {bench.fail() for _ in range(3)}
    assert bench.outages.send_due() == GRACE
    bench.clock += GRACE
    assert bench.outages.send_due() is None
    bench.outages.send_due(all_of_them=True)

    assert ids == {"queue-1"}
    assert bench.sent == [("queue-1", 3)]


def test_later_failures_are_counted_into_the_next_event() -> None:
    """They name the event that is there until the minute is over."""
    bench = Bench()
    bench.fail()
    bench.clock += GRACE
    bench.outages.send_due()
    assert [bench.fail(), bench.fail()] == ["queue-1", "queue-1"]
    bench.clock += WINDOW
    assert bench.fail() == "queue-2"
    bench.outages.send_due(all_of_them=True)

    assert bench.sent == [("queue-1", 1), ("queue-2", 3)]


def test_codes_are_apart() -> None:
    """Two dependencies, two events."""
    bench = Bench()
    bench.fail("queue")
    bench.clock += 1
    bench.fail("store")
    assert bench.outages.send_due() == GRACE - 1
    bench.clock += GRACE - 1
    assert bench.outages.send_due() == 1
    bench.outages.send_due(all_of_them=True)

    assert bench.sent == [("queue-1", 1), ("store-2", 1)]


def test_no_outage_is_nothing_to_send() -> None:
    """And nothing to wait for."""
    assert Outages().send_due() is None

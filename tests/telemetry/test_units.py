"""Ended spans that wait for their root, and what they take meanwhile."""

import gc
from collections import deque
from typing import Any

import pytest
from opentelemetry.sdk.trace import Span, SpanLimits, TracerProvider

from tracebaton.telemetry.units import Unit, UnitCollector


def unit(*, events: int = 0, limits: SpanLimits | None = None) -> Unit[None]:
    """Return the unit of a root with one child that has so many *events*."""
    units: list[Unit[None]] = []
    provider = TracerProvider(span_limits=limits, shutdown_on_exit=False)
    provider.add_span_processor(UnitCollector(capture=lambda: None, submit=units.append))
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("root"), tracer.start_as_current_span("child") as child:
        assert isinstance(child, Span)
        for number in range(events):
            child.add_event(str(number))
    return units[0]


def deques(span: Any) -> int:
    """Return how many deques *span* keeps, in what it consists of."""
    parts, level = list[Any](), [span]
    for _ in range(3):  # with or without a dictionary of attributes, by version of Python
        level = gc.get_referents(*level)
        parts += level
    return len({id(part) for part in parts if isinstance(part, deque)})


@pytest.mark.parametrize("events", [0, 2])
def test_a_waiting_span_has_room_for_what_it_has(events: int) -> None:
    """An empty deque takes 760 bytes, and the SDK makes two for each span."""
    found = unit(events=events)
    (child,) = found.spans

    assert [event.name for event in child.span.events] == [str(number) for number in range(events)]
    assert (child.span.links, found.root.span.events, found.root.span.links) == ((), (), ())
    assert (deques(child.span), deques(found.root.span)) == (1 if events else 0, 0)


def test_what_a_limit_dropped_stays_counted() -> None:
    """A span without events may have had some: the SDK's limit of events may be 0."""
    found = unit(events=2, limits=SpanLimits(max_events=0))

    assert [child.span.dropped_events for child in found.spans] == [2]

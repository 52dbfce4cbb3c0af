"""The spans of our own provider, which are those of the SDK but for what they cost."""

import itertools
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Tracer, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from tracebaton.telemetry.adoption import OwnTracerProvider
from tracebaton.telemetry.sampling import HeadSampler
from tracebaton.telemetry.spans import OwnSpan, _fits

PARENT = SpanContext(0xA, 0xB, True, TraceFlags(3), TraceState([("vendor", "1")]))
OTHER = SpanContext(0xC, 0xD, True)


class Counting(IdGenerator):
    """Ids that a test knows."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def generate_span_id(self) -> int:
        return next(self._numbers)

    def generate_trace_id(self) -> int:
        return next(self._numbers)

    def is_trace_id_random(self) -> bool:
        return True


def attributes(tracer: trace.Tracer) -> None:
    """Set attributes of each kind, odd ones too."""
    odd: dict[Any, Any] = {"": 1, 7: "seven", "list": [1, 2], "none": None, "bytes": b"\0"}
    span = tracer.start_span("attributes", attributes={"text": "a" * 40, "number": 1})
    span.set_attributes({"more": 2.5, "is": True, "text": "b" * 40})
    span.set_attributes(odd)
    span.set_attribute("one", "more")
    span.set_attribute("list", ["x"])
    span.set_attribute("", "nameless")
    span.set_attribute("object", {"a": [object]})  # type: ignore[dict-item]  # what people do
    span.end()
    span.set_attribute("late", 1)
    span.set_attributes({"late": 1})
    span.end()


def moments(tracer: trace.Tracer) -> None:
    """Give both ends, events, links and another name."""
    links = [Link(PARENT, {"why": "origin"}), Link(trace.INVALID_SPAN_CONTEXT)]
    span = tracer.start_span("moments", kind=SpanKind.CONSUMER, links=links, start_time=10)
    span.add_event("first", {"n": 1}, timestamp=11)
    span.add_event("second", timestamp=12)
    span.add_event("odd", {"": 1, "list": ["a" * 20]}, timestamp=13)
    given = {"more": "a" * 20, "number": 1.5}
    span.add_event("plain", given, timestamp=14)
    given["more"] = "changed"
    span.add_link(OTHER)
    span.update_name("renamed")
    span.end(20)
    span.add_event("late", timestamp=21)


def later_links(tracer: trace.Tracer) -> None:
    """Link what was not known at the start."""
    span = tracer.start_span("later", start_time=1)
    span.add_link(PARENT, {"why": "again"})
    span.add_link(OTHER)
    span.end(2)


def failures(tracer: trace.Tracer) -> None:
    """Fail in each way that a span can be told of."""
    for keywords in ({}, {"record_exception": False}, {"set_status_on_exception": False}):
        with suppress(ValueError), tracer.start_as_current_span("raising", **keywords):
            raise ValueError("no")
        with suppress(ValueError), tracer.start_span("itself", **keywords):
            raise ValueError("no")
    span = tracer.start_span("told")
    span.set_status(Status(StatusCode.ERROR, "because"))
    span.end()


def relations(tracer: trace.Tracer) -> None:
    """Stand below others."""
    here = set_span_in_context(NonRecordingSpan(PARENT))
    with tracer.start_as_current_span("remote", here), tracer.start_as_current_span("local"):
        trace.get_current_span().set_attribute("by", "handler")
    with tracer.start_as_current_span("root"), tracer.start_as_current_span("child"):
        pass


def told(provider: TracerProvider, work: Callable[[trace.Tracer], None]) -> list[dict[str, Any]]:
    """Return what an exporter sees of *work*, without times and stacks."""
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    work(provider.get_tracer("test", "1"))
    provider.shutdown()
    return [
        {
            "name": (span.name, span.kind, span.resource.attributes),
            "context": span.context,
            "parent": span.parent,
            "status": (span.status.status_code, span.status.description),
            "attributes": dict(span.attributes or {}),
            "start_time": span.start_time if (span.start_time or 0) < 100 else "now",
            "end_time": span.end_time if (span.end_time or 0) < 100 else "now",
            "events": [
                (
                    one.name,
                    {**(one.attributes or {}), "exception.stacktrace": ""},
                    one.timestamp < 100,
                )
                for one in span.events
            ],
            "flags": span.context and span.context.trace_flags,
            "remote": span.parent and span.parent.is_remote,
            "dropped": (span.dropped_attributes, span.dropped_events, span.dropped_links),
            "scope": span.instrumentation_scope,
        }
        for span in exporter.get_finished_spans()
    ]


@pytest.mark.parametrize("work", [attributes, moments, later_links, failures, relations])
@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "4"},
        {"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "0"},
        {"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": ""},
        {"OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "10"},
        {"OTEL_SPAN_EVENT_COUNT_LIMIT": "1", "OTEL_SPAN_LINK_COUNT_LIMIT": "1"},
        {"OTEL_ATTRIBUTE_COUNT_LIMIT": "1"},
        {"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "10"},
    ],
    ids=str,
)
def test_an_exporter_sees_what_it_sees_of_the_sdks(
    work: Callable[[trace.Tracer], None], limits: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the limits are."""
    for name, value in limits.items():
        monkeypatch.setenv(name, value)

    def provider(kind: type[TracerProvider]) -> TracerProvider:
        return kind(
            sampler=HeadSampler(1.0),
            resource=Resource({"service.name": "shop"}),
            id_generator=Counting(),
            shutdown_on_exit=False,
        )

    assert told(provider(OwnTracerProvider), work) == told(provider(TracerProvider), work)


def test_a_live_span_shows_what_is_set_by_now() -> None:
    """And keeps nothing that is written to what it showed."""
    provider = OwnTracerProvider(sampler=HeadSampler(1.0), shutdown_on_exit=False)
    live = provider.get_tracer("test").start_span("live", attributes={"a": 1})
    assert isinstance(live, OwnSpan)
    before = live.attributes
    live.set_attribute("b", 2)

    assert (before, live.attributes) == ({"a": 1}, {"a": 1, "b": 2})
    assert live.dropped_attributes == 0


@pytest.mark.parametrize(("rate", "keep_errors"), [(0.0, True), (0.0, False), (1.0, False)])
def test_what_the_head_does_not_keep_is_not_recorded(*, rate: float, keep_errors: bool) -> None:
    """Unless it may fail; the flag says what was decided in either case."""
    sampler = HeadSampler(rate, keep_errors=keep_errors)
    provider = OwnTracerProvider(sampler=sampler, shutdown_on_exit=False)
    span = provider.get_tracer("test").start_span("any")

    assert span.get_span_context().trace_flags.sampled == (rate == 1)
    assert span.is_recording() == (rate == 1 or keep_errors)


def test_the_sdk_is_told_of_what_is_done_too_late(caplog: pytest.LogCaptureFixture) -> None:
    """By the lines that it writes itself."""
    provider = OwnTracerProvider(sampler=HeadSampler(1.0), shutdown_on_exit=False)
    with caplog.at_level(logging.WARNING, "opentelemetry.sdk.trace"):
        attributes(provider.get_tracer("test"))

    late = [one.getMessage() for one in caplog.records if one.name == "opentelemetry.sdk.trace"]

    assert late == ["Setting attribute on ended span."] * 2 + ["Calling end() on an ended span."]


def test_another_sampler_gets_the_spans_of_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    """And so does who turns the SDK off."""
    chosen = OwnTracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False)
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    off = OwnTracerProvider(sampler=HeadSampler(1.0), shutdown_on_exit=False)

    assert not isinstance(chosen.get_tracer("test").start_span("any"), OwnSpan)
    assert not off.get_tracer("test").start_span("any").is_recording()


class LaterTracer(Tracer):
    """The tracer of an SDK that keeps something else in its spans."""

    def start_span(self, *args: Any, **kwargs: Any) -> trace.Span:
        span = super().start_span(*args, **kwargs)
        vars(span)["_of_later"] = None
        return span


class Later(TracerProvider):
    """Its provider."""

    def get_tracer(self, *args: Any, **kwargs: Any) -> Any:
        tracer = super().get_tracer(*args, **kwargs)
        tracer.__class__ = LaterTracer
        return tracer


class Other(TracerProvider):
    """The provider of an SDK whose tracers have other names for what they hold."""

    def get_tracer(self, *args: Any, **kwargs: Any) -> Any:
        tracer = super().get_tracer(*args, **kwargs)
        del vars(tracer)["_span_limits"]
        return tracer


def test_an_sdk_that_we_do_not_know_makes_its_own_spans() -> None:
    """Its versions from the lowest that we allow are known."""
    assert (_fits(), _fits(Later), _fits(Other)) == (True, False, False)


def test_a_tracer_can_be_turned_off() -> None:
    """By the configurator that the SDK has for it."""
    provider = OwnTracerProvider(sampler=HeadSampler(1.0), shutdown_on_exit=False)
    tracer = provider.get_tracer("test")
    provider._set_tracer_configurator(
        tracer_configurator=lambda scope: type(tracer._tracer_config)(is_enabled=False)  # type: ignore[attr-defined]
    )

    assert not tracer.start_span("any").is_recording()


def test_a_library_gets_the_same_tracer_each_time() -> None:
    """One with attributes of its scope is another."""
    provider = OwnTracerProvider(sampler=HeadSampler(1.0), shutdown_on_exit=False)
    first = provider.get_tracer("shop", "1")
    other = provider.get_tracer("shop", "1", attributes={"part": "cart"})

    assert provider.get_tracer("shop", "1") is first
    assert provider.get_tracer("shop", "1", attributes={"part": "cart"}) is other
    assert len({first, other, provider.get_tracer("shop"), provider.get_tracer("shop", "2")}) == 4

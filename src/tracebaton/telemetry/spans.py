"""
The spans of our own provider: the SDK's, at a third of what they cost there.

The SDK cleans each attribute by itself, under two locks, and makes for each span what few spans
have: lists of events and links, with a lock each. Here a span keeps its attributes in a plain dict
and takes at once what needs no cleaning. Whatever is odd, a limit that is reached above all, goes
through the SDK's own mapping; limits, processors, events and exceptions are the SDK's. A provider
that is not ours makes its own spans as ever, and so does an SDK whose insides are not as they were.
"""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from threading import Lock
from time import time_ns
from types import MappingProxyType
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context, get_current
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, Span, Tracer, TracerProvider
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import (
    DEFAULT_TRACE_STATE,
    Link,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
)

from tracebaton.telemetry.sampling import HeadSampler

__all__ = ["OwnSpan", "OwnTracer", "lightened"]

#: Where the SDK tells an application what it does wrong with a span.
_log = logging.getLogger("opentelemetry.sdk.trace")

Attributes = Mapping[str, Any] | None
_NUMBERS: Final = frozenset({bool, int, float})
_PLAIN: Final = _NUMBERS | {str}
_NAMES: Final = frozenset({str})
_UNSET: Final = Status(StatusCode.UNSET)
#: The flags of a span: sampled, and random where its trace id is.
_FLAGS: Final = tuple(TraceFlags(number) for number in range(4))
_RANDOM: Final = TraceFlags.RANDOM_TRACE_ID
_ENDED: Final = "Setting attribute on ended span."


def _are_plain(attributes: dict[Any, Any], kept: frozenset[type] = _PLAIN) -> bool:
    """Tell whether none of *attributes* has to be cleaned."""
    return (
        kept.issuperset(map(type, attributes.values()))
        and _NAMES.issuperset(map(type, attributes))
        and "" not in attributes
    )


class OwnSpan(Span):
    """The SDK's span with its attributes in a plain dict, and without what it may never have."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "OwnSpan":
        """Return a span to be; the SDK's looks whether it is one of its own first."""
        return object.__new__(cls)

    def __init__(
        self,
        tracer: "OwnTracer",
        name: str,
        context: SpanContext,
        *,
        parent: SpanContext | None,
        kind: SpanKind,
        links: Sequence[Link],
        start_time: int | None,
        record_end: Callable[[], None],
    ) -> None:
        """Stand for what `OwnTracer.start_span()` decided."""
        self._name = name
        self._context = context
        self._kind = kind
        self._instrumentation_info = tracer.instrumentation_info
        self._instrumentation_scope = tracer._instrumentation_scope
        self._parent = parent
        self._start_time = time_ns() if start_time is None else start_time
        self._end_time = None
        self._attributes: dict[str, Any] = {}
        self._events: Sequence[Event] = ()
        self._limits = tracer._span_limits
        self._links: Sequence[Link] = self._new_links(links) if links else ()
        self._resource = tracer.resource
        self._status = _UNSET
        self._sampler = tracer.sampler
        self._trace_config = None
        self._record_exception = self._set_status_on_exception = True
        self._span_processor = tracer.span_processor
        self._lock = Lock()
        self._record_end = record_end
        self._record_end_metrics = None  # the SDK asks first whether there is any
        #: How many attributes it may have, and the types that are kept as they are.
        self._most, self._kept = tracer.most, tracer.kept
        self._dropped = 0

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Return the attributes: those of now, while others may still be set."""
        held = self._attributes
        return MappingProxyType(held.copy() if self._end_time is None else held)

    @property
    def dropped_attributes(self) -> int:
        """Return how many attributes the limits took."""
        return self._dropped

    def set_attribute(self, key: str, value: Any) -> None:
        """Set one attribute."""
        with self._lock:
            if self._end_time is not None:
                _log.warning(_ENDED)
            elif (
                type(value) in self._kept
                and type(key) is str
                and key
                and (key in self._attributes or len(self._attributes) < self._most)
            ):
                self._attributes[key] = value
            else:
                bounded = self._bounded()
                bounded[key] = value
                self._keep(bounded)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set several attributes."""
        with self._lock:
            if self._end_time is not None:
                _log.warning(_ENDED)
            else:
                self._set(attributes)

    def _set(self, given: Mapping[str, Any]) -> None:
        if (
            type(given) is dict
            and _are_plain(given, self._kept)
            and len(self._attributes) + len(given) <= self._most
        ):
            self._attributes.update(given)
        else:
            bounded = self._bounded()
            bounded._set_items(given)
            self._keep(bounded)

    def _bounded(self) -> BoundedAttributes:
        """Return the attributes as the SDK has them, which cleans what is added to them."""
        limits = self._limits
        return BoundedAttributes(
            limits.max_span_attributes,
            self._attributes,
            immutable=False,
            max_value_len=limits.max_span_attribute_length,
        )

    def _keep(self, bounded: BoundedAttributes) -> None:
        self._attributes = dict(bounded.copy())
        self._dropped += bounded.dropped

    def add_event(
        self, name: str, attributes: Attributes = None, timestamp: int | None = None
    ) -> None:
        """Add an event."""
        most = self._limits.max_event_attributes
        if (
            type(attributes) is dict
            and self._limits.max_attribute_length is None
            and (most is None or len(attributes) <= most)
            and _are_plain(attributes)
        ):
            self._add_event(Event(name, MappingProxyType(attributes.copy()), timestamp))
        else:
            super().add_event(name, attributes, timestamp)

    def _add_event(self, event: Event) -> None:
        with self._lock:
            if not self._events:
                self._events = self._new_events()  # type: ignore[no-untyped-call]  # the SDK's
        super()._add_event(event)

    def _add_link(self, link: Link) -> None:
        with self._lock:
            if not self._links:
                self._links = self._new_links(())
        super()._add_link(link)

    def end(self, end_time: int | None = None) -> None:
        """End the span and hand it on."""
        with self._lock:
            if self._end_time is not None:
                _log.warning("Calling end() on an ended span.")
                return
            self._end_time = time_ns() if end_time is None else end_time
        self._record_end()
        self._span_processor._on_ending(self)
        self._span_processor.on_end(self._readable_span())

    def _readable_span(self) -> ReadableSpan:
        return _Ended(self)


class _Ended(ReadableSpan):
    """What processors see of an ended span."""

    def __init__(self, span: OwnSpan) -> None:
        self._name = span._name
        self._context = span._context
        self._kind = span._kind
        self._instrumentation_info = span._instrumentation_info
        self._instrumentation_scope = span._instrumentation_scope
        self._parent = span._parent
        self._start_time = span._start_time
        self._end_time = span._end_time
        self._attributes = span._attributes
        self._events = span._events
        self._links = span._links
        self._resource = span._resource
        self._status = span._status
        self._dropped = span._dropped

    @property
    def dropped_attributes(self) -> int:
        return self._dropped


class OwnTracer(Tracer):
    """
    The SDK's tracer where a `HeadSampler` decides, which is asked without a detour.

    Attributes:
        most: Attributes of a span.
        kept: Types of values that need no cleaning.
    """

    most: int
    kept: frozenset[type]

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = (),
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> trace.Span:
        """Start a span."""
        here = get_current() if context is None else context
        before = trace.get_current_span(here).get_span_context()
        if not self._is_enabled():
            return trace.NonRecordingSpan(before)
        parent = before if before.is_valid else None
        if parent is None:
            trace_id, state = self.id_generator.generate_trace_id(), DEFAULT_TRACE_STATE
            random = _RANDOM if self.id_generator.is_trace_id_random() else 0
        else:
            trace_id, state = parent.trace_id, parent.trace_state
            random = parent.trace_flags & _RANDOM
        sampler: HeadSampler = self.sampler  # type: ignore[assignment]  # see `lightened()`
        decision = sampler.decide(before, here, trace_id, kind=kind, attributes=attributes)
        flags = _FLAGS[random | (decision is Decision.RECORD_AND_SAMPLE)]
        ids = SpanContext(trace_id, self.id_generator.generate_span_id(), False, flags, state)
        record_end = self._tracer_metrics.start_span(parent, decision)
        if decision is Decision.DROP:
            return trace.NonRecordingSpan(ids)
        span = OwnSpan(
            self,
            name,
            ids,
            parent=parent,
            kind=kind,
            links=links or (),
            start_time=start_time,
            record_end=record_end,
        )
        if not (record_exception and set_status_on_exception):
            span._record_exception = record_exception
            span._set_status_on_exception = set_status_on_exception
        if attributes:
            span._set(attributes)
        self.span_processor.on_start(span, parent_context=here)
        return span


def lightened(tracer: trace.Tracer) -> trace.Tracer:
    """
    Return *tracer*, by now one that makes `OwnSpan` where it can be.

    It stays the same object, because its provider tells it of changes.
    """
    if type(tracer) is Tracer and type(tracer.sampler) is HeadSampler and _fits():
        return _turned(tracer)
    return tracer


def _turned(tracer: Tracer) -> Tracer:
    limits = tracer._span_limits
    most = limits.max_span_attributes
    tracer.__class__ = OwnTracer
    own: Any = tracer
    own.most = sys.maxsize if most is None else most
    own.kept = _PLAIN if limits.max_span_attribute_length is None else _NUMBERS
    return tracer


@cache
def _fits(of: type[TracerProvider] = TracerProvider) -> bool:
    """Tell whether our spans have all that those of this SDK's provider have."""
    provider = of(sampler=HeadSampler(1.0), resource=Resource.get_empty(), shutdown_on_exit=False)
    tracer = provider.get_tracer(__name__)
    try:
        theirs = vars(tracer.start_span(""))
        turned = _turned(tracer)  # type: ignore[arg-type]  # it is the SDK's
        ours = vars(turned.start_span("", attributes={"cleaned": [""]}))
    except Exception:  # whatever the SDK has changed, it makes its own spans
        return False
    return theirs.keys() <= ours.keys()

"""
What a span loses before any sink sees it: secrets, by the one place that knows them.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import SpanContext, Status

from tracebaton.redaction import MASK, are_clean, is_clean, is_sensitive, redact_text, redact_value
from tracebaton.semconv import AWS_SQS, HTTP_TARGET, URL_ATTRIBUTES, URL_QUERY

__all__ = ["changed", "dict_of", "mask_attributes", "mask_span"]

#: Attributes that are a query, or end in one.
_QUERIES: Final = frozenset({*URL_ATTRIBUTES, HTTP_TARGET, URL_QUERY})


def mask_span(span: ReadableSpan) -> ReadableSpan:
    """
    Return *span* without secrets and without any URL query, itself where there is none of either.

    Done when it has ended, because instrumentations set attributes until then; a query may hold a
    token under any name and goes whole.
    """
    plain = dict_of(span.attributes)
    described = span.events or span.status.description
    if not described and _are_harmless(tuple(plain)) and are_clean([span.name, *_own(plain)]):
        return span
    attributes = mask_attributes(plain)
    events = _events(span.events)
    description = span.status.description
    status = None
    if description and (clean := redact_text(description)) != description:
        status = Status(span.status.status_code, clean)
    name = redact_text(span.name)
    if attributes is None and events is None and status is None and name == span.name:
        return span
    return changed(span, name=name, attributes=attributes, events=events, status=status)


@lru_cache(maxsize=1024)
def _are_harmless(names: tuple[str, ...]) -> bool:
    """Tell whether only the values of attributes with these *names* may have to be masked."""
    return not any(name in _QUERIES or is_sensitive(name) for name in names)


def _own(attributes: Mapping[str, Any]) -> list[Any]:
    """Return the values of *attributes* without those that every span of a queue has."""
    return [value for value in attributes.values() if value != AWS_SQS]


def mask_attributes(attributes: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return *attributes* with what has to be masked, None where nothing has."""
    if not attributes:
        return None
    plain = dict_of(attributes)
    changes: dict[str, Any] = {}
    for name, value in plain.items():
        if name not in _QUERIES and is_clean(name, value):
            continue
        clean = _without_query(name, value) if name in _QUERIES else value
        clean = redact_value(name, list(clean) if isinstance(clean, tuple) else clean)
        if clean != value and not (isinstance(value, tuple) and clean == list(value)):
            changes[name] = clean
    return {**plain, **changes} if changes else None


def dict_of(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return *attributes* as a plain dict; the SDK's own mapping takes three calls an item."""
    if isinstance(attributes, MappingProxyType):
        return attributes.copy()
    return dict(attributes or {})


def _without_query(name: str, value: Any) -> Any:
    if name == URL_QUERY:
        return MASK if value else value
    return str(value).partition("?")[0]


def _events(events: Sequence[Event]) -> list[Event] | None:
    if not events:
        return None
    clean = [mask_attributes(event.attributes) for event in events]
    if not any(clean):
        return None
    return [
        event if attributes is None else Event(event.name, attributes, event.timestamp)
        for event, attributes in zip(events, clean, strict=True)
    ]


def changed(
    span: ReadableSpan,
    *,
    name: str | None = None,
    context: SpanContext | None = None,
    attributes: Mapping[str, Any] | None = None,
    events: Sequence[Event] | None = None,
    status: Status | None = None,
) -> ReadableSpan:
    """Return a copy of an ended *span* with what is given in place of its own."""
    return ReadableSpan(
        name=span.name if name is None else name,
        context=span.context if context is None else context,
        parent=span.parent,
        resource=span.resource,
        attributes=span.attributes if attributes is None else attributes,
        events=span.events if events is None else events,
        links=span.links,
        kind=span.kind,
        status=span.status if status is None else status,
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )

"""Reading what a carrier has, writing what a host may know."""

from collections.abc import Collection, Iterable, MutableMapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from opentelemetry.propagators.textmap import CarrierT, Getter
from opentelemetry.trace import Span, SpanContext, SpanKind

from tracebaton.semconv import (
    BAGGAGE,
    SENTRY_TRACE,
    SERVER_ADDRESS,
    TRACEPARENT,
    TRACESTATE,
    URL_ATTRIBUTES,
)
from tracebaton.w3c import format_traceparent, format_tracestate

__all__ = ["NAMES", "host_called", "present", "take_out", "trace_headers", "values"]

#: The headers that are read and written.
NAMES: Final = frozenset({TRACEPARENT, SENTRY_TRACE, TRACESTATE, BAGGAGE})


def present(getter: Getter[CarrierT], carrier: CarrierT) -> Collection[str]:
    """
    Return which of our headers may be there.

    For each value that it is asked for, the getter of an ASGI scope decodes every header.
    """
    try:
        return NAMES.intersection(map(str.lower, getter.keys(carrier)))
    except Exception:  # a foreign getter, or a header's bytes: each value is asked for by itself
        return NAMES


def values(getter: Getter[CarrierT], carrier: CarrierT, key: str) -> Sequence[str]:
    """Return each value of *key*."""
    try:
        return getter.get(carrier, key) or ()
    except Exception:  # bytes that a foreign getter cannot read cost this header, and no other
        return ()


def trace_headers(span: SpanContext) -> dict[str, str]:
    """Return the W3C headers that name *span*, none where it is not valid."""
    if not span.is_valid:
        return {}
    state = format_tracestate(span.trace_state)
    return {TRACEPARENT: format_traceparent(span)} | ({TRACESTATE: state} if state else {})


def take_out(names: Iterable[str], carrier: object) -> None:
    """Take *names* out of *carrier*, however they are spelled there."""
    if isinstance(carrier, MutableMapping):
        unwanted = frozenset(names)
        for key in [key for key in carrier if str(key).lower() in unwanted]:
            del carrier[key]


def host_called(span: Span) -> str | None:
    """Return the host that *span* calls; only a CLIENT span's attributes name another host."""
    attributes = getattr(span, "attributes", None)
    if attributes is None or getattr(span, "kind", None) is not SpanKind.CLIENT:
        return None
    address = attributes.get(SERVER_ADDRESS)
    if address is None:
        urls = (attributes.get(name) for name in URL_ATTRIBUTES)
        address = next((urlsplit(str(url)).hostname for url in urls if url), None)
    return None if address is None else str(address).lower()

"""
The one propagator, and the border it guards.

Two carriers, two rules. HTTP headers come from outsiders: the trace is joined, baggage and sampling
are not believed unless the settings say so. Messages come from a queue that only our producers may
write to: they carry the request store, and the head's sampling decision is followed.

`extract()` and `inject()` are what OpenTelemetry's HTTP instrumentations call; `extract_message()`
and `inject_message()` are for the queue.
"""

from collections.abc import Collection, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol
from urllib.parse import urlsplit

from opentelemetry import context as otel
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind

from tracebaton.baggage import (
    header,
    incoming_sentry_members,
    is_foreign,
    store_fields,
    with_foreign,
    with_sentry,
)
from tracebaton.semconv import (
    BAGGAGE,
    SENTRY_BAGGAGE_PREFIX,
    SENTRY_TRACE,
    SERVER_ADDRESS,
    TRACEPARENT,
    TRACESTATE,
    URL_ATTRIBUTES,
)
from tracebaton.w3c import (
    Member,
    format_sentry_trace,
    format_traceparent,
    format_tracestate,
    parse_aws_trace_header,
    parse_baggage,
    parse_sentry_trace,
    parse_traceparent,
    parse_tracestate,
)

__all__ = [
    "MessageContext",
    "Propagator",
    "SentryMembers",
    "installed",
    "trusted_parent",
    "undecided_parent",
]

#: The headers that are read.
_NAMES: Final = frozenset({TRACEPARENT, SENTRY_TRACE, TRACESTATE, BAGGAGE})
_DECISION_KEY = otel.create_key("tracebaton-parent-decision")

#: Whose sampling decision the remote parent carries: ours, an outsider's, or none.
_Decision = Literal["queue", "outsider", "open"]


class SentryMembers(Protocol):
    """Where the dynamic sampling context of a trace comes from."""

    @property
    def public_key(self) -> str:
        """Return the public key of our DSN."""
        ...

    @property
    def org(self) -> str | None:
        """Return the organisation's id, where the DSN's host names it."""
        ...

    def items(self, context: Context) -> Sequence[tuple[str, str]]:
        """Return the members to send from *context*, keys with their ``sentry-`` prefix."""
        ...


@dataclass(frozen=True, slots=True)
class MessageContext:
    """
    What a message says about the request it belongs to.

    Attributes:
        context: An empty context plus the remote parent and what travels on with it.
        fields: Store fields by name, decoded; no ``user_id`` of a foreign message.
        foreign: Other baggage members that travel on.
    """

    context: Context
    fields: Mapping[str, str]
    foreign: Mapping[str, str]

    @property
    def parent(self) -> SpanContext:
        """Return the creation context, an invalid one if the message has none."""
        return trace.get_current_span(self.context).get_span_context()


class _Parent(NamedTuple):
    span: SpanContext
    decided: bool  # a sentry-trace may leave the sampling decision open


class Propagator(TextMapPropagator):
    """
    Carry a trace over HTTP headers and SQS messages.

    Understands W3C headers and ``sentry-trace`` with ``sentry-*`` baggage members, and writes the
    union. Never raises, and never logs what an outsider sent.
    """

    def __init__(
        self,
        *,
        trust_baggage: frozenset[str] = frozenset(),
        propagate_baggage_to: frozenset[str] = frozenset(),
        propagate_trace_to: frozenset[str] | None = None,
        sentry: SentryMembers | None = None,
    ) -> None:
        """
        Set the border.

        Args:
            trust_baggage: Keys of inbound HTTP baggage members that pass, queue included.
            propagate_baggage_to: Hosts that outbound HTTP requests send baggage to.
            propagate_trace_to: The only hosts that outbound HTTP requests tell of a trace, nothing
                of it and no baggage goes to others; None for every host.
            sentry: The source of Sentry's members; without it no ``sentry-trace`` is written.
        """
        self._trust_baggage = trust_baggage
        self._baggage_to = _lower(propagate_baggage_to)
        self._trace_to = None if propagate_trace_to is None else _lower(propagate_trace_to)
        self._sentry = sentry

    @property
    def fields(self) -> set[str]:
        """Return the headers that may be written."""
        return {TRACEPARENT, TRACESTATE, BAGGAGE, SENTRY_TRACE}

    def extract(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        getter: Getter[CarrierT] = default_getter,
    ) -> Context:
        """Return *context*, the current one by default, plus what an HTTP caller may tell us."""
        base = otel.get_current() if context is None else context
        present = _present(getter, carrier)
        if not present:
            return base
        traceparent, sentry_trace, tracestate, members_text = (
            _values(getter, carrier, key) if key in present else ()
            for key in (TRACEPARENT, SENTRY_TRACE, TRACESTATE, BAGGAGE)
        )
        parent = _parent(traceparent, sentry_trace, tracestate)
        if parent is not None:
            base = _with_parent(base, parent.span, "outsider" if parent.decided else "open")
        members = parse_baggage(members_text)
        if self._are_ours(members) and not _is_stale(parent, sentry_trace):
            base = with_sentry(base, members)
        return with_foreign(base, [m for m in members if m.key in self._trust_baggage])

    def inject(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        setter: Setter[CarrierT] = default_setter,
    ) -> None:
        """
        Write the current span of *context* to an HTTP request's headers.

        What a host may not know is taken out where it is there already: a client that follows a
        redirect copies the headers of the first request.
        """
        here = otel.get_current() if context is None else context
        span = trace.get_current_span(here)
        host = _host_of(span) if self._baggage_to or self._trace_to is not None else None
        told = self._is_told(host)
        headers = _trace_headers(span.get_span_context()) if told else {}
        if headers and self._sentry is not None:
            headers[SENTRY_TRACE] = format_sentry_trace(span.get_span_context())
        if told and host in self._baggage_to:
            headers |= self._baggage(here)
        if host is not None:
            _take_out(self.fields - headers.keys(), carrier)
        for key, value in headers.items():
            setter.set(carrier, key, value)

    def may_tell(self, context: Context | None = None) -> bool:
        """Tell whether the host that the current span of *context* calls may learn of the trace."""
        return self._trace_to is None or self._is_told(_host_of(trace.get_current_span(context)))

    def _is_told(self, host: str | None) -> bool:
        return self._trace_to is None or host in self._trace_to

    def inject_message(self, context: Context | None = None) -> dict[str, str]:
        """
        Return what a message carries: ``traceparent``, ``tracestate`` if any, ``baggage``.

        The creation context is the current span of *context*. Our own members come first; what does
        not fit 8192 bytes is left out, because telemetry never makes a send fail.
        """
        here = otel.get_current() if context is None else context
        headers = _trace_headers(trace.get_current_span(here).get_span_context())
        return headers | self._baggage(here)

    def extract_message(
        self,
        carrier: Mapping[str, str],
        *,
        aws_trace_header: str | None = None,
        own: bool = True,
    ) -> MessageContext:
        """
        Return the context, the store fields and the foreign members of a message.

        Args:
            carrier: Attributes over envelope, merged by the caller.
            aws_trace_header: The message's ``AWSTraceHeader``, used where nothing else names a
                parent. Its sampled flag is X-Ray's and is not followed.
            own: Whether one of our producers wrote the message. A foreign one sets no ``user_id``
                and gets no further with baggage than an HTTP caller.
        """
        traceparent, sentry_trace, tracestate, members_text = (
            [carrier[key]] if key in carrier else []
            for key in (TRACEPARENT, SENTRY_TRACE, TRACESTATE, BAGGAGE)
        )
        parent = _parent(traceparent, sentry_trace, tracestate)
        members = parse_baggage(members_text)
        context = Context()
        if parent is not None:
            context = _with_parent(context, parent.span, "queue" if parent.decided else "open")
        elif (span := parse_aws_trace_header(aws_trace_header)) is not None:
            context = _with_parent(context, span, "open")
        if (own and self._sentry is None) or self._are_ours(members):
            context = with_sentry(context, members)
        passing = [m for m in members if (own or m.key in self._trust_baggage) and is_foreign(m)]
        return MessageContext(
            context=with_foreign(context, passing),
            fields=store_fields(members, own=own),
            foreign={member.key: member.value for member in passing},
        )

    def _are_ours(self, members: Iterable[Member]) -> bool:
        if self._sentry is None:
            return False
        found = {member.key: member.value for member in members}
        if found.get(f"{SENTRY_BAGGAGE_PREFIX}public_key") == self._sentry.public_key:
            return True
        org = found.get(f"{SENTRY_BAGGAGE_PREFIX}org_id")
        return org is not None and org == self._sentry.org

    def _baggage(self, context: Context) -> dict[str, str]:
        sentry = (
            incoming_sentry_members(context)
            if self._sentry is None
            else self._sentry.items(context)
        )
        text = header(context, sentry)
        return {BAGGAGE: text} if text else {}


def _values(getter: Getter[CarrierT], carrier: CarrierT, key: str) -> Sequence[str]:
    try:
        return getter.get(carrier, key) or ()
    except Exception:  # bytes that a foreign getter cannot read cost this header, and no other
        return ()


def installed() -> Propagator:
    """Return the process's propagator where it is ours, else one that trusts no caller."""
    found = propagate.get_global_textmap()
    return found if isinstance(found, Propagator) else Propagator()


def _present(getter: Getter[CarrierT], carrier: CarrierT) -> Collection[str]:
    """
    Return which of our headers may be there.

    For each value that it is asked for, the getter of an ASGI scope decodes every header.
    """
    try:
        return _NAMES.intersection(map(str.lower, getter.keys(carrier)))
    except Exception:  # a foreign getter, or a header's bytes: each value is asked for by itself
        return _NAMES


def _lower(hosts: frozenset[str]) -> frozenset[str]:
    return frozenset(host.lower() for host in hosts)


def _take_out(names: Iterable[str], carrier: object) -> None:
    if isinstance(carrier, MutableMapping):
        unwanted = frozenset(names)
        for key in [key for key in carrier if str(key).lower() in unwanted]:
            del carrier[key]


def trusted_parent(context: Context | None) -> bool:
    """Tell whether the remote parent in *context* came by the queue, so its decision is ours."""
    return otel.get_value(_DECISION_KEY, context) == "queue"


def undecided_parent(context: Context | None) -> bool:
    """Tell whether the remote parent in *context* left the sampling decision open."""
    return otel.get_value(_DECISION_KEY, context) == "open"


def _parent(
    traceparent: Sequence[str], sentry_trace: Sequence[str], tracestate: Sequence[str]
) -> _Parent | None:
    span = parse_traceparent(traceparent)
    if span is not None:
        state = parse_tracestate(tracestate)
        return _Parent(
            SpanContext(span.trace_id, span.span_id, True, span.trace_flags, state), decided=True
        )
    sentry = parse_sentry_trace(sentry_trace)
    return None if sentry is None else _Parent(sentry[0], decided=sentry[1] is not None)


def _is_stale(parent: _Parent | None, sentry_trace: Sequence[str]) -> bool:
    sentry = parse_sentry_trace(sentry_trace)
    return sentry is not None and parent is not None and sentry[0].trace_id != parent.span.trace_id


def _with_parent(context: Context, span: SpanContext, decision: _Decision) -> Context:
    context = trace.set_span_in_context(NonRecordingSpan(span), context)
    return otel.set_value(_DECISION_KEY, decision, context)


def _trace_headers(span: SpanContext) -> dict[str, str]:
    if not span.is_valid:
        return {}
    state = format_tracestate(span.trace_state)
    return {TRACEPARENT: format_traceparent(span)} | ({TRACESTATE: state} if state else {})


def _host_of(span: trace.Span) -> str | None:
    """Return the host that *span* calls; only a CLIENT span's attributes name another host."""
    attributes = getattr(span, "attributes", None)
    if attributes is None or getattr(span, "kind", None) is not SpanKind.CLIENT:
        return None
    address = attributes.get(SERVER_ADDRESS)
    if address is None:
        urls = (attributes.get(name) for name in URL_ATTRIBUTES)
        address = next((urlsplit(str(url)).hostname for url in urls if url), None)
    return None if address is None else str(address).lower()

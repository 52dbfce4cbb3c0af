"""What is believed of a caller, and what a host or a message is told."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

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
from opentelemetry.trace import INVALID_SPAN_CONTEXT, SpanContext

from tracebaton.baggage import (
    header,
    incoming_sentry_members,
    owned,
    store_fields,
    with_foreign,
    with_sentry,
)
from tracebaton.propagation.carriers import (
    NAMES,
    host_called,
    present,
    take_out,
    trace_headers,
    values,
)
from tracebaton.propagation.parents import is_stale, remote_parent, with_parent
from tracebaton.semconv import (
    BAGGAGE,
    SENTRY_BAGGAGE_PREFIX,
    SENTRY_TRACE,
    TRACEPARENT,
    TRACESTATE,
)
from tracebaton.w3c import format_sentry_trace, parse_aws_trace_header, parse_baggage

__all__ = ["MessageContext", "Propagator", "SentryMembers", "installed"]


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
        parent: The creation context, an invalid one if the message has none.
    """

    context: Context
    fields: Mapping[str, str]
    foreign: Mapping[str, str]
    parent: SpanContext


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
        return set(NAMES)

    def extract(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        getter: Getter[CarrierT] = default_getter,
    ) -> Context:
        """Return *context*, the current one by default, plus what an HTTP caller may tell us."""
        base = otel.get_current() if context is None else context
        there = present(getter, carrier)
        if not there:
            return base
        traceparent, sentry_trace, tracestate, members_text = (
            values(getter, carrier, key) if key in there else ()
            for key in (TRACEPARENT, SENTRY_TRACE, TRACESTATE, BAGGAGE)
        )
        parent = remote_parent(traceparent, sentry_trace, tracestate)
        if parent is not None:
            base = with_parent(base, parent.span, "outsider" if parent.decided else "open")
        members = owned(parse_baggage(members_text))
        if self._are_ours(members.sentry) and not is_stale(parent, sentry_trace):
            base = with_sentry(base, members.sentry)
        return with_foreign(base, [m for m in members.foreign if m.key in self._trust_baggage])

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
        host = host_called(span) if self._baggage_to or self._trace_to is not None else None
        told = self._is_told(host)
        headers = trace_headers(span.get_span_context()) if told else {}
        if headers and self._sentry is not None:
            headers[SENTRY_TRACE] = format_sentry_trace(span.get_span_context())
        if told and host in self._baggage_to:
            headers |= self._baggage(here)
        if host is not None:
            take_out(self.fields - headers.keys(), carrier)
        for key, value in headers.items():
            setter.set(carrier, key, value)

    def may_tell(self, context: Context | None = None) -> bool:
        """Tell whether the host that the current span of *context* calls may learn of the trace."""
        return self._trace_to is None or self._is_told(host_called(trace.get_current_span(context)))

    def _is_told(self, host: str | None) -> bool:
        return self._trace_to is None or host in self._trace_to

    def inject_message(self, context: Context | None = None) -> dict[str, str]:
        """
        Return what a message carries: ``traceparent``, ``tracestate`` if any, ``baggage``.

        The creation context is the current span of *context*. Our own members come first; what does
        not fit 8192 bytes is left out, because telemetry never makes a send fail.
        """
        here = otel.get_current() if context is None else context
        headers = trace_headers(trace.get_current_span(here).get_span_context())
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
        traceparent, sentry_trace, tracestate, members_text = [
            [carrier[key]] if key in carrier else []
            for key in (TRACEPARENT, SENTRY_TRACE, TRACESTATE, BAGGAGE)
        ]
        parent = remote_parent(traceparent, sentry_trace, tracestate)
        members = owned(parse_baggage(members_text))
        context, span = Context(), INVALID_SPAN_CONTEXT
        if parent is not None:
            span = parent.span
            context = with_parent(context, span, "queue" if parent.decided else "open")
        elif (found := parse_aws_trace_header(aws_trace_header)) is not None:
            span = found
            context = with_parent(context, span, "open")
        if (own and self._sentry is None) or self._are_ours(members.sentry):
            context = with_sentry(context, members.sentry)
        passing = [one for one in members.foreign if own or one.key in self._trust_baggage]
        return MessageContext(
            context=with_foreign(context, passing),
            fields=store_fields(members.store, own=own),
            foreign={member.key: member.value for member in passing},
            parent=span,
        )

    def _are_ours(self, members: Iterable[tuple[str, str]]) -> bool:
        if self._sentry is None:
            return False
        found = dict(members)
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


def installed() -> Propagator:
    """Return the process's propagator where it is ours, else one that trusts no caller."""
    found = propagate.get_global_textmap()
    return found if isinstance(found, Propagator) else Propagator()


def _lower(hosts: frozenset[str]) -> frozenset[str]:
    return frozenset(host.lower() for host in hosts)

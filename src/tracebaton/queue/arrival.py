"""
An arrival: from a received message to the span and the request store it is handled in.

In this order: read, extract, attach, ``process`` span. What it says is believed as far as `Reader`
does; what it measures goes with the span.
"""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.trace import Link, NoOpTracer, Span, SpanKind, Tracer

from tracebaton import context
from tracebaton.context import RequestStore
from tracebaton.errors import LeaseLost
from tracebaton.problems import Reporter
from tracebaton.propagation import MessageContext, Propagator
from tracebaton.queue.attempt import Attempt, Verdict, process_attributes, waiting_times
from tracebaton.queue.incoming import Incoming, Reader, identity_only
from tracebaton.queue.lease import Lease
from tracebaton.queue.meters import WorkerMeters
from tracebaton.tasks import Backoff, Registry

__all__ = ["Arrivals"]


class Arrivals:
    """Opens the deliveries of one queue."""

    def __init__(
        self,
        queue_name: str,
        *,
        reader: Reader,
        registry: Registry,
        tracer: Tracer,
        propagator: Propagator,
        reporter: Reporter,
        backoff: Backoff,
        store_type: type[RequestStore] = RequestStore,
        meters: WorkerMeters | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Set whose messages.

        Args:
            backoff: For task types without one of their own.
            store_type: The request store's class, with its custom fields.
        """
        self.queue_name = queue_name
        self._span_name = f"process {queue_name}"
        self._reader = reader
        self._registry = registry
        self._tracer = tracer
        #: Whether nobody will ever read a span's attributes.
        self._untold = isinstance(tracer, NoOpTracer)
        self._propagator = propagator
        self._reporter = reporter
        self._default = backoff
        self._store_type = store_type
        own = {field.name for field in fields(RequestStore)}
        self._custom = [field.name for field in fields(store_type) if field.name not in own]
        self._meters = meters or WorkerMeters()
        self._now = now

    async def run(self, lease: Lease, work: Callable[[Attempt], Awaitable[Verdict]]) -> Verdict:
        """Do *work* in the span and the store of the message of *lease*."""
        incoming = self._reader.read(lease.message)
        extracted, links = self._extracted(incoming)
        origin = extracted.parent if not links else links[0].context
        request = self._request(incoming, extracted)
        waited = waiting_times(incoming, lease, now=self._now())
        with (
            self._reporter.isolated(),
            context.entered(request, lease.entered(extracted.context)),
            self._span(incoming, waited, links) as span,
            self._meters.messaging.processing(self.queue_name) as measurement,
        ):
            lease.context = here = otel.get_current()
            if request.correlation_id is None:
                ids = span.get_span_context()
                known = trace.format_trace_id(ids.trace_id) if ids.is_valid else None
                context.bind_trace(known, here)
            self._meters.waited(self.queue_name, waited)
            attempt = Attempt(
                incoming=incoming,
                lease=lease,
                span=span,
                measurement=measurement,
                backoff=self._backoff(incoming),
                origin=origin if origin.is_valid else None,
            )
            try:
                return await work(attempt)
            finally:
                self._count(attempt)

    def _count(self, attempt: Attempt) -> None:
        lease, event = attempt.lease, attempt.incoming.event
        status = attempt.measurement.status or "unknown"
        if lease.lost:  # what the attempt made of its task is discarded
            status = lease.state
        if lease.state in {"lost", "expired"}:
            attempt.measurement.error_type = LeaseLost.__qualname__
        known = event is not None and event.type in self._registry
        kind = event.type if event is not None and known else None
        self._meters.attempted(self.queue_name, kind, status)

    def _extracted(self, incoming: Incoming) -> tuple[MessageContext, Sequence[Link]]:
        """Return the context to start from, and a link where its trace is not to be continued."""
        whole = self._propagator.extract_message(
            incoming.carrier, aws_trace_header=incoming.trace_header, own=incoming.own
        )
        if incoming.event is None or incoming.event.propagate == "parent":
            return whole, ()
        identity = self._propagator.extract_message(
            identity_only(incoming.carrier), own=incoming.own
        )
        linked = incoming.event.propagate == "link" and whole.parent.is_valid
        return identity, (Link(whole.parent),) if linked else ()

    def _request(self, incoming: Incoming, extracted: MessageContext) -> RequestStore:
        """Return the request store that the message carries; who wrote it decides what of it."""
        event, said = incoming.event, extracted.fields
        user_id: str | None = None
        custom: dict[str, Any] = {}
        if incoming.own and event is not None:
            user_id = said.get("user_id") or event.user_id
            if self._custom:
                custom = {name: said[name] for name in self._custom if name in said}
        correlation_id = said.get("correlation_id")
        if correlation_id is None and event is not None:
            correlation_id = context.valid_correlation_id(event.correlation_id)
        return self._store_type(
            correlation_id=correlation_id,
            user_id=user_id,
            task_id=event.id if event else None,
            attempt=incoming.message.receive_count,
            **custom,
        )

    def _backoff(self, incoming: Incoming) -> Backoff:
        """Return the back-off of the message's task type, the worker's where it has none."""
        event = incoming.event
        if event is None or event.type not in self._registry:
            return self._default
        return self._registry[event.type].retry or self._default

    def _span(
        self, incoming: Incoming, waited: Mapping[str, float], links: Sequence[Link]
    ) -> "_Current":
        known = None if self._untold else process_attributes(self.queue_name, incoming, waited)
        return _Current(
            self._tracer.start_span(
                self._span_name, kind=SpanKind.CONSUMER, attributes=known, links=links
            )
        )


class _Current:
    """Makes a span the current one for a block and ends it: the tracer's own costs thrice that."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: Span) -> None:
        self._span = span

    def __enter__(self) -> Span:
        self._token = otel.attach(trace.set_span_in_context(self._span))
        return self._span

    def __exit__(self, *_: object) -> None:
        otel.detach(self._token)
        self._span.end()

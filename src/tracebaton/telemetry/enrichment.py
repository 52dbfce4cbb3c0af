"""
What every span gets when it starts: the request store, Sentry's op, and no secret in its URL.
"""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Span, SpanProcessor
from opentelemetry.trace import SpanKind, format_trace_id

from tracebaton.context import bind_trace, in_context, span_attributes
from tracebaton.semconv import (
    DB_SYSTEMS,
    HTTP_METHODS,
    HTTP_TARGET,
    MESSAGING_OPERATION_TYPE,
    MESSAGING_SYSTEM,
    OP_HTTP_SERVER,
    OP_QUEUE_PROCESS,
    OP_QUEUE_PUBLISH,
    SENTRY_OP,
    URL_ATTRIBUTES,
    URL_QUERY,
)

__all__ = ["StoreSpanProcessor", "sentry_op"]

#: sentry-conventions' ops by OpenTelemetry's ``messaging.operation.type``.
_QUEUE_OPS: Final = {
    "send": OP_QUEUE_PUBLISH,
    "create": OP_QUEUE_PUBLISH,
    "receive": "queue.receive",
    "process": OP_QUEUE_PROCESS,
    "settle": "queue.settle",
}
_HTTP_OPS: Final = {SpanKind.SERVER: OP_HTTP_SERVER, SpanKind.CLIENT: "http.client"}
_WITH_QUERY: Final = (*URL_ATTRIBUTES, HTTP_TARGET)


def sentry_op(kind: SpanKind, attributes: Mapping[str, Any]) -> str:
    """Return Sentry's op of a span; messaging comes before HTTP, AWS SDK spans carry both."""
    if MESSAGING_SYSTEM in attributes:
        return _QUEUE_OPS.get(str(attributes.get(MESSAGING_OPERATION_TYPE)), "queue")
    if any(name in attributes for name in HTTP_METHODS):
        return _HTTP_OPS.get(kind, "http")
    return "db" if any(name in attributes for name in DB_SYSTEMS) else "function"


class StoreSpanProcessor(SpanProcessor):
    """
    Put the request store on every span, the SERVER and process spans included.

    The local root binds its trace id as the correlation id where none came in, before its own
    attributes are written. Comes first in the pipeline: exporters see what it wrote.
    """

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Write the store's ids, the op and the redacted URL to *span*."""
        parent = trace.get_current_span(parent_context).get_span_context()
        if parent.is_remote or not parent.is_valid:
            bind_trace(format_trace_id(span.get_span_context().trace_id), parent_context)
        attributes = span.attributes or {}
        changes = span_attributes(in_context(parent_context))
        if SENTRY_OP not in attributes:
            changes[SENTRY_OP] = sentry_op(span.kind, attributes)
        span.set_attributes(changes | _without_query(attributes))


def _without_query(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the URL attributes to overwrite: a query may hold a token, a path is the route's."""
    changes: dict[str, Any] = {}
    if attributes.get(URL_QUERY):
        changes[URL_QUERY] = "[redacted]"
    for name in _WITH_QUERY:
        url = attributes.get(name)
        if url and "?" in str(url):
            changes[name] = urlunsplit(urlsplit(str(url))._replace(query="", fragment=""))
    return changes

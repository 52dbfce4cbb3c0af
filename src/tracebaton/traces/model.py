"""
A trace as OTLP JSON becomes rows in the order of a waterfall.

Children follow their parent by start; a span whose parent is not here starts a tree of its own and
says so. The time that a message waited stands before its ``process`` span.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tracebaton import semconv

__all__ = ["Row", "Trace", "TraceSpan", "read_trace"]

#: Numbers of ``SpanKind`` and of the status code, as OTLP has them.
_PRODUCER, _CONSUMER, _ERROR = 4, 5, 2
_KINDS: Final = ("unspecified", "internal", "server", "client", "producer", "consumer")
_WAITS: Final = (semconv.QUEUE_DELAY_MS, semconv.QUEUE_BACKLOG_MS, semconv.QUEUE_PREFETCH_MS)


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSpan:
    """
    One span.

    Attributes:
        parent_id: Empty for a root.
        kind: ``server``, ``client``, ``producer``, ``consumer`` or ``internal``.
        start: Nanoseconds since 1970, like *end*.
        exceptions: Type and message of each recorded exception.
        links: Ids of the linked spans.
    """

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    service: str
    start: int
    end: int
    failed: bool
    status_message: str
    attributes: Mapping[str, Any]
    exceptions: tuple[tuple[str, str], ...]
    links: tuple[str, ...]

    @property
    def duration(self) -> int:
        """Return how many nanoseconds it took."""
        return max(0, self.end - self.start)


@dataclass(slots=True)
class Row:
    """
    A span at its place in the waterfall.

    Attributes:
        depth: How many ancestors are shown above it.
        orphan: Its parent is not here: not arrived yet, not sampled, or evicted.
        waited_from: When its message began to wait, None where it did not.
        logs: The log lines that were written in it.
    """

    span: TraceSpan
    depth: int
    orphan: bool = False
    waited_from: int | None = None
    logs: list[Mapping[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Trace:
    """
    A whole trace.

    Attributes:
        begin: Nanoseconds since 1970, like *end*.
        logs: Lines that belong to no span that is here.
    """

    trace_id: str
    rows: Sequence[Row]
    begin: int
    end: int
    logs: Sequence[Mapping[str, Any]]


def read_trace(document: Mapping[str, Any], logs: Sequence[Mapping[str, Any]] = ()) -> Trace | None:
    """
    Return the trace in an OTLP JSON *document*, None where it has no span.

    Args:
        document: With ``resourceSpans``; spans of other traces than the first one's are left out.
        logs: Its lines in the log schema.

    Raises:
        ValueError: *document* is not OTLP JSON.
    """
    try:
        spans = list(_spans(document))
    except (AttributeError, KeyError, TypeError) as exc:
        raise ValueError(f"not OTLP JSON: {type(exc).__name__} {exc}") from exc
    if not spans:
        return None
    trace_id = spans[0].trace_id
    rows = _arranged([span for span in spans if span.trace_id == trace_id])
    for row in rows:
        row.waited_from = _waited_from(row.span, rows)
    by_id = {row.span.span_id: row for row in rows}
    loose: list[Mapping[str, Any]] = []
    for line in logs:
        home = by_id.get(str(line.get("span_id")))
        (loose if home is None else home.logs).append(line)
    begin = min(row.span.start if row.waited_from is None else row.waited_from for row in rows)
    return Trace(trace_id, rows, begin, max(row.span.end for row in rows), loose)


def _spans(document: Mapping[str, Any]) -> Iterator[TraceSpan]:
    for group in document["resourceSpans"]:
        resource = _attributes((group.get("resource") or {}).get("attributes"))
        service = str(resource.get("service.name") or "unknown_service")
        for scoped in group.get("scopeSpans") or ():
            for raw in scoped.get("spans") or ():
                yield _span(raw, service)


def _span(raw: Mapping[str, Any], service: str) -> TraceSpan:
    events = [(event, _attributes(event.get("attributes"))) for event in raw.get("events") or ()]
    status = raw.get("status") or {}
    kind = _number(raw.get("kind"), "SPAN_KIND_", _KINDS)
    return TraceSpan(
        trace_id=str(raw["traceId"]),
        span_id=str(raw["spanId"]),
        parent_id=str(raw.get("parentSpanId") or ""),
        name=str(raw.get("name") or ""),
        kind=_KINDS[kind] if 0 <= kind < len(_KINDS) else "unspecified",
        service=service,
        start=int(raw.get("startTimeUnixNano") or 0),
        end=int(raw.get("endTimeUnixNano") or 0),
        failed=_number(status.get("code"), "STATUS_CODE_", ("unset", "ok", "error")) == _ERROR,
        status_message=str(status.get("message") or ""),
        attributes=_attributes(raw.get("attributes")),
        exceptions=tuple(
            (
                str(found.get(semconv.EXCEPTION_TYPE, "")),
                str(found.get(semconv.EXCEPTION_MESSAGE, "")),
            )
            for event, found in events
            if event.get("name") == semconv.EXCEPTION
        ),
        links=tuple(str(link["spanId"]) for link in raw.get("links") or ()),
    )


def _number(value: Any, prefix: str, names: Sequence[str]) -> int:
    """Return an enum's number: OTLP JSON has numbers, some writers have names all the same."""
    if isinstance(value, str) and not value.isdigit():
        name = value.removeprefix(prefix).lower()
        return names.index(name) if name in names else 0
    return int(value or 0)


def _attributes(items: Any) -> dict[str, Any]:
    return {item["key"]: _plain(item.get("value") or {}) for item in items or ()}


def _plain(value: Mapping[str, Any]) -> Any:
    if "intValue" in value:
        return int(value["intValue"])
    if "arrayValue" in value:
        return [_plain(item) for item in value["arrayValue"].get("values") or ()]
    if "kvlistValue" in value:
        return _attributes(value["kvlistValue"].get("values"))
    return next(iter(value.values()), None)


def _arranged(spans: list[TraceSpan]) -> list[Row]:
    spans.sort(key=lambda span: (span.start, span.span_id))
    here = {span.span_id for span in spans}
    children: dict[str, list[TraceSpan]] = {}
    for span in spans:
        children.setdefault(span.parent_id if span.parent_id in here else "", []).append(span)
    rows: list[Row] = []
    placed: set[str] = set()

    def place(root: TraceSpan, *, orphan: bool) -> None:
        stack = [(root, 0)]
        while stack:
            span, depth = stack.pop()
            if span.span_id in placed:
                continue
            placed.add(span.span_id)
            rows.append(Row(span, depth, orphan=orphan and depth == 0))
            below = children.get(span.span_id, ())
            stack += [(child, depth + 1) for child in reversed(below)]

    for root in children.get("", ()):
        place(root, orphan=root.parent_id != "")
    for span in spans:  # what is left has parents that run in a circle
        if span.span_id not in placed:
            place(span, orphan=True)
    return rows


def _waited_from(span: TraceSpan, rows: Sequence[Row]) -> int | None:
    """
    Return since when the message of *span* waited.

    From the end of its send span, or of the attempt before. Where no send span is here, the
    worker's own measures say it.
    """
    if span.kind != _KINDS[_CONSUMER]:
        return None
    above = {span.parent_id, *span.links}
    sends = [
        row.span for row in rows if row.span.span_id in above and row.span.kind == _KINDS[_PRODUCER]
    ]
    if not sends:
        measured = sum(float(span.attributes.get(name) or 0) for name in _WAITS)
        return span.start - int(measured * 1e6) if measured > 0 else None
    earlier = [
        row.span.end
        for row in rows
        if row.span.parent_id == sends[0].span_id
        and row.span.kind == span.kind
        and row.span.span_id != span.span_id
        and row.span.end <= span.start
    ]
    since = max([sends[0].end, *earlier])
    return since if since < span.start else None

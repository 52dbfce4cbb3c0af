"""
Ended spans, gathered under the local root they belong to.

Sentry takes a request's or message's spans as one transaction, so they wait here until their root
ends. The tree is held together by the spans themselves: a node lives as long as its span object, so
a span that is never ended costs nothing once it is forgotten, and one that is open for hours loses
nothing.
"""

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, NamedTuple, TypeVar

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import StatusCode

from tracebaton.baggage import incoming_sentry_members
from tracebaton.telemetry.enrichment import presentable

__all__ = ["UNIT_SPANS", "Ended", "Node", "Unit", "UnitCollector"]

#: Spans below one open root that wait for its end; Sentry takes as many in one transaction.
UNIT_SPANS: Final = 1000

Scope = TypeVar("Scope")


class Ended(NamedTuple):
    """A span that has ended, and the thread that started it."""

    span: ReadableSpan
    thread_id: int
    thread_name: str


@dataclass(frozen=True, slots=True)
class Unit(Generic[Scope]):
    """
    A local root with all that ended below it.

    Attributes:
        root: The SERVER or process span; or a span that ended after its root did.
        spans: Its descendants, in the order they ended.
        scope: What the owner captured when the root started.
        node: The root's node, which holds the dynamic sampling context.
    """

    root: Ended
    spans: list[Ended]
    scope: Scope
    node: "Node[Scope]"

    def presentable(self) -> "Unit[Scope]":
        """Return the unit with all its spans without secrets."""
        root, *spans = (
            Ended(presentable(ended.span), ended.thread_id, ended.thread_name)
            for ended in (self.root, *self.spans)
        )
        return Unit(root, spans, self.scope, self.node)


class Node(Generic[Scope]):
    """An open span, or an ended one that somebody still holds."""

    __slots__ = (
        "__weakref__",
        "ended",
        "failed",
        "incoming",
        "lost",
        "members",
        "parent",
        "scope",
        "span",
        "spans",
        "thread",
    )

    def __init__(
        self,
        span: Span,
        *,
        parent: "Node[Scope] | None",
        scope: Scope,
        incoming: tuple[tuple[str, str], ...],
        forget: Callable[[object], object],
    ) -> None:
        self.span: weakref.ref[Span] = weakref.ref(span, forget)
        self.parent: Node[Scope] | None = parent
        self.scope: Scope = scope
        self.incoming: tuple[tuple[str, str], ...] = incoming
        #: The dynamic sampling context, frozen by whoever needs it first.
        self.members: tuple[tuple[str, str], ...] = ()
        self.spans: list[Ended] = []
        #: Spans that were below it and are not kept: they were too many.
        self.lost: int = 0
        self.ended: bool = False
        #: Of a local root: it ended as an error.
        self.failed: bool = False
        thread = threading.current_thread()
        self.thread: tuple[int, str] = (thread.ident or 0, thread.name)

    @property
    def root(self) -> "Node[Scope]":
        """Return the local root's node."""
        node = self
        while node.parent is not None:
            node = node.parent
        return node

    def open_ancestor(self) -> "Node[Scope] | None":
        """Return the nearest ancestor that has not ended."""
        node = self.parent
        while node is not None and node.ended:
            node = node.parent
        return node


class UnitCollector(SpanProcessor, Generic[Scope]):
    """
    Gather ended spans and hand each finished `Unit` to *submit*.

    They come as they are: what is made of them has to be made of `Unit.presentable()`.
    """

    #: See `SpanPipeline`.
    presents: Final = True

    def __init__(
        self,
        *,
        capture: Callable[[], Scope],
        submit: Callable[[Unit[Scope]], object],
        ignore: Callable[[ReadableSpan], bool] = lambda span: False,
        keep_errors: bool = False,
        limit: int = UNIT_SPANS,
    ) -> None:
        """
        Set both ends.

        Args:
            capture: Called when a local root starts, in its thread.
            submit: Called when it ends; has to be quick, the request is waiting.
            ignore: Spans that are not gathered, such as those of the exporter's own calls.
            keep_errors: Gather unsampled units too, and submit those whose root failed.
            limit: Spans below one root that may wait; beyond that the oldest go, children before
                their parents.
        """
        self._capture = capture
        self._submit = submit
        self._ignore = ignore
        self._keep_errors = keep_errors
        self._limit = limit
        self._nodes: dict[int, Node[Scope]] = {}

    def __len__(self) -> int:
        """Return how many spans are open or still held by somebody."""
        return len(self._nodes)

    def node(self, span_id: int) -> Node[Scope] | None:
        """Return the node of a local span, None for a remote or forgotten one."""
        return self._nodes.get(span_id)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Put *span* under its local parent."""
        here = span.get_span_context()
        if not (here.trace_flags.sampled or self._keep_errors) or self._ignore(span):
            return
        above = trace.get_current_span(parent_context).get_span_context()
        # A remote parent may be a span of this very process; its message is its own unit.
        parent = None if above.is_remote else self._nodes.get(above.span_id)
        nodes, key = self._nodes, here.span_id
        nodes[key] = Node(
            span,
            parent=parent,
            scope=self._capture() if parent is None else parent.scope,
            incoming=incoming_sentry_members(parent_context) if parent is None else parent.incoming,
            forget=lambda _: nodes.pop(key, None),
        )

    def on_end(self, span: ReadableSpan) -> None:
        """Hand *span* and what ended below it to the nearest open ancestor, or submit it."""
        node = self._nodes.get(span.context.span_id) if span.context else None
        if node is None:
            return
        node.ended = True
        ended = Ended(_slim(span), *node.thread)
        above, below = node.open_ancestor(), node.spans
        node.spans = []
        if above is not None:
            above.spans += (*below, ended)
            excess = max(0, len(above.spans) - self._limit)
            del above.spans[:excess]
            above.lost += node.lost + excess
        elif _is_kept(span, node):
            self._submit(Unit(ended, below, node.scope, node))


def _slim(span: ReadableSpan) -> ReadableSpan:
    """
    Return *span* without the room for the events and links that it does not have.

    The SDK keeps an empty deque for each, 1.5 KB: a third of a span that waits.
    """
    if not (span._events or span.dropped_events):
        span._events = ()
    if not (span._links or span.dropped_links):
        span._links = ()
    return span


def _is_kept(span: ReadableSpan, node: Node[Any]) -> bool:
    """Tell whether a unit is sent: it is sampled, or it failed, or its request had failed."""
    failed = span.status.status_code is StatusCode.ERROR
    node.failed = failed
    sampled = span.context is not None and span.context.trace_flags.sampled
    return sampled or failed or node.root.failed

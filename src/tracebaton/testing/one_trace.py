"""Whether spans are one trace."""

from collections.abc import Callable, Iterable

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan

__all__ = ["assert_one_trace"]


def assert_one_trace(
    spans: Iterable[ReadableSpan], *, where: Callable[[ReadableSpan], bool] | None = None
) -> str:
    """
    Check that *spans* are one whole trace, and return its id.

    One trace id, one root, every parent among them: what a person sees as one waterfall.

    Args:
        where: Look at those spans only.

    Raises:
        AssertionError: Says what is wrong, span by span.
    """
    chosen = [span for span in spans if where is None or where(span)]
    if not chosen:
        raise AssertionError("there is no span at all")
    ids = {span.context.span_id for span in chosen if span.context}
    traces = {span.context.trace_id for span in chosen if span.context}
    roots = [span for span in chosen if span.parent is None or span.parent.span_id not in ids]
    if len(traces) == 1 and len(roots) == 1:
        return trace.format_trace_id(traces.pop())
    raise AssertionError(
        f"{len(traces)} traces and {len(roots)} roots instead of one:\n"
        + "\n".join(_described(span, ids) for span in chosen)
    )


def _described(span: ReadableSpan, ids: set[int]) -> str:
    context = span.context
    trace_id = trace.format_trace_id(context.trace_id) if context else "none"
    parent = span.parent
    if parent is None:
        above = "no parent"
    else:
        missing = "" if parent.span_id in ids else " (missing)"
        above = f"parent {trace.format_span_id(parent.span_id)}{missing}"
    return f"  {trace_id} {span.name}: {above}"

"""The attempts of a task, from its process spans and from the log lines written in them."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tracebaton import semconv
from tracebaton.viewer.loglines import rfc3339
from tracebaton.viewer.news import EVENTS
from tracebaton.viewer.rows import MAX_TIME, text_of

__all__ = ["attempts"]

#: What an attempt is that ends without having ended its task.
RETRIED: Final = "retried"
#: An attempt that began and of which nothing more was heard, though its task went on.
LOST: Final = "lost"
QUEUE_TIMES: Final = (semconv.QUEUE_DELAY_MS, semconv.QUEUE_BACKLOG_MS, semconv.QUEUE_PREFETCH_MS)
#: Why an attempt failed, by the fields of the line that says so.
REASONS: Final = ("code", "error_type", "detail", "sentry_event_id")


def attempts(
    task_id: str, spans: Iterable[Span], lines: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """
    Return the attempts of a task, oldest first.

    Args:
        spans: Any spans of its traces; those that processed the task count.
        lines: Log lines of its traces, oldest first. One that runs is known by its line alone.
    """
    found: dict[str, dict[str, Any]] = {}
    for span in spans:
        values = {item.key: text_of(item.value) for item in span.attributes}
        ours = span.kind == Span.SPAN_KIND_CONSUMER and semconv.RECEIVE_COUNT in values
        if ours and values.get(semconv.TASK_ID) == task_id:
            found[span.span_id.hex()] = _of_span(span, values)
    for line in lines:
        if line["task_id"] == task_id and line["span_id"] and line["event"] in EVENTS:
            _hear(found, line)
    ordered = sorted(found.values(), key=lambda one: str(one["started_at"]))
    for one in ordered[:-1]:
        one["outcome"] = LOST if one["outcome"] == "running" else one["outcome"]
    return ordered


def _of_span(span: Span, values: Mapping[str, str]) -> dict[str, Any]:
    waited = sum(_number(values.get(name)) for name in QUEUE_TIMES)
    number = int(_number(values[semconv.RECEIVE_COUNT]))
    status = values.get(semconv.TASK_STATUS)
    start = min(span.start_time_unix_nano, MAX_TIME)
    end = max(start, min(span.end_time_unix_nano, MAX_TIME))
    return _attempt(span.trace_id.hex(), span.span_id.hex(), number=number) | {
        "outcome": RETRIED if status == "queued" else status,
        "started_at": rfc3339(start),
        "ended_at": rfc3339(end),
        "duration_ms": round((end - start) / 1e6, 3),
        "queue_ms": round(waited, 3),
    }


def _number(text: str | None) -> float:
    """Return what a span says is a number, 0 where it is none."""
    try:
        number = float(text or 0)
    except ValueError:
        return 0.0
    return number if math.isfinite(number) else 0.0


def _attempt(trace_id: str, span_id: str, *, number: int | None) -> dict[str, Any]:
    unknown = ("outcome", "started_at", "ended_at", "duration_ms", "queue_ms", *REASONS)
    return {"number": number, "trace_id": trace_id, "span_id": span_id} | dict.fromkeys(unknown)


def _hear(found: dict[str, dict[str, Any]], line: Mapping[str, Any]) -> None:
    event, span_id = line["event"], line["span_id"]
    if event == semconv.EVENT_TASK_STARTED and span_id not in found:
        found[span_id] = _attempt(line["trace_id"], span_id, number=line["attempt"]) | {
            "outcome": "running",
            "started_at": line["timestamp"],
        }
    if (one := found.get(span_id)) is None:  # what the DLQ watcher says of an attempt it never saw
        return
    if event not in (semconv.EVENT_TASK_STARTED, semconv.EVENT_TASK_PROGRESS):
        outcome = RETRIED if event == semconv.EVENT_TASK_RETRIED else EVENTS[event]
        one["outcome"] = outcome
        one["ended_at"] = one["ended_at"] or line["timestamp"]
    for name in REASONS:
        one[name] = one[name] or line.get(name)

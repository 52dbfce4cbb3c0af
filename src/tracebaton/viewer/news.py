"""
What spans and log lines say about tasks, as news that the later one wins.

A span is exported when it has ended, so that a task which waits or runs is known by its log lines.
"""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from tracebaton import semconv

__all__ = ["EVENTS", "NEVER", "TaskNews", "folded", "of_line", "of_span"]

#: The time of a status or a progress that nobody has told.
NEVER: Final = -1
#: What a worker event makes of its task.
EVENTS: Final = {
    semconv.EVENT_TASK_ENQUEUED: "queued",
    semconv.EVENT_TASK_REAPED: "queued",
    semconv.EVENT_TASK_STARTED: "running",
    semconv.EVENT_TASK_PROGRESS: "running",
    semconv.EVENT_TASK_RETRIED: "queued",
    semconv.EVENT_TASK_SUCCEEDED: "succeeded",
    semconv.EVENT_TASK_FAILED: "failed",
    semconv.EVENT_TASK_DEAD: "dead",
    semconv.EVENT_TASK_CANCELLED: "cancelled",
}


class TaskNews(NamedTuple):
    """
    What one span or line says; None where it says nothing.

    Times are nanoseconds since the epoch, `NEVER` where there is no status or no progress.
    """

    trace_id: bytes
    task_id: str
    first: int
    type: str | None = None
    status: str | None = None
    status_time: int = NEVER
    attempt: int | None = None
    percent: int | None = None
    message: str | None = None
    progress_time: int = NEVER


def of_span(trace_id: bytes, start: int, end: int, indexed: Mapping[str, str]) -> TaskNews | None:
    """Return the news of a span, None if it names no task."""
    if not (task_id := indexed.get(semconv.TASK_ID)):
        return None
    status = indexed.get(semconv.TASK_STATUS)
    return TaskNews(
        trace_id,
        task_id,
        start,
        indexed.get(semconv.TASK_TYPE),
        status,
        end if status else NEVER,
        _number(indexed.get(semconv.RECEIVE_COUNT)) if status else None,
    )


def of_line(trace_id: bytes, time: int, event: str, fields: Mapping[str, str]) -> TaskNews | None:
    """Return the news of a log line, None if it is none of `EVENTS` or names no task."""
    task_id, status = fields.get("task_id"), EVENTS.get(event)
    if not task_id or status is None:
        return None
    news = TaskNews(trace_id, task_id, time, fields.get("task_type"), status, time)
    if event == semconv.EVENT_TASK_ENQUEUED:
        # Written when SQS has answered: a worker may have begun before that.
        return news._replace(status_time=0)
    news = news._replace(attempt=_number(fields.get("attempt")))
    if event == semconv.EVENT_TASK_STARTED:  # each attempt begins anew
        return news._replace(percent=0, progress_time=time)
    if event == semconv.EVENT_TASK_PROGRESS:
        percent = _number(fields.get("percent"))
        return news._replace(
            percent=None if percent is None else min(100, percent),
            message=fields.get("message"),
            progress_time=time,
        )
    return news


def folded(news: Iterable[TaskNews]) -> list[TaskNews]:
    """Return *news* without what is said twice, so that a task of a thousand spans is one row."""
    seen: dict[tuple[object, ...], TaskNews] = {}
    rest = []
    for one in news:
        if one.status is not None:
            rest.append(one)
            continue
        key = (one.trace_id, one.task_id, one.type)
        known = seen.get(key)
        if known is None or one.first < known.first:
            seen[key] = one
    return [*seen.values(), *rest]


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else None

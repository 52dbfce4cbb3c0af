"""OTLP JSON becomes rows in the order of a waterfall, and lines for a terminal."""

from typing import Any

import pytest
from rich.text import Text

from tracebaton.cli.waterfall import draw
from tracebaton.traces import Trace, read_trace

TRACE = "0af7651916cd43dd8448eb211c80319c"
MS = 1_000_000


def span(number: int, start: float, end: float, **fields: Any) -> dict[str, Any]:
    """Return an OTLP JSON span; times are milliseconds."""
    attributes = {
        key: {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}
        for key, value in fields.pop("attributes", {}).items()
    }
    return {
        "traceId": TRACE,
        "spanId": f"{number:016x}",
        "parentSpanId": f"{fields.pop('parent', 0):016x}".replace("0" * 16, ""),
        "name": fields.pop("name", f"span {number}"),
        "kind": fields.pop("kind", 1),
        "startTimeUnixNano": str(int(start * MS)),
        "endTimeUnixNano": str(int(end * MS)),
        "attributes": [{"key": key, "value": value} for key, value in attributes.items()],
        **fields,
    }


def document(*spans: dict[str, Any], service: str = "api") -> dict[str, Any]:
    """Return an OTLP JSON document of one service."""
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": list(spans)}]}]}


def trace(*spans: dict[str, Any], **options: Any) -> Trace:
    """Return the trace of *spans*."""
    found = read_trace(document(*spans), **options)
    assert found is not None
    return found


def drawn(whole: Trace, **options: Any) -> list[str]:
    """Return the waterfall as plain lines."""
    lines = draw(whole, **({"width": 80} | options))
    return [line.plain.rstrip() for line in lines if isinstance(line, Text)]


def test_children_follow_their_parent_by_start() -> None:
    """Depth first, whatever order they arrived in."""
    whole = trace(
        span(3, 5, 6, parent=1), span(2, 1, 4, parent=1), span(4, 2, 3, parent=2), span(1, 0, 9)
    )

    assert [(row.span.name, row.depth) for row in whole.rows] == [
        ("span 1", 0),
        ("span 2", 1),
        ("span 4", 2),
        ("span 3", 1),
    ]


def test_a_span_without_its_parent_says_so() -> None:
    """It stands as a tree of its own; so do parents that run in a circle."""
    whole = trace(
        span(1, 0, 9), span(2, 1, 2, parent=7), span(3, 3, 4, parent=4), span(4, 3, 4, parent=3)
    )

    assert [(row.span.name, row.depth, row.orphan) for row in whole.rows] == [
        ("span 1", 0, False),
        ("span 2", 0, True),
        ("span 3", 0, True),
        ("span 4", 1, False),
    ]
    assert "its parent 0000000000000007 is not here" in "\n".join(drawn(whole))


def test_a_message_waits_from_its_send_or_the_attempt_before() -> None:
    """Without a send span the worker's own measure says how long."""
    whole = trace(
        span(1, 0, 2, kind=4, name="send tasks"),
        span(2, 5, 6, kind=5, parent=1, name="process tasks"),
        span(3, 9, 10, kind=5, parent=1, name="process tasks"),
    )
    alone = trace(span(2, 5, 6, kind=5, attributes={"tracebaton.queue.backlog_ms": 3}))

    assert [row.waited_from for row in whole.rows] == [None, 2 * MS, 6 * MS]
    assert [row.waited_from for row in alone.rows] == [2 * MS]
    assert alone.begin == 2 * MS


def test_the_waterfall_is_drawn() -> None:
    """One literal: names, waiting, bars, durations, failure, log line."""
    whole = trace(
        span(1, 0, 40, name="POST /v1/ai/chat", kind=2),
        span(2, 10, 20, name="send tasks", kind=4, parent=1),
        span(
            3,
            60,
            100,
            name="process tasks",
            kind=5,
            parent=2,
            status={"code": 2},
            attributes={"tracebaton.message.receive_count": 2},
            events=[
                {
                    "name": "exception",
                    "attributes": [
                        {"key": "exception.type", "value": {"stringValue": "ValueError"}},
                        {"key": "exception.message", "value": {"stringValue": "no\nway"}},
                    ],
                }
            ],
        ),
        logs=[
            {
                "timestamp": "2026-11-26T10:00:00.123456Z",
                "level": "warning",
                "event": "task.retried",
                "span_id": f"{3:016x}",
                "code": "internal",
            },
            {"timestamp": "2026-11-26T10:00:01.000000Z", "level": "info", "event": "later"},
        ],
    )

    assert drawn(whole) == [
        f"trace {TRACE}  3 spans  100.00 ms  ■ api  1 failed",
        "POST /v1/ai/chat              ████████████████                         40.00 ms",
        "  send tasks                     █████                                 10.00 ms",
        "    process tasks (attempt 2)        ░░░░░░░░░░░░░░░░████████████████  40.00 ms",
        "      waited 40.00 ms in the queue",
        "      ✗ ValueError: no",
        "      10:00:00.123 warning task.retried code=internal",
        "outside of these spans",
        "  10:00:01.000 info later",
    ]


def test_text_from_outside_cannot_drive_the_terminal() -> None:
    """A span's name, service, message or line with control characters is shown as text."""
    whole = read_trace(
        document(
            span(1, 0, 1, name="\x1b[2Jx", status={"code": 2, "message": "\x07"}), service="\x1b"
        ),
        [{"span_id": f"{1:016x}", "event": "\x1b]0;t", "timestamp": "t" * 24, "x\x1b": "\x1b"}],
    )
    assert whole is not None

    assert "\x1b" not in "".join(drawn(whole))
    assert "\x07" not in "".join(drawn(whole))


@pytest.mark.parametrize("width", [1, 20, 40, 400])
def test_any_width_is_drawn(width: int) -> None:
    """A narrow terminal cuts the names, not the bars."""
    whole = trace(span(1, 0, 1, name="n" * 300), span(2, 0, 0, parent=1))

    lines = drawn(whole, width=width)

    assert len(lines) == 3
    assert all("█" in line or "▏" in line for line in lines[1:])


def test_other_traces_and_empty_documents() -> None:
    """The first span's trace is shown alone; no span is no trace; enum names are understood."""
    other = span(2, 0, 1) | {"traceId": "f" * 32}
    named = span(1, 0, 1, kind="SPAN_KIND_CONSUMER", status={"code": "STATUS_CODE_ERROR"})

    (row,) = trace(named, other).rows

    assert (row.span.kind, row.span.failed) == ("consumer", True)
    assert read_trace({"resourceSpans": []}) is None


@pytest.mark.parametrize("broken", [{}, {"resourceSpans": 1}, document({"name": "no ids"})])
def test_what_is_not_otlp_is_refused(broken: Any) -> None:
    """With what is wrong."""
    with pytest.raises(ValueError, match="not OTLP JSON"):
        read_trace(broken)

"""The page can be read and used: contrast, a phone's width, the keyboard, all that tasks have."""

import time
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.trace import SpanKind, Status, StatusCode

from tracebaton.semconv import (
    CORRELATION_ID,
    QUEUE_BACKLOG_MS,
    RECEIVE_COUNT,
    TASK_ID,
    TASK_STATUS,
    TASK_TYPE,
    USER_ID,
)

pytestmark = pytest.mark.browser

MS = 1_000_000
LONG = "a-very-long-identifier-that-nobody-would-type-by-hand-but-some-program-does"

#: Each text in sight with the contrast to what is painted below it, where that is too low: 4.5, and
#: 3 for large text (WCAG 2.2, 1.4.3).
TOO_FAINT = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, below) => below.map((part, n) => top[n] * top[3] + part * (1 - top[3]));
  const luminance = (colour) => colour.map((part) => part / 255)
    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, n) => sum + part * [0.2126, 0.7152, 0.0722][n], 0);
  const faint = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  while (walker.nextNode()) {
    const node = walker.currentNode, element = node.parentElement;
    const range = document.createRange();
    range.selectNodeContents(node);
    const box = range.getBoundingClientRect();
    if (!node.textContent.trim() || !box.width) continue;
    const [x, y] = [box.x + Math.min(box.width, 20) / 2, box.y + box.height / 2];
    const stack = document.elementsFromPoint(x, y);
    const at = stack.indexOf(element);
    if (at < 0) continue; // scrolled out of sight
    let ground = [255, 255, 255];
    for (const below of stack.slice(at).reverse()) {
      ground = over(rgba(getComputedStyle(below).backgroundColor), ground);
    }
    const style = getComputedStyle(element), ink = rgba(style.color);
    for (let each = element; each; each = each.parentElement) {
      ink[3] *= getComputedStyle(each).opacity;
    }
    const [light, dark] = [luminance(over(ink, ground)), luminance(ground)].sort((a, b) => b - a);
    const ratio = (light + 0.05) / (dark + 0.05), size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    seen++;
    if (ratio < (large ? 3 : 4.5)) {
      const where = element.className || element.tagName;
      faint.push(`${node.textContent.slice(0, 30)} (${where}): ${ratio.toFixed(2)}`);
    }
  }
  return { seen, faint: [...new Set(faint)] };
}"""


def attempt(
    viewer: Any, task: str, kind: str, number: int, at: int, *, status: str, **more: Any
) -> str:
    """Record one attempt of a task with its log lines, in a trace of its own; return its id."""
    attributes = {
        TASK_ID: task,
        TASK_TYPE: kind,
        TASK_STATUS: status,
        RECEIVE_COUNT: number,
        QUEUE_BACKLOG_MS: 12.5,
        CORRELATION_ID: more.get("correlation", f"correlation-{task}"),
        USER_ID: "ann",
    }
    api, worker = viewer.tracer("api"), viewer.tracer("worker")
    root = api.start_span("POST /v1/reports", start_time=at, attributes=attributes)
    inside = trace.set_span_in_context(root)
    send = api.start_span("send tasks", inside, SpanKind.PRODUCER, start_time=at + MS)
    send.end(at + 3 * MS)
    below = trace.set_span_in_context(send)
    process = worker.start_span(
        "process tasks", below, SpanKind.CONSUMER, attributes, start_time=at + 20 * MS
    )
    if status in ("failed", "dead"):
        process.record_exception(ValueError("no such month"), timestamp=at + 60 * MS)
        process.set_status(Status(StatusCode.ERROR, "invalid"))
    ended = {"queued": "task.retried"}.get(status, f"task.{status}")
    for event, later in (("task.started", 21), ("task.progress", 30), (ended, 61)):
        told = {"task_type": kind, TASK_ID: task, "attempt": number}
        if event == "task.progress":
            told |= {"percent": 40, "message": "page 4"}
        if event == "task.dead":
            told |= {"code": "internal", "error_type": "ValueError", "sentry_event_id": "e" * 32}
        record = LogRecord(
            timestamp=at + later * MS,
            context=trace.set_span_in_context(process),
            severity_number=SeverityNumber.ERROR if event == "task.dead" else SeverityNumber.INFO,
            body=event,
            attributes=told,
        )
        viewer.logger("worker").emit(record)
    process.end(at + 62 * MS)
    root.end(at + 5 * MS)
    viewer.flush()
    return f"{root.get_span_context().trace_id:032x}"


def several(viewer: Any) -> str:
    """Record tasks of every kind, the last one dead; return its trace's id."""
    now = time.time_ns() - 1_000 * MS
    attempt(viewer, "task-1", "report", 1, now, status="succeeded")
    attempt(viewer, "task-2", "report", 1, now + 100 * MS, status="queued", correlation=LONG)
    attempt(viewer, "task-3", "invoice.send", 1, now + 200 * MS, status="failed")
    return attempt(viewer, "task-4", "invoice.send", 5, now + 300 * MS, status="dead")


def pages(trace_id: str) -> dict[str, str]:
    """Return the addresses of the four views, each with what is there when it is drawn."""
    return {
        "/": ".trace",
        f"/#/trace/{trace_id}": ".details .line",
        "/#/tasks": ".task",
        "/#/task/task-4": ".task-body .line",
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_below_it(page: Any, viewer: Any, scheme: str) -> None:
    """In both schemes, on each page, badges and waiting times included."""
    trace_id = several(viewer)
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    faint = {}
    for address, drawn in pages(trace_id).items():
        page.goto(address)
        page.locator(drawn).first.wait_for()
        told = page.evaluate(TOO_FAINT)
        faint |= {address: told["faint"]} if told["faint"] else {}

        assert told["seen"] > 20
    assert faint == {}


def test_a_phone_needs_no_scrolling_sideways(page: Any, viewer: Any) -> None:
    """390 pixels are enough for each page, whatever the ids."""
    trace_id = several(viewer)
    page.set_viewport_size({"width": 390, "height": 844})
    for address, drawn in pages(trace_id).items():
        page.goto(address)
        page.locator(drawn).first.wait_for()

        assert page.evaluate("document.documentElement.scrollWidth") == 390, address
        assert page.evaluate("document.querySelector('main').scrollWidth") == 390, address


def test_all_of_it_is_reached_without_a_mouse(page: Any, viewer: Any, expect: Any) -> None:
    """From the list of traces to a task, its attempt's span, its error, and back."""
    trace_id = several(viewer)
    page.goto("/")
    page.locator(".trace").first.wait_for()
    page.keyboard.press("t")
    page.locator(".task").first.wait_for()
    page.keyboard.press("j")
    expect(page.locator(".task.selected")).to_have_attribute("data-task-id", "task-4")
    page.keyboard.press("Enter")
    page.locator(".attempt").wait_for()
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.locator(".span.selected .label")).to_have_text("process tasks")
    assert trace_id in page.url
    page.keyboard.press("Escape")
    expect(page.locator(".span.selected")).to_have_count(0)
    page.keyboard.press("e")
    expect(page.locator(".details h2")).to_have_text("process tasks")
    page.keyboard.press("h")
    page.keyboard.press("k")
    expect(page.locator(".span.selected .label")).to_have_text("send tasks")
    page.keyboard.press("h")
    expect(page.locator(".span .label")).to_have_text(["POST /v1/reports", "send tasks"])
    page.keyboard.press("/")
    page.keyboard.type("task-1")
    expect(page.locator(".trace")).to_have_count(1)


def test_tasks_are_narrowed_to_a_type(page: Any, viewer: Any, expect: Any) -> None:
    """By a choice of those there are; the address keeps it, and Escape ends it."""
    several(viewer)
    page.goto("/#/tasks")
    rows, types = page.locator(".task .name"), page.get_by_label("Type")
    expect(rows).to_have_count(4)
    assert types.locator("option").all_inner_texts() == ["All types", "invoice.send", "report"]
    types.select_option("report")
    expect(rows).to_have_text(["report", "report"])
    page.get_by_role("button", name="Succeeded").click()
    expect(rows).to_have_text(["report"])
    page.reload()
    expect(types).to_have_value("report")
    expect(rows).to_have_text(["report"])
    page.keyboard.press("Escape")
    expect(rows).to_have_count(4)


def test_a_task_told_of_in_two_traces_leads_to_both(page: Any, viewer: Any, expect: Any) -> None:
    """After a redrive that began a trace of its own: attempts and lines of both, in order."""
    now = time.time_ns() - 1_000 * MS
    before = attempt(viewer, "task-9", "report", 5, now, status="dead")
    after = attempt(viewer, "task-9", "report", 1, now + 500 * MS, status="succeeded")
    page.goto("/#/task/task-9")
    expect(page.locator(".attempt .badge")).to_have_text(["dead", "succeeded"])
    expect(page.locator(".line")).to_have_count(6)
    links = page.locator(".traces a")

    assert links.all_inner_texts() == [before, after]
    assert page.locator(".line b").all_inner_texts() == [
        *("task.started", "task.progress", "task.dead"),
        *("task.started", "task.progress", "task.succeeded"),
    ]
    assert page.locator(".title .badge").all_inner_texts() == ["succeeded"]
    links.first.click()
    page.locator(".span").first.wait_for()
    assert page.url.endswith(f"#/trace/{before}")

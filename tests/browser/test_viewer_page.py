"""The viewer's page in a real browser."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from tracebaton.semconv import (
    CORRELATION_ID,
    HTTP_STATUS_CODE,
    QUEUE_BACKLOG_MS,
    QUEUE_DELAY_MS,
    QUEUE_PREFETCH_MS,
    RECEIVE_COUNT,
    TASK_ID,
    TASK_STATUS,
    TASK_TYPE,
    USER_ID,
)

pytestmark = pytest.mark.browser

MS = 1_000_000
#: Milliseconds to wait for what the page promises within two seconds.
PATIENCE = 10_000
#: Pixels by which a bar may be off: rounding, and the two that the shortest one has.
PIXELS = 2.5

IDS = {CORRELATION_ID: "corr-7", USER_ID: "ann", TASK_ID: "task-1", TASK_TYPE: "ai.chat"}


class Timeline:
    """Spans of one trace at fixed milliseconds after its start."""

    def __init__(self, viewer: Any, now: int) -> None:
        self._viewer, self.now = viewer, now
        self._tracers: dict[str, Any] = {}

    @contextmanager
    def span(
        self, service: str, name: str, start: float, end: float, **options: Any
    ) -> Iterator[Any]:
        """Make a span current from *start* to *end*."""
        tracer = self._tracers.get(service) or self._viewer.tracer(service)
        self._tracers[service] = tracer
        attributes = IDS | options.pop("attributes", {})
        span = tracer.start_span(
            name, start_time=self.now + int(start * MS), attributes=attributes, **options
        )
        with trace.use_span(span):
            yield span
        span.end(end_time=self.now + int(end * MS))


def chat(viewer: Any, *, fail: bool = False) -> str:
    """Record one chat over API and worker, a second long, and return its trace id."""
    line = Timeline(viewer, time.time_ns())
    with line.span("api", "POST /v1/ai/chat", 0, 100, kind=SpanKind.SERVER) as server:
        with line.span("api", "validate", 10, 30):
            pass
        with line.span("api", "send chat", 40, 90, kind=SpanKind.PRODUCER) as send:
            pass
    waited = {QUEUE_DELAY_MS: 0.0, QUEUE_BACKLOG_MS: 500.0, QUEUE_PREFETCH_MS: 110.0}
    links = [Link(send.get_span_context(), {"reason": "creation"})]
    with (
        trace.use_span(send),
        line.span(
            *("worker", "process chat", 700, 1000),
            kind=SpanKind.CONSUMER,
            links=links,
            attributes=waited | {TASK_STATUS: "failed" if fail else "succeeded"},
        ) as process,
    ):
        log(viewer, process, "task.started", line.now + 701 * MS)
        with line.span("worker", "answer", 720, 960):
            pass
        if fail:
            try:
                raise ValueError("no such model")
            except ValueError as exc:
                process.record_exception(exc, timestamp=line.now + 990 * MS)
            process.set_status(Status(StatusCode.ERROR, "invalid"))
        process.add_event("cache.miss", {"key": "k-1"}, timestamp=line.now + 710 * MS)
    viewer.flush()
    return f"{server.get_span_context().trace_id:032x}"


def log(viewer: Any, span: Any, event: str, timestamp: int, **fields: str) -> None:
    """Write one log line of *span*."""
    context = trace.set_span_in_context(span)
    record = LogRecord(
        timestamp=timestamp,
        context=context,
        severity_number=SeverityNumber.INFO,
        body=event,
        attributes={"task_type": "ai.chat"} | fields,
    )
    viewer.logger("worker").emit(record)


def names(page: Any) -> list[str]:
    """Return the spans of the waterfall from top to bottom."""
    return page.locator(".span .label").all_inner_texts()


def row(page: Any, name: str) -> Any:
    """Return the row of the span called *name*."""
    return page.locator(
        ".span", has=page.locator(".label", has_text=re.compile(f"^{re.escape(name)}$"))
    )


def extent(page: Any, name: str, part: str) -> tuple[float, float]:
    """Return where a bar begins and ends, in milliseconds of a trace that lasts one second."""
    lane = row(page, name).locator(".lane").bounding_box()
    bar = row(page, name).locator(part).bounding_box()
    scale = 1000 / lane["width"]
    start = (bar["x"] - lane["x"]) * scale
    return start, start + bar["width"] * scale


def near(page: Any, milliseconds: float) -> Any:
    """Return *milliseconds*, give or take the pixels of a bar."""
    lane = page.locator(".lane").first.bounding_box()
    return pytest.approx(milliseconds, abs=PIXELS * 1000 / lane["width"])


def test_api_and_worker_are_one_waterfall(page, viewer):
    """In order, to scale, and with the time in the queue drawn as time waited."""
    trace_id = chat(viewer)
    page.goto(f"/#/trace/{trace_id}")
    page.wait_for_selector(".span")

    assert names(page) == ["POST /v1/ai/chat", "validate", "send chat", "process chat", "answer"]
    for name, start, end in (
        ("POST /v1/ai/chat", 0, 100),
        ("validate", 10, 30),
        ("send chat", 40, 90),
        ("process chat", 700, 1000),
        ("answer", 720, 960),
    ):
        assert extent(page, name, ".bar") == (near(page, start), near(page, end))
    assert extent(page, "process chat", ".wait") == (near(page, 90), near(page, 700))
    assert page.locator(".wait").count() == 1
    assert page.locator(".wait-label").inner_text() == "waited 610 ms in queue"
    colours = [
        row(page, name).locator(".bar").evaluate("bar => getComputedStyle(bar).backgroundColor")
        for name in ("validate", "send chat", "process chat", "answer")
    ]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    assert page.locator(".legend .service").all_inner_texts() == ["api", "worker"]


@pytest.mark.parametrize("width", [1280, 390], ids=["desk", "phone"])
def test_what_is_said_of_the_waiting_is_said_whole(page, viewer, width):
    """In the time waited as far as it fits, else beside the bar; cut off it would be a riddle."""
    page.set_viewport_size({"width": width, "height": 800})
    for waited in (60, 180, 250, 400):
        line = Timeline(viewer, time.time_ns())
        with line.span("api", "send chat", 0, 100, kind=SpanKind.PRODUCER) as send:
            pass
        told = {QUEUE_BACKLOG_MS: float(waited)}
        with (
            trace.use_span(send),
            line.span(
                "worker", "process", 100 + waited, 1000, kind=SpanKind.CONSUMER, attributes=told
            ),
        ):
            pass
        viewer.flush()
        page.goto(f"/#/trace/{send.get_span_context().trace_id:032x}")
        process = row(page, "process")
        process.wait_for()

        lane, took = (process.locator(one).bounding_box() for one in (".lane", ".took"))
        assert f"waited {waited} ms" in process.locator(".lane").inner_text()
        assert process.locator(".wait").evaluate("one => one.scrollWidth <= one.clientWidth + 1")
        assert lane["x"] <= took["x"]
        assert took["x"] + took["width"] <= lane["x"] + lane["width"]


def test_a_span_is_told_beside_the_waterfall(page, viewer):
    """Attributes, waiting time, exception, event, link and its own log line."""
    trace_id = chat(viewer, fail=True)
    page.goto(f"/#/trace/{trace_id}")
    row(page, "process chat").click()
    details = page.locator(".details")
    details.get_by_text("Log lines (1)").wait_for()
    told = details.inner_text()

    assert re.fullmatch(rf".*#/trace/{trace_id}/[0-9a-f]{{16}}", page.url)
    for expected in (
        *("no such model", "ValueError", "Traceback", "tracebaton.task.type", "ai.chat"),
        *("waiting for a worker", "500 ms", "held by the worker", "110 ms"),
        *("cache.miss", "k-1", "task.started", "creation"),
    ):
        assert expected in told
    assert details.get_by_role("link").inner_text() == "send chat"
    assert row(page, "process chat").locator(".cross").count() == 1
    assert page.locator(".title .badge").all_inner_texts() == ["ai.chat", "failed", "1 error"]


def test_the_whole_trace_is_told_where_no_span_is_chosen(page, viewer):
    """Its errors lead to their spans, its lines to theirs."""
    page.goto(f"/#/trace/{chat(viewer, fail=True)}")
    page.locator(".error-link").click()
    chosen = page.locator(".span.selected .label").inner_text()
    page.keyboard.press("Escape")
    page.locator(".line.linked").click()

    assert chosen == page.locator(".span.selected .label").inner_text() == "process chat"


def test_the_first_list_needs_no_request(page, viewer, expect):
    """It comes with the page: who asks waits for the script first, and then for the answer."""
    with viewer.tracer("api").start_as_current_span("GET /ready"):
        pass
    viewer.flush()
    page.route("**/api/**", lambda route: None)  # nothing that is asked for is ever answered

    page.goto("/")

    expect(page.locator(".trace")).to_contain_text("GET /ready")
    expect(page.locator("#live")).to_have_text("live")


def test_the_list_fills_while_it_is_looked_at(page, viewer):
    """From the empty page on, without a reload, and so does an open trace."""
    page.goto("/")
    page.get_by_text("Waiting for the first trace").wait_for()
    chat(viewer)
    page.locator(".trace").wait_for(timeout=PATIENCE)
    told = page.locator(".trace").inner_text()
    trace_id = chat(viewer, fail=True)
    page.locator(".trace.failed").wait_for(timeout=PATIENCE)

    for expected in (
        "POST /v1/ai/chat",
        "ai.chat",
        "succeeded",
        "corr-7",
        "ann",
        "task-1",
        "1 s",
        "api",
    ):
        assert expected in told
    assert page.locator(".trace").first.get_attribute("data-trace-id") == trace_id
    assert page.locator(".live").inner_text() == "live"


def test_an_open_trace_grows(page, viewer):
    """The worker's spans appear beneath the API's, whose parent arrived last."""
    line = Timeline(viewer, time.time_ns())
    with line.span("api", "root", 0, 100) as root:
        with line.span("api", "child", 10, 20):
            pass
        viewer.flush()
        page.goto(f"/#/trace/{root.get_span_context().trace_id:032x}")
        row(page, "child").get_by_text("parent missing").wait_for()
    viewer.flush()
    row(page, "root").wait_for(timeout=PATIENCE)

    assert names(page) == ["root", "child"]
    assert page.locator(".is-orphan").count() == 0


@pytest.mark.parametrize(
    "text", ["corr-7", "correlation:corr-7", "ann", "user:ann", "task-1", "task:task-1", "ai/chat"]
)
def test_the_search_box_finds_a_trace(page, viewer, expect, text):
    """By the beginning of an id, by one kind of id, or by name; the address keeps the search."""
    chat(viewer)
    with Timeline(viewer, time.time_ns()).span(
        "api", "other", 0, 1, attributes=dict.fromkeys(IDS, "x")
    ):
        pass
    viewer.flush()
    page.goto("/")
    page.locator(".trace").nth(1).wait_for()
    page.keyboard.press("/")
    page.keyboard.type(text)
    expect(page.locator(".trace")).to_have_count(1)
    # The first letters may find it already: wait until the address has all that was typed.
    page.wait_for_function("text => decodeURIComponent(location.hash).endsWith(text)", arg=text)

    assert page.locator(".trace .name").inner_text() == "POST /v1/ai/chat"
    page.reload()
    page.locator(".trace").wait_for()
    assert (page.locator(".trace").count(), page.locator("#search").input_value()) == (1, text)


def test_status_filters(page, viewer, expect):
    """Errors, and each status of a task; nothing found says so."""
    chat(viewer)
    failed = chat(viewer, fail=True)
    page.goto("/")
    page.locator(".trace").nth(1).wait_for()
    for label in ("Errors", "Failed"):
        page.get_by_role("button", name=label).click()
        expect(page.locator(".trace")).to_have_count(1)
        assert page.locator(".trace").get_attribute("data-trace-id") == failed
    page.get_by_role("button", name="Dead").click()
    page.get_by_text("No trace matches").wait_for()
    page.keyboard.press("Escape")
    page.locator(".trace").nth(1).wait_for()

    assert page.get_by_role("button", name="All").get_attribute("aria-pressed") == "true"


def test_a_refused_request_shows_its_status(page, viewer, expect):
    """No span of it failed, and its caller got no 2xx: the list says so."""
    line = Timeline(viewer, time.time_ns())
    for status in (202, 422, 503):
        with line.span("api", f"is {status}", 0, 1, attributes={HTTP_STATUS_CODE: status}):
            pass
    viewer.flush()
    page.goto("/")

    for status, count in ((202, 0), (422, 1), (503, 1)):
        trace = page.locator(".trace", has_text=f"is {status}")
        expect(trace).to_have_count(1)
        expect(trace.get_by_text(str(status), exact=True)).to_have_count(count)


def test_a_trace_that_matches_no_more_leaves_the_list(page, viewer):
    """A task that was queued has ended."""
    line = Timeline(viewer, time.time_ns())
    with line.span("api", "send", 0, 1, attributes={TASK_STATUS: "queued"}) as send:
        pass
    viewer.flush()
    page.goto("/#/?status=queued")
    page.locator(".trace").wait_for()
    with (
        trace.use_span(send),
        line.span("worker", "process", 5, 9, attributes={TASK_STATUS: "dead"}),
    ):
        pass
    viewer.flush()
    page.get_by_text("No trace matches").wait_for(timeout=PATIENCE)

    assert page.locator(".trace").count() == 0


def test_everything_is_reached_by_keys(page, viewer):
    """Down the list, into a trace, through its spans, to the error, folded, and back."""
    chat(viewer)
    chat(viewer, fail=True)
    page.goto("/")
    page.locator(".trace").nth(1).wait_for()
    for key in ("j", "j", "k", "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector(".span")
    page.keyboard.press("j")
    walked = [page.locator(".span.selected .label").inner_text()]
    page.keyboard.press("h")
    folded = names(page)
    page.keyboard.press("l")
    page.keyboard.press("e")
    walked.append(page.locator(".span.selected .label").inner_text())
    page.keyboard.press("Escape")
    unselected = page.locator(".span.selected").count()
    page.keyboard.press("Escape")
    page.locator(".trace").nth(1).wait_for()

    assert (walked, folded) == (["POST /v1/ai/chat", "process chat"], ["POST /v1/ai/chat"])
    assert unselected == 0


def test_a_deep_link_opens_its_span(page, viewer):
    """Reloaded or sent to a colleague at the same machine."""
    line = Timeline(viewer, time.time_ns())
    with line.span("api", "root", 0, 100) as root:
        for number in range(300):
            with line.span("api", f"step {number}", number / 4, number / 4 + 0.2) as last:
                pass
    viewer.flush()
    trace_id = f"{root.get_span_context().trace_id:032x}"
    page.goto(f"/#/trace/{trace_id}/{last.get_span_context().span_id:016x}")
    page.wait_for_selector(".span.selected")

    assert page.locator(".details h2").inner_text() == "step 299"
    assert page.locator(".span.selected").is_visible()


def test_an_unknown_trace_is_waited_for(page, viewer, complaints):
    """A link may be faster than the exporter; Chromium itself notes each 404."""
    line = Timeline(viewer, time.time_ns())
    with line.span("api", "late", 0, 1) as span:
        page.goto(f"/#/trace/{span.get_span_context().trace_id:032x}")
        page.get_by_text("This trace is not here").wait_for()
    viewer.flush()
    row(page, "late").wait_for(timeout=PATIENCE)

    assert all("404" in complaint for complaint in complaints)
    complaints.clear()


def test_text_from_outside_is_text(page, viewer):
    """Markup in names, attributes and events is shown, never run."""
    evil = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    line = Timeline(viewer, time.time_ns())
    attributes = {evil: evil, USER_ID: evil, TASK_TYPE: evil, TASK_STATUS: evil}
    with line.span(evil, evil, 0, 10, attributes=attributes) as span:
        span.add_event(evil, {evil: evil})
        span.record_exception(ValueError(evil))
        span.set_status(Status(StatusCode.ERROR, evil))
        log(viewer, span, evil, line.now)
    viewer.flush()
    page.goto("/")
    page.locator(".trace").click()
    page.locator(".span").click()
    page.locator(".details").get_by_text("Log lines (1)").wait_for()

    assert page.locator(".details h2").inner_text() == evil
    assert page.locator("main img, main script").count() == 0
    assert page.title() == f"{evil} · tracebaton"


def test_five_thousand_spans_are_a_screenful_of_rows(page, viewer):
    """The document holds what is seen; the last span is one scroll away."""
    line = Timeline(viewer, time.time_ns())
    with line.span("worker", "root", 0, 5000) as root:
        for number in range(4_999):
            with line.span("worker", f"step {number}", number, number + 1):
                pass
    viewer.flush()
    page.goto(f"/#/trace/{root.get_span_context().trace_id:032x}")
    page.wait_for_selector(".span")
    drawn = page.locator(".span").count()
    page.locator(".waterfall").evaluate("list => { list.scrollTop = list.scrollHeight }")
    row(page, "step 4998").wait_for()

    assert page.get_by_text("5,000").count() == 1
    assert drawn < 60
    assert page.locator(".span").count() < 60


def test_older_traces_come_with_the_scroll(page, viewer):
    """The list asks for the next page before its end is reached."""
    line = Timeline(viewer, time.time_ns())
    for number in range(250):
        with line.span("api", f"trace {number}", number, number + 1):
            pass
    viewer.flush()
    page.goto("/")
    page.locator(".trace").first.wait_for()
    for count in (200, 250):
        page.locator(".list").evaluate("list => { list.scrollTop = list.scrollHeight }")
        page.get_by_text(re.compile(rf"^{count}\+? traces$")).wait_for()
    page.locator(".list").evaluate("list => { list.scrollTop = list.scrollHeight }")
    page.get_by_text("trace 0", exact=True).wait_for()

    assert page.locator(".trace").count() < 60


def test_a_phone_shows_all_of_it_without_scrolling_sideways(page, viewer):
    """List, waterfall and details."""
    trace_id = chat(viewer, fail=True)
    page.set_viewport_size({"width": 360, "height": 740})
    widths = []
    for path in ("/", f"/#/trace/{trace_id}"):
        page.goto(path)
        page.locator(".trace, .span").first.wait_for()
        widths.append(page.evaluate("document.documentElement.scrollWidth"))
    row(page, "process chat").click()

    assert widths == [360, 360]
    assert page.locator(".details h2").is_visible()
    assert extent(page, "process chat", ".wait") == (near(page, 90), near(page, 700))


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_dark_and_light_follow_the_system_and_the_button(page, viewer, scheme):
    """The choice outlives a reload."""
    page.emulate_media(color_scheme=scheme)
    page.goto("/")

    def background() -> str:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    first = background()
    page.locator("#theme").click()
    other = background()
    page.reload()

    assert first != other == background()


def test_times_are_exact_below_a_microsecond_of_the_epoch(page, viewer):
    """Nanoseconds since 1970 do not fit a JavaScript number; offsets do."""
    spans = [
        {
            "spanId": f"{n:016x}",
            "startTimeUnixNano": str(1_795_435_200_000_000_001 + n),
            "endTimeUnixNano": str(1_795_435_200_000_000_500 + n),
        }
        for n in (1, 2, 3)
    ]

    assert built(page, spans, "trace.spans.map((span) => [span.start, span.duration])") == [
        [0, 0.499],
        [0.001, 0.499],
        [0.002, 0.499],
    ]


def test_parents_in_a_circle_are_cut_and_a_long_chain_is_no_recursion(page, viewer):
    """Forged spans end neither the page nor its stack."""
    circle = [
        {"spanId": "a" * 16, "parentSpanId": "b" * 16},
        {"spanId": "b" * 16, "parentSpanId": "a" * 16},
    ]
    itself = [{"spanId": "c" * 16, "parentSpanId": "c" * 16}]
    chain = [
        {"spanId": f"{n:016x}", "parentSpanId": f"{n - 1:016x}" if n > 1 else ""}
        for n in range(1, 10_001)
    ]

    assert built(
        page, circle + itself, "trace.spans.map((span) => [span.id[0], span.depth, span.orphan])"
    ) == [["a", 0, True], ["b", 1, False], ["c", 0, True]]
    assert built(page, chain, "[trace.spans.length, trace.spans.at(-1).depth]") == [10_000, 9_999]


def test_a_retry_waits_from_the_end_of_the_attempt_before(page, viewer):
    """Without measures of the worker's own, the waiting time lies between two spans."""

    def span(number: int, parent: int, kind: int, start: int, end: int) -> dict[str, Any]:
        return {
            "spanId": f"{number:016x}",
            "parentSpanId": f"{parent:016x}" if parent else "",
            "kind": kind,
            "startTimeUnixNano": str(start * MS),
            "endTimeUnixNano": str(end * MS),
        }

    spans = [
        span(1, 0, 4, 10, 20),
        span(2, 1, 5, 50, 60),
        span(3, 1, 5, 90, 95),
        span(4, 1, 5, 15, 16),
    ]

    waits = "trace.spans.map((span) => span.wait && [span.wait.from, span.wait.us])"
    assert built(page, spans, waits) == [None, None, [10_000, 30_000], [50_000, 30_000]]


def test_a_retry_waits_out_its_back_off_and_then_for_a_worker(page, viewer):
    """The worker measures from the moment at which the message can be received again."""

    def span(number: int, kind: int, start: int, end: int, backlog: float) -> dict[str, Any]:
        return {
            "spanId": f"{number:016x}",
            "parentSpanId": f"{1:016x}" if number > 1 else "",
            "kind": kind,
            "startTimeUnixNano": str(start * MS),
            "endTimeUnixNano": str(end * MS),
            "attributes": [{"key": QUEUE_BACKLOG_MS, "value": {"doubleValue": backlog}}],
        }

    spans = [span(1, 4, 0, 10, 0), span(2, 5, 15, 30, 5), span(3, 5, 1030, 1040, 2)]

    waits = "trace.spans.map((span) => span.wait && [span.wait.us, span.wait.parts])"
    backlog, rest = (
        {"name": name, "us": us} for name, us in (("backlog", 2000), ("backoff", 998000))
    )
    assert built(page, spans, waits) == [
        None,
        [5_000, [{"name": "backlog", "us": 5000}]],
        [1_000_000, [rest, backlog]],
    ]


def test_deliveries_are_told_apart(page, viewer):
    """A retry by its number; what came back from the DLQ, or was sent again, by its link."""

    def span(number: int, kind: int, *, receives: int = 0, link: int = 0) -> dict[str, Any]:
        attributes: list[dict[str, Any]] = [{"key": TASK_ID, "value": {"stringValue": "t"}}]
        if receives:
            attributes.append({"key": RECEIVE_COUNT, "value": {"intValue": str(receives)}})
        links = [{"traceId": "a" * 32, "spanId": f"{link:016x}"}] if link else []
        return {"spanId": f"{number:016x}", "traceId": "a" * 32, "kind": kind} | {
            "startTimeUnixNano": str(number * MS),
            "endTimeUnixNano": str(number * MS),
            "attributes": attributes,
            "links": links,
        }

    spans = [
        span(1, 4),
        span(2, 4, link=1),
        span(3, 5, receives=1),
        span(4, 5, receives=2, link=3),
        span(5, 4, link=4),
        span(6, 5, receives=1, link=4),
    ]

    said = "trace.spans.map((span) => [span.delivery ?? '', span.links[0]?.relation ?? ''])"
    assert built(page, spans, said) == [
        ["", ""],
        ["sent again", "sent again after"],
        ["attempt 1", ""],
        ["attempt 2", "follows"],
        ["redrive", "redrive of"],
        ["redrive", "redrive of"],
    ]


def test_a_span_with_an_event_in_sentry_names_it(page, viewer, expect):
    """In its row, and whole beside it."""
    line = Timeline(viewer, time.time_ns())
    with line.span("worker", "process q", 0, 10) as span:
        log(viewer, span, "task.dead", line.now, sentry_event_id="0123456789abcdef" * 2)
    viewer.flush()
    page.goto(f"/#/trace/{span.get_span_context().trace_id:032x}")
    expect(row(page, "process q").locator(".badge")).to_have_text("Sentry 01234567")
    row(page, "process q").click()

    expect(page.locator(".details .hint .copy")).to_have_text("0123456789abcdef" * 2)


def built(page: Any, spans: list[dict[str, Any]], expression: str) -> Any:
    """Return *expression* about the tree that the page makes of *spans*."""
    page.goto("/")
    document = {"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}
    return page.evaluate(
        "async (otlp) => { const { buildTrace } = await import('/static/model.js');"
        f" const trace = buildTrace(otlp); return {expression}; }}",
        document,
    )

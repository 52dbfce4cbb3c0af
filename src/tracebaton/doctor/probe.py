"""
A probe request through everything: the API takes it, the queue carries it, a worker answers it, and
its trace is fetched back and judged.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any, Final

import httpx

from tracebaton import semconv
from tracebaton.doctor.finding import Finding, no_api
from tracebaton.errors import NotFound, TracebatonError
from tracebaton.settings import Settings
from tracebaton.tasks import ENDED, PROBE
from tracebaton.traces import Source, Trace, read_trace
from tracebaton.traces.model import TraceSpan

__all__ = ["complaints", "probe_findings"]

#: Seconds one answer of the API may take: a send waits for SQS.
_TIMEOUT: Final = 35.0
#: Seconds between two looks.
_PAUSE: Final = 0.2
#: Seconds until a backend shows a span that has ended.
_ARRIVAL: Final = 15.0
#: The halves of the trace, by the kind of the span that each cannot be without.
_NEEDED: Final = {"server": "the request", "producer": "the send", "consumer": "the handling"}


class _Unwell(Exception):
    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.said)
        self.finding = finding


async def probe_findings(
    settings: Settings, http: httpx.AsyncClient, source: Source | None, *, seconds: float
) -> AsyncIterator[Finding]:
    """
    Send a probe, wait for its task, and judge its trace.

    Args:
        source: Where traces are read, None where none can be.
        seconds: How long a worker may take until the task has ended.
    """
    try:
        began = time.monotonic()
        accepted = await _submit(settings, http)
        task = await _ended(settings, http, accepted, seconds)
    except _Unwell as exc:
        yield exc.finding
        return
    took = time.monotonic() - began
    yield Finding(
        check="probe",
        state="ok",
        said=f"task {task['task_id']} went through API, queue and worker in {took:.2f} s",
    )
    yield _ids(accepted, task)
    yield await _trace(settings, source, accepted)


async def _submit(settings: Settings, http: httpx.AsyncClient) -> dict[str, Any]:
    answer = await _asked(settings, http, "POST", f"/v1/tasks/{PROBE}", json={})
    if answer.status_code == httpx.codes.ACCEPTED:
        return dict(answer.json())
    said, remedy = _problem(answer), "Its log has the line with that correlation id."
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        remedy = "Give a key by TRACEBATON_API_KEY; `tracebaton keys create` makes one."
    raise _Unwell(Finding(check="probe", state="failed", said=said, remedy=remedy))


async def _ended(
    settings: Settings, http: httpx.AsyncClient, accepted: dict[str, Any], seconds: float
) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while True:
        answer = await _asked(settings, http, "GET", f"/v1/tasks/{accepted['task_id']}")
        if answer.status_code != httpx.codes.OK:
            said, remedy = _problem(answer), "The API cannot show what it took."
            raise _Unwell(Finding(check="probe", state="failed", said=said, remedy=remedy))
        task: dict[str, Any] = answer.json()
        if task["status"] == "succeeded":
            return task
        if task["status"] in ENDED:
            error = task.get("error") or {}
            said = f"task {task['task_id']} is {task['status']}: {error.get('detail', '')}"
            remedy = "The worker's log has the line with that task id."
            raise _Unwell(Finding(check="probe", state="failed", said=said, remedy=remedy))
        if time.monotonic() > deadline:
            said = f"task {task['task_id']} is still {task['status']} after {seconds:.0f} s"
            remedy = (
                "Start `tracebaton worker` with the same queue and the same store as the API;"
                " its /readyz says what it lacks."
            )
            raise _Unwell(Finding(check="probe", state="failed", said=said, remedy=remedy))
        await asyncio.sleep(_PAUSE)


async def _asked(
    settings: Settings, http: httpx.AsyncClient, method: str, path: str, **options: Any
) -> httpx.Response:
    url = settings.api_url.rstrip("/")
    key = settings.api_key
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        return await http.request(method, url + path, headers=headers, timeout=_TIMEOUT, **options)
    except httpx.HTTPError as exc:
        raise _Unwell(no_api("probe", url, exc)) from exc


def _problem(answer: httpx.Response) -> str:
    try:
        document = answer.json()
        parts = (document["code"], document["detail"], document.get("correlation_id"))
    except (ValueError, KeyError, TypeError):
        return f"the API answered {answer.status_code}, and no problem document"
    code, detail, correlation_id = parts
    return f"the API answered {answer.status_code} {code}: {detail} ({correlation_id})"


def _ids(accepted: dict[str, Any], task: dict[str, Any]) -> Finding:
    found = task.get("result") or {}
    sent, seen = accepted["correlation_id"], found.get("correlation_id")
    if sent == seen:
        said = f"correlation id {sent} is the same in API and worker"
        return Finding(check="request store", state="ok", said=said)
    said = f"the API has correlation id {sent}, the worker {seen}"
    remedy = "Something between them rewrites messages: look at what else reads and sends them."
    return Finding(check="request store", state="failed", said=said, remedy=remedy)


async def _trace(settings: Settings, source: Source | None, accepted: dict[str, Any]) -> Finding:
    trace_id = accepted["trace_id"]
    if source is None:
        return Finding(
            check="trace",
            state="skipped",
            said=f"nowhere to fetch trace {trace_id} back from",
            remedy="Name a Jaeger by --jaeger or a viewer by --viewer; in Sentry search for it.",
        )
    wrong = await _judged(source, trace_id, accepted)
    if not wrong:
        return Finding(check="trace", state="ok", said=f"{trace_id} is one trace, whole")
    rate = settings.sample_rate
    if rate < 1 and wrong == [_ABSENT]:
        said = f"trace {trace_id} is not there: at rate {rate} it may not have been kept"
        return Finding(check="trace", state="warning", said=said, remedy="Try again.")
    return Finding(
        check="trace",
        state="failed",
        said=f"trace {trace_id}: {'; '.join(wrong)}",
        remedy="API and worker need the same OTLP endpoint, or the same viewer, and both need to"
        " reach it.",
    )


_ABSENT: Final = "it did not arrive"


async def _judged(source: Source, trace_id: str, accepted: dict[str, Any]) -> Sequence[str]:
    """Look until the trace is whole, and return what is wrong with it at the end."""
    deadline = time.monotonic() + _ARRIVAL
    wrong: Sequence[str] = [_ABSENT]
    while wrong and time.monotonic() < deadline:
        with suppress(NotFound):
            try:
                document, _ = await asyncio.to_thread(source.find, trace_id)
                found = read_trace(document)
            except NotFound:
                raise
            except (TracebatonError, ValueError) as exc:
                return [str(exc)]
            wrong = [_ABSENT] if found is None else complaints(found, accepted)
        if wrong:
            await asyncio.sleep(_PAUSE)
    return wrong


def complaints(trace: Trace, accepted: dict[str, Any]) -> Sequence[str]:
    """Return what keeps *trace* from being the one of the task that was *accepted*."""
    spans = {kind: _first(trace, kind) for kind in _NEEDED}
    missing = [f"{what} is missing" for kind, what in _NEEDED.items() if spans[kind] is None]
    if missing:
        return missing
    server, sent, handled = (span for span in spans.values() if span is not None)
    wrong = []
    if handled.parent_id != sent.span_id:
        wrong.append("the handling is not a child of the send")
    if not _descends(sent, server, trace):
        wrong.append("the send is not below the request")
    wrong += [f"{row.span.name} has no parent here" for row in trace.rows if row.orphan]
    for span in (server, sent, handled):
        if span.attributes.get(semconv.CORRELATION_ID) != accepted["correlation_id"]:
            wrong.append(f"{span.name} has another correlation id")
    return wrong


def _first(trace: Trace, kind: str) -> TraceSpan | None:
    return next((row.span for row in trace.rows if row.span.kind == kind), None)


def _descends(span: TraceSpan, ancestor: TraceSpan, trace: Trace) -> bool:
    by_id = {row.span.span_id: row.span for row in trace.rows}
    seen: TraceSpan | None = span
    for _ in trace.rows:
        if seen is None or seen.parent_id == ancestor.span_id:
            break
        seen = by_id.get(seen.parent_id)
    return seen is not None and seen.parent_id == ancestor.span_id

"""
The places a process talks to beside its queues: the task store, the API, Sentry, the OTLP endpoint,
the viewer. And the clock, held against the time that they answer with.
"""

import asyncio
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import urlsplit

import httpx

from tracebaton.doctor.finding import Finding, no_api
from tracebaton.errors import TracebatonError
from tracebaton.redaction import redact_url
from tracebaton.runtime import task_store
from tracebaton.settings import Settings
from tracebaton.tasks.sqlite import SqliteTaskStore
from tracebaton.telemetry.otlp import reach
from tracebaton.telemetry.sentry.address import address
from tracebaton.telemetry.sinks import traces_endpoint

__all__ = ["Clock", "api", "otlp", "sentry", "sqs_time", "store", "viewer"]

#: Seconds one answer may take.
_TIMEOUT: Final = 10.0
#: Seconds a clock may be off before traces look wrong.
_ODD: Final = 2.0
#: Seconds it may be off before AWS refuses what it signed (Signature Version 4: five minutes).
_REFUSED: Final = 300.0


class Clock:
    """This machine's clock beside the ``Date`` of the answers it got."""

    def __init__(self) -> None:
        self._off: dict[str, float] = {}

    def note(self, place: str, headers: Mapping[str, str]) -> None:
        """Keep what *place* says the time is."""
        try:
            told = parsedate_to_datetime(headers["date"]).timestamp()
        except (KeyError, ValueError, TypeError):
            return
        # It names a whole second: the middle of it is the best guess.
        self._off[place] = time.time() - told - 0.5

    def finding(self) -> Finding:
        """Return how far it is off at most."""
        if not self._off:
            return Finding(check="clock", state="skipped", said="nobody told the time")
        place, off = max(self._off.items(), key=lambda item: abs(item[1]))
        said = f"{abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} {place}"
        remedy = "Let NTP set this machine's clock."
        if abs(off) >= _REFUSED:
            return Finding(check="clock", state="failed", said=said, remedy=remedy)
        if abs(off) > _ODD:
            return Finding(check="clock", state="warning", said=said, remedy=remedy)
        return Finding(check="clock", state="ok", said=f"agrees with {', '.join(self._off)}")


async def store(settings: Settings) -> Finding:
    """Open the task store."""
    check = "task store"
    found = task_store(settings)
    if found is None:
        return Finding(check=check, state="skipped", said="none: tasks have no resources")
    if isinstance(found, SqliteTaskStore) and not found.exists:
        said = f"{settings.store_url} is not there"
        remedy = "API and worker make it at their first start, on this machine and in one folder."
        return Finding(check=check, state="warning", said=said, remedy=remedy)
    try:
        await found.check()
    except TracebatonError as exc:
        said = f"{settings.store_url}: {' '.join(str(exc.__cause__ or exc).split())}"
        remedy = "Check TRACEBATON_STORE, and that this user may write there."
        return Finding(check=check, state="failed", said=said, remedy=remedy)
    finally:
        await found.close()
    return Finding(check=check, state="ok", said=settings.store_url)


async def api(settings: Settings, http: httpx.AsyncClient, clock: Clock) -> Finding:
    """Ask the API whether it is ready."""
    url = settings.api_url.rstrip("/")
    try:
        answer = await http.get(f"{url}/readyz", timeout=_TIMEOUT)
    except httpx.HTTPError as exc:
        return no_api("api", url, exc)
    clock.note("the API", answer.headers)
    if answer.status_code == httpx.codes.OK:
        return Finding(check="api", state="ok", said=f"{url} is ready")
    said = f"{url}/readyz answers {answer.status_code}"
    remedy = "Its log says which of queue and task store is away."
    return Finding(check="api", state="failed", said=said, remedy=remedy)


async def sqs_time(settings: Settings, http: httpx.AsyncClient, clock: Clock) -> None:
    """Let SQS say what the time is: its answer to a bare request is an error with a date."""
    parts = urlsplit(settings.sqs_endpoint or settings.queue_url or "")
    if not parts.netloc:
        return
    try:
        answer = await http.get(f"{parts.scheme}://{parts.netloc}/", timeout=_TIMEOUT)
    except httpx.HTTPError:
        return  # the queue's own finding says it
    clock.note("SQS", answer.headers)


async def sentry(settings: Settings, http: httpx.AsyncClient, clock: Clock) -> Finding:
    """Send Sentry a report of nothing discarded: it costs no quota and shows up nowhere."""
    if settings.sentry_dsn is None:
        return Finding(check="sentry", state="skipped", said="SENTRY_DSN is not set")
    host, project, url, headers = address(settings.sentry_dsn, client="tracebaton-doctor/1")
    report = f'{{"timestamp": {time.time():.0f}, "discarded_events": []}}'
    content = f'{{}}\n{{"type": "client_report", "length": {len(report)}}}\n{report}\n'
    try:
        answer = await http.post(url, content=content.encode(), headers=headers, timeout=_TIMEOUT)
    except httpx.HTTPError as exc:
        said = f"{host} does not answer ({type(exc).__name__})"
        remedy = "Check the DSN's host, the network and the proxy."
        return Finding(check="sentry", state="failed", said=said, remedy=remedy)
    clock.note("Sentry", answer.headers)
    if answer.is_success:
        said = f"{host} takes envelopes for project {project}, mode {settings.sentry_mode}"
        return Finding(check="sentry", state="ok", said=said)
    if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
        said, remedy = f"{host} limits this project (429)", "Look at its quota and rate limits."
        return Finding(check="sentry", state="warning", said=said, remedy=remedy)
    remedy = "Copy the DSN again: Settings, Projects, Client Keys."
    said = f"{host} refuses envelopes for project {project} ({answer.status_code})"
    return Finding(check="sentry", state="failed", said=said, remedy=remedy)


async def otlp(settings: Settings) -> Finding:
    """Send the OTLP endpoint no span at all, as spans are sent."""
    endpoint = traces_endpoint(settings)
    if endpoint is None:
        said = "OTEL_EXPORTER_OTLP_ENDPOINT is not set"
        return Finding(check="otlp", state="skipped", said=said)
    reason = await asyncio.to_thread(reach, endpoint)
    where = redact_url(endpoint)
    if reason is None:
        return Finding(check="otlp", state="ok", said=f"{where} takes spans")
    return Finding(
        check="otlp",
        state="failed",
        said=f"{where}: {' '.join(reason.split())}",
        remedy="Start the Collector, or correct the endpoint (OTLP/HTTP, port 4318) and"
        " OTEL_EXPORTER_OTLP_HEADERS.",
    )


async def viewer(settings: Settings, http: httpx.AsyncClient) -> Finding:
    """Ask the viewer for its newest trace."""
    if settings.viewer_url is None:
        return Finding(check="viewer", state="skipped", said="TRACEBATON_VIEWER_URL is not set")
    url = settings.viewer_url.rstrip("/")
    try:
        answer = await http.get(f"{url}/api/traces", params={"limit": "1"}, timeout=_TIMEOUT)
        answer.raise_for_status()
    except httpx.HTTPError as exc:
        said = f"{url} does not answer as it should ({type(exc).__name__})"
        remedy = "Start `tracebaton dev` or `tracebaton viewer`, or unset TRACEBATON_VIEWER_URL."
        return Finding(check="viewer", state="failed", said=said, remedy=remedy)
    return Finding(check="viewer", state="ok", said=url)

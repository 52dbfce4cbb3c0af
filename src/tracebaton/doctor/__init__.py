"""
What ``tracebaton doctor`` looks at: settings, queues, store, sinks and clock, and a probe request
through all of them. Each finding says what to do.
"""

from collections.abc import AsyncIterator

import httpx

from tracebaton.doctor import places
from tracebaton.doctor.explained import Explained, explained
from tracebaton.doctor.finding import Finding, State, healthy
from tracebaton.doctor.probe import complaints, probe_findings
from tracebaton.doctor.queues import queue_findings
from tracebaton.errors import ConfigurationError
from tracebaton.queue.sqs import Sqs, SqsAccess
from tracebaton.settings import Settings
from tracebaton.traces import Source

__all__ = ["Explained", "Finding", "State", "complaints", "examine", "explained", "healthy"]


async def examine(
    settings: Settings,
    *,
    source: Source | None = None,
    probe: bool = True,
    probe_seconds: float = 30.0,
) -> AsyncIterator[Finding]:
    """
    Yield one finding after another, each as soon as it is known.

    Nothing is changed but what the probe leaves: one task of the type ``tracebaton.probe``, and its
    trace.

    Args:
        source: Where the probe's trace is fetched back from, None where it cannot be.
        probe: Whether to send it.
        probe_seconds: How long a worker may take with it.
    """
    async for finding in _queues(settings):
        yield finding
    yield await places.store(settings)
    clock = places.Clock()
    # The environment's proxies count for Sentry alone, which is the one place beyond our own.
    async with httpx.AsyncClient(trust_env=False) as http, httpx.AsyncClient() as outside:
        yield await places.sentry(settings, outside, clock)
        yield await places.otlp(settings)
        yield await places.viewer(settings, http)
        await places.sqs_time(settings, http, clock)
        api = await places.api(settings, http, clock)
        yield clock.finding()
        yield api
        if probe and api.state == "ok":
            findings = probe_findings(settings, http, source, seconds=probe_seconds)
            async for finding in findings:
                yield finding


async def _queues(settings: Settings) -> AsyncIterator[Finding]:
    if settings.queue_url is None and settings.queue_name is None:
        yield Finding(
            check="queue",
            state="failed",
            said="TRACEBATON_QUEUE_URL is not set, nor TRACEBATON_QUEUE_NAME",
            remedy="Name the queue; `tracebaton dev` brings one of its own.",
        )
        return
    try:
        sqs = Sqs(SqsAccess.of(settings))
    except ConfigurationError as exc:
        remedy = "Set AWS_REGION, or correct AWS_PROFILE."
        yield Finding(check="queue", state="failed", said=exc.detail, remedy=remedy)
        return
    try:
        async for finding in queue_findings(sqs, settings):
            yield finding
    finally:
        await sqs.close()

"""
Sentry: transactions through sentry-sdk's span processor, failures once and linked.

The only package that imports ``sentry_sdk``. Spans are not translated while the request waits: they
are gathered as OpenTelemetry ends them, and when the local root has ended one background thread
replays the whole unit through ``SentrySpanProcessor`` under the unit's isolation scope. So a job
may run for hours, nothing is pruned, threads cannot race over the processor's map, and a span that
ends after its root is simply a transaction of its own.
"""

from tracebaton.telemetry.sentry.connection import Sentry, check_sdk

__all__ = ["Sentry", "check_sdk"]

"""
Breadcrumbs of our own events, without the log records that sentry-sdk would make them of.
"""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from fnmatch import fnmatch
from functools import lru_cache
from typing import Any, Final

import sentry_sdk
from sentry_sdk.integrations import logging as integration
from sentry_sdk.utils import capture_internal_exceptions

from tracebaton.events import HEARS

__all__ = ["hear_events"]

#: Sentry's names of the levels.
_LEVELS: Final = {
    logging.INFO: "info",
    logging.WARNING: "warning",
    logging.ERROR: "error",
    logging.CRITICAL: "fatal",
}


def hear_events() -> None:
    """
    Tell `tracebaton.events.say()` that sentry-sdk's own ``callHandlers`` needs no record.

    Where somebody has put a third one in front of it, events are records for him as before.
    """
    patched: Any = logging.Logger.callHandlers
    if patched.__name__ == "sentry_patched_callhandlers":
        setattr(patched, HEARS, _crumb)


def _crumb(logger: str, event: str, level: int, fields: Mapping[str, Any]) -> None:
    """Leave the breadcrumb that ``LoggingIntegration`` leaves of a record."""
    with capture_internal_exceptions():
        ignored = integration._IGNORED_LOGGERS
        if level < logging.INFO or _is_ignored(logger, tuple(ignored)):
            return
        client = sentry_sdk.get_client()
        if client.get_integration(integration.LoggingIntegration) is None:
            return
        sentry_sdk.get_isolation_scope().add_breadcrumb(
            {
                "type": "log",
                "level": _LEVELS.get(level, "info"),
                "category": logger,
                "message": event,
                "timestamp": datetime.now(UTC),
                "data": {"fields": fields},
            }
        )


@lru_cache(maxsize=256)
def _is_ignored(logger: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(logger, pattern) for pattern in patterns)

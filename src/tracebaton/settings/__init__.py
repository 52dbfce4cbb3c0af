"""
The settings, read from the environment once, when the app starts.

The only package that reads the environment. Standard names come first (``OTEL_*``, ``SENTRY_*``,
``AWS_*``); what those do not cover is ``TRACEBATON_*``. An empty variable counts as unset. Bad
values stop the start with one line that names every bad variable.
"""

from tracebaton.settings.settings import (
    ENVIRONMENT,
    Settings,
    child_environment,
    prefer_stable_http_conventions,
)
from tracebaton.settings.telemetry import ALL_INSTALLED, INSTRUMENTATIONS, SAMPLERS
from tracebaton.settings.values import QueueSetting

__all__ = [
    "ALL_INSTALLED",
    "ENVIRONMENT",
    "INSTRUMENTATIONS",
    "SAMPLERS",
    "QueueSetting",
    "Settings",
    "child_environment",
    "prefer_stable_http_conventions",
]

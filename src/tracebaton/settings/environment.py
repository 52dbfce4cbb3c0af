"""The environment of this process: the only place that reads or changes it."""

import os
from collections.abc import Mapping

__all__ = ["child_environment", "prefer_stable_http_conventions", "read"]

#: Whose variables the settings name, or the libraries read that they are for.
_PREFIXES = ("AWS_", "OTEL_", "SENTRY_", "TRACEBATON_")


def read() -> Mapping[str, str]:
    """Return the environment of this process, without its empty variables that we know."""
    _forget_empty()
    return os.environ


def child_environment(changes: Mapping[str, str | None]) -> dict[str, str]:
    """Return this process's environment with *changes* for a child; None leaves a name as it is."""
    return dict(os.environ) | {name: value for name, value in changes.items() if value is not None}


def prefer_stable_http_conventions() -> None:
    """
    Choose the stable HTTP conventions unless the environment says otherwise.

    The instrumentation reads this variable once a process, at the first instrumented app, and still
    defaults to the old names (opentelemetry-specification, HTTP migration plan).
    """
    os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")


def _forget_empty() -> None:
    """
    Take empty variables out of the environment.

    OpenTelemetry and botocore read many by themselves, and some do not take an empty one for an
    unset one: an empty ``AWS_PROFILE``, as compose files pass it on, is a profile of no name.
    """
    for name in [name for name in os.environ if name.startswith(_PREFIXES)]:
        if not os.environ[name].strip():
            del os.environ[name]

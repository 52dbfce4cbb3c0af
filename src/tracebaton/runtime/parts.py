"""What a process may want without the rest: telemetry, and the task store."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from tracebaton.settings import Settings
from tracebaton.tasks import TaskStore
from tracebaton.tasks.sqlite import SqliteTaskStore
from tracebaton.telemetry.pipeline import Telemetry, build, standing

__all__ = ["Role", "configure_telemetry", "task_store"]

Role = Literal["api", "worker"]


def configure_telemetry(
    settings: Settings | None = None,
    *,
    role: Role = "api",
    sample_rates: Mapping[str, float] = MappingProxyType({}),
) -> Telemetry:
    """
    Set up tracing for someone else's process: providers, propagator and sinks by *settings*.

    Call its ``shutdown(timeout)`` before the process ends; what still waits at the end of the
    interpreter gets two seconds then.

    Args:
        settings: Read from the environment by default.
        role: Names the service where ``OTEL_SERVICE_NAME`` does not.
        sample_rates: Shares of traces to keep, by route or task type; ``TRACEBATON_SAMPLE_RATES``
            wins.

    Raises:
        ConfigurationError: A setting is wrong.
    """
    settings = settings or Settings.load()
    telemetry = standing(settings, role=role, sample_rates=sample_rates)
    if telemetry is None:
        telemetry = build(settings, role=role, sample_rates=sample_rates)
        telemetry.asked = (settings, role)
    return telemetry


def task_store(settings: Settings) -> TaskStore | None:
    """Return the store that ``TRACEBATON_STORE`` names, unopened; None for ``none``."""
    kind, _, place = settings.store_url.partition("://")
    if kind == "none":
        return None
    if kind == "sqlite":
        return SqliteTaskStore(Path(place.removeprefix("/")))
    from tracebaton.tasks.dynamodb import DynamoAccess, DynamoTaskStore

    local = settings.dynamodb_on_loopback
    access = DynamoAccess(
        endpoint=settings.dynamodb_endpoint,
        region=settings.region or ("us-east-1" if local else None),
        anonymous=local and not settings.has_aws_credentials,
        create=local,  # in AWS the table is made, and paid for, by whoever deploys
    )
    return DynamoTaskStore(place, access=access)

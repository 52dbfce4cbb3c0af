"""
What names this process to every backend.
"""

import uuid
from importlib.metadata import version
from typing import Final

from opentelemetry.sdk.resources import OTELResourceDetector, Resource

from tracebaton.settings import Settings
from tracebaton.telemetry.running import Role

__all__ = ["resource_of"]

#: Sentry's own default, so that issues of a process without the variable stay together.
_ENVIRONMENT: Final = "production"


def resource_of(settings: Settings, *, role: Role) -> Resource:
    """
    Return what names this process: our defaults, over them ``OTEL_RESOURCE_ATTRIBUTES``, over
    those the variables of their own.
    """
    defaults = {
        "service.name": f"tracebaton-{role}",
        "service.version": version("tracebaton"),
        "service.instance.id": str(uuid.uuid4()),
        "deployment.environment.name": _ENVIRONMENT,
    }
    named = {
        "service.name": settings.otel_service_name,
        "service.version": settings.sentry_release,
        "deployment.environment.name": settings.sentry_environment,
    }
    return Resource.create(
        defaults
        | dict(OTELResourceDetector().detect().attributes)
        | {key: value for key, value in named.items() if value}
    )

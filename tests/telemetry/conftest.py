"""Pipelines that are taken down after the test."""

from collections.abc import Iterator, Mapping
from typing import Protocol

import pytest
from otlp_receiver import OtlpReceiver, otlp_receiver

from tracebaton.settings import Settings
from tracebaton.telemetry.pipeline import Role, Telemetry, build


class Pipelines(Protocol):
    """Builds a pipeline from variables, not installed globally."""

    def __call__(self, variables: Mapping[str, str], *, role: Role = "api") -> Telemetry: ...


@pytest.fixture
def pipelines() -> Iterator[Pipelines]:
    """Build as many pipelines as the test wants; each is shut down at its end."""
    built: list[Telemetry] = []

    def of(variables: Mapping[str, str], *, role: Role = "api") -> Telemetry:
        telemetry = build(Settings.load(variables), role=role, install=False)
        built.append(telemetry)
        return telemetry

    yield of
    for telemetry in built:
        telemetry.shutdown(0.2)  # the test's sinks may be gone by now: nothing is worth a wait


@pytest.fixture
def otlp() -> Iterator[OtlpReceiver]:
    """Run an OTLP receiver."""
    with otlp_receiver() as receiver:
        yield receiver

"""
Fixtures of real backends: ``jaeger`` (a process) and ``sentry`` (a receiver of envelopes).

``tests/conftest.py`` makes them known to every test. A missing program skips the test at home and
fails it where ``CI`` is set.
"""

import os
from collections.abc import Iterator

import pytest
from jaeger import Jaeger, jaeger_binary, running_jaeger
from sentry_receiver import SentryReceiver, sentry_receiver

__all__ = ["jaeger", "missing", "sentry"]


def missing(reason: str) -> None:
    """Skip for *reason* at home, fail in CI: there every tool has to be."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def jaeger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jaeger]:
    """Run one Jaeger for the session: ``otlp``, ``trace(trace_id)``."""
    if jaeger_binary() is None:
        missing("no Jaeger: run scripts/jaeger (needs Go 1.25)")
    with running_jaeger(tmp_path_factory.mktemp("jaeger")) as running:
        yield running


@pytest.fixture
def sentry() -> Iterator[SentryReceiver]:
    """Run a stand-in for Sentry's intake: ``dsn``, ``transactions()``, ``wait_for()``."""
    with sentry_receiver() as receiver:
        yield receiver

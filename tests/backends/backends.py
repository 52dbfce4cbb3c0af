"""
Fixtures of real backends: ``jaeger`` (a process) and ``sentry`` (a receiver of envelopes).

``tests/conftest.py`` makes them known to every test. A missing program skips the test at home and
fails it where ``CI`` is set.
"""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from jaeger import Jaeger, jaeger_binary, running_jaeger
from sentry_receiver import SentryReceiver, sentry_receiver

__all__ = ["jaeger", "missing", "normalize", "sentry"]


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
    """
    Run a stand-in for Sentry's intake: ``dsn``, ``transactions()``, ``events()``, ``wait_for()``.

    After the test everything that arrived has to pass Sentry's own normaliser.
    """
    with sentry_receiver() as receiver:
        yield receiver
        normalize(receiver.transactions() + receiver.events())


def normalize(payloads: list[dict[str, Any]]) -> None:
    """Put *payloads* through Sentry's own normaliser: what it rejects would vanish in silence."""
    relay = pytest.importorskip("sentry_relay.processing")
    for payload in payloads:
        normalized = relay.StoreNormalizer(project_id=1).normalize_event(payload)
        errors = [found for found in _meta(normalized.get("_meta", {})) if "err" in found]
        assert errors == []


def _meta(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for key, value in node.items():
        if key == "":
            yield value
        elif isinstance(value, dict):
            yield from _meta(value)

"""What passes sentry-sdk's serialiser by arrives as it would have behind it."""

from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

import pytest
import sentry_sdk
from opentelemetry.trace import SpanKind
from sentry_receiver import SentryReceiver

from tracebaton.telemetry.pipeline import Telemetry

pytestmark = pytest.mark.backends


def served(telemetry: Telemetry, requests: int = 1) -> None:
    """Serve requests of two spans each."""
    attributes: dict[str, Any] = {
        "names": ("a", "b"),
        "raw": b"\xff",
        "share": 0.5,
        "deep": {"a": 1},
    }
    for _ in range(requests):
        with (
            telemetry.reporter.isolated(),
            telemetry.tracer.start_as_current_span("GET /", kind=SpanKind.SERVER),
            telemetry.tracer.start_as_current_span("work", attributes=attributes),
        ):
            sentry_sdk.set_context("build", {"path": PurePosixPath("/srv")})
    assert telemetry.shutdown(5).complete


def test_values_that_are_not_json_arrive_as_text(pipelines: Any, sentry: SentryReceiver) -> None:
    """A tuple is an array and bytes are said to be some; a context of the user's has its repr."""
    served(pipelines({"SENTRY_DSN": sentry.dsn}))

    [transaction] = sentry.transactions()
    [child] = transaction["spans"]
    data = {name: child["data"][name] for name in ("names", "raw", "share", "deep")}

    assert data == {"names": ["a", "b"], "raw": "<1 bytes>", "share": 0.5, "deep": {"a": 1}}
    assert "/srv" in str(transaction["contexts"]["build"])


def test_what_a_processor_of_the_application_adds_to_a_span_costs_no_transaction(
    pipelines: Any, sentry: SentryReceiver
) -> None:
    """Objects, and secrets, in the children of an event that somebody else has touched."""
    telemetry = pipelines({"SENTRY_DSN": sentry.dsn})

    def touch(event: Any, hint: Any) -> Any:
        for span in event["spans"]:
            span["data"]["owner"] = PurePosixPath("/srv")
            span["tags"] = {"when": datetime(2026, 11, 26, tzinfo=UTC), "password": "c4n4ry"}
        return event

    sentry_sdk.get_global_scope().add_event_processor(touch)
    try:
        served(telemetry)
    finally:
        sentry_sdk.get_global_scope()._event_processors.remove(touch)

    [transaction] = sentry.transactions()
    [child] = transaction["spans"]

    assert child["data"]["owner"] == "/srv"
    assert child["tags"] == {"when": "2026-11-26 00:00:00+00:00", "password": "[redacted]"}


def test_nothing_is_reported_as_dropped(pipelines: Any, sentry: SentryReceiver) -> None:
    """The SDK compares how many spans there are before and after its processors."""
    served(pipelines({"SENTRY_DSN": sentry.dsn}), requests=3)

    assert sentry.items("client_report") == []
    assert all("_meta" not in transaction for transaction in sentry.transactions())


def test_every_transaction_names_the_sdk(pipelines: Any, sentry: SentryReceiver) -> None:
    """The first one teaches what the others say."""
    served(pipelines({"SENTRY_DSN": sentry.dsn}), requests=3)

    first, *others = (transaction["sdk"] for transaction in sentry.transactions())

    assert first["name"] == "sentry.python"
    assert others == [first, first]
    assert all("runtime" in one["contexts"] for one in sentry.transactions())

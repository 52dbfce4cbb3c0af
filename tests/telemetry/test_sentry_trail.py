"""The breadcrumbs of an event: the trail from the request's entry to its failure."""

import io
import logging
from typing import Any

import httpx
import pytest
from sentry_receiver import SentryReceiver
from sentry_sdk.integrations.logging import ignore_logger, unignore_logger
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tracebaton.audit import audited
from tracebaton.events import say
from tracebaton.http.middleware import instrument
from tracebaton.logs import JsonFormatter
from tracebaton.logs.stream import Lines
from tracebaton.problems import outcome_of


@audited
class Stock:
    """A service with one method that works and one that fails."""

    async def find(self, item: str) -> str:
        """Find it."""
        return item

    async def take(self, item: str, token: str) -> None:
        """Fail."""
        raise LookupError("none left")


async def test_the_trail_leads_from_the_entry_to_the_failure(
    pipelines: Any, sentry: SentryReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    """Each service call of this request, in order, without secrets, and nothing of another one."""
    caplog.set_level(logging.INFO, "tracebaton")
    telemetry = pipelines({"SENTRY_DSN": sentry.dsn})
    stock = Stock()

    async def order(request: Request) -> Response:
        await stock.find(request.path_params["item"])
        await stock.take(request.path_params["item"], token="c4n4ry")
        return Response()

    app = instrument(
        Starlette(routes=[Route("/{item}", order)]),
        reporter=telemetry.reporter,
        tracer_provider=telemetry.tracer_provider,
    )
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        answers = [await http.get(f"/{item}") for item in ("book", "glass")]
    telemetry.shutdown(5)

    events = sorted(sentry.events(), key=lambda event: event["timestamp"])
    trails = [[crumb["message"] for crumb in event["breadcrumbs"]["values"]] for event in events]
    assert [answer.status_code for answer in answers] == [500, 500]
    assert trails == [["audit.call", "audit.success", "audit.call", "audit.error"]] * 2
    assert "c4n4ry" not in str(events)


@pytest.mark.parametrize("ignored", [False, True])
def test_an_event_without_a_record_leaves_the_same_breadcrumb(
    pipelines: Any, sentry: SentryReceiver, monkeypatch: pytest.MonkeyPatch, ignored: bool
) -> None:
    """Where nobody but our handler listens, and where somebody else's does; none if ignored."""
    telemetry = pipelines({"SENTRY_DSN": sentry.dsn})
    log, stream = logging.getLogger("shop.trail"), io.StringIO()
    lines = Lines(stream)
    lines.setFormatter(JsonFormatter(service="shop"))
    monkeypatch.setattr(log, "propagate", False)
    monkeypatch.setattr(log, "handlers", [lines])
    log.setLevel(logging.DEBUG)
    records: list[logging.LogRecord] = []
    own = logging.Handler()
    own.emit = records.append  # type: ignore[method-assign]
    if ignored:
        ignore_logger("shop.*")
    try:
        with telemetry.reporter.isolated():
            for handlers in ([lines], [lines, own]):
                log.handlers = handlers
                for level in (logging.DEBUG, logging.INFO, logging.WARNING):
                    say(log, "order.placed", {"item": "book", "token": "c4n4ry"}, level=level)
            exc = LookupError("none left")
            telemetry.reporter.report(exc, outcome_of(exc), mechanism="test", tags={})
    finally:
        unignore_logger("shop.*")
    telemetry.shutdown(5)

    (event,) = sentry.events()
    crumbs = [
        {key: value for key, value in crumb.items() if key != "timestamp"}
        for crumb in event.get("breadcrumbs", {}).get("values", [])
        if crumb["category"] == "shop.trail"
    ]
    assert (len(stream.getvalue().splitlines()), len(records)) == (6, 3)
    assert len(crumbs) == (0 if ignored else 4)
    assert crumbs[:2] == crumbs[2:]
    assert "c4n4ry" not in str(event)

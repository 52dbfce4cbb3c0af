"""The breadcrumbs of an event: the trail from the request's entry to its failure."""

import logging
from typing import Any

import httpx
import pytest
from sentry_receiver import SentryReceiver
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tracebaton.audit import audited
from tracebaton.http.middleware import instrument


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

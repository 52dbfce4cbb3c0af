"""What other hosts get of a trace, as real servers see it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from neighbour import Neighbour, running_neighbour
from opentelemetry import propagate
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor

from tracebaton.context import RequestStore, entered

OURS = {"traceparent", "tracestate", "baggage", "sentry-trace"}


@pytest.fixture
def seen() -> Iterator[Neighbour]:
    """Run a server that notes our headers and may send elsewhere."""
    with running_neighbour() as neighbour:
        yield neighbour


@contextmanager
def client(telemetry: Any) -> Iterator[httpx.Client]:
    """Yield an instrumented client that uses the pipeline's propagator, inside a request."""
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(telemetry.propagator)
    try:
        with (
            httpx.Client(follow_redirects=True) as http,
            entered(RequestStore(correlation_id="c-1", user_id="u-1")),
            telemetry.tracer.start_as_current_span("work"),
        ):
            HTTPXClientInstrumentor.instrument_client(
                http, tracer_provider=telemetry.tracer_provider
            )
            yield http
    finally:
        propagate.set_global_textmap(before)


@pytest.mark.parametrize("sampler", ["always_on", "always_off"])
def test_a_redirect_takes_nothing_to_a_host_that_is_not_listed(
    pipelines: Any, seen: Neighbour, sampler: str
) -> None:
    """The client copies the first request's headers; sampled or not, they end at the border."""
    telemetry = pipelines(
        {
            "TRACEBATON_PROPAGATE_TRACE_TO": "localhost",
            "TRACEBATON_PROPAGATE_BAGGAGE_TO": "localhost",
            "OTEL_TRACES_SAMPLER": sampler,
        }
    )
    seen.redirect = seen.url("127.0.0.1")
    with client(telemetry) as http:
        http.get(seen.url("localhost"))

    (first, ours), (second, theirs) = seen.told(OURS)

    assert (first, set(ours)) == ("localhost", {"traceparent", "baggage"})
    assert "u-1" in ours["baggage"]
    assert (second, theirs) == ("127.0.0.1", {})


def test_a_redirect_leaves_the_baggage_behind(pipelines: Any, seen: Neighbour) -> None:
    """By default the trace goes everywhere, the ids do not."""
    telemetry = pipelines({"TRACEBATON_PROPAGATE_BAGGAGE_TO": "localhost"})
    seen.redirect = seen.url("127.0.0.1")
    with client(telemetry) as http:
        http.get(seen.url("localhost"))

    assert [set(headers) for _, headers in seen.told(OURS)] == [
        {"traceparent", "baggage"},
        {"traceparent"},
    ]

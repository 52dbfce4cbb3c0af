"""Log lines at a backend's endpoint, which has to be named for them."""

import logging
from typing import Any

import pytest
from otlp_receiver import OtlpReceiver

pytestmark = pytest.mark.backends


def line(event: str) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": event, "name": "shop", "levelno": 20, "levelname": "INFO"})


def test_the_logs_endpoint_gets_the_lines(
    pipelines: Any, otlp: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is taken as it stands, with the environment's headers; the viewer gets them beside it."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=abc")
    telemetry = pipelines(
        {
            "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": otlp.url + "/backend/v1/logs",
            "TRACEBATON_VIEWER_URL": otlp.url + "/viewer",
        }
    )
    telemetry.log_handler.handle(line("order.placed"))
    telemetry.shutdown(5)

    keys = {path: headers.get("x-key") for path, headers, _ in otlp.requests}

    assert keys == {"/backend/v1/logs": "abc", "/viewer/v1/logs": None}
    assert [record.body.string_value for _, record in otlp.logs()] == ["order.placed"] * 2


def test_the_endpoint_for_all_gets_none(pipelines: Any, otlp: OtlpReceiver) -> None:
    """Log lines hold more than spans do: they are sent where somebody asked for them."""
    telemetry = pipelines({"OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url})

    assert telemetry.log_handler is None


def test_lines_that_are_refused_are_said_once(
    pipelines: Any, otlp: OtlpReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    """One line with the count and the reason, which is not sent after the others."""
    otlp.status = 401
    telemetry = pipelines({"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": otlp.url + "/v1/logs"})
    logging.getLogger("tracebaton.telemetry").addHandler(telemetry.log_handler)
    try:
        for event in ("a", "b"):
            telemetry.log_handler.handle(line(event))
        telemetry.force_flush(5)
        telemetry.shutdown(5)
    finally:
        logging.getLogger("tracebaton.telemetry").removeHandler(telemetry.log_handler)
    (said,) = caplog.records

    assert said.getMessage() == "telemetry.logs_lost"
    assert (vars(said)["fields"]["logs"], vars(said)["fields"]["destination"]) == (2, "otlp")
    assert "401" in vars(said)["fields"]["reason"]
    assert [record.body.string_value for _, record in otlp.logs()] == ["a", "b"]


def test_a_stop_does_not_wait_for_an_endpoint_that_hangs(
    pipelines: Any, otlp: OtlpReceiver
) -> None:
    """Lines that nobody takes cost no stop its deadline."""
    otlp.hangs = True
    telemetry = pipelines({"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": otlp.url + "/v1/logs"})
    telemetry.log_handler.handle(line("x"))

    assert not telemetry.shutdown(0.3).complete

"""What becomes of spans, lines and metrics when their OTLP endpoint fails, on real sockets."""

import logging
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from otlp_receiver import OtlpReceiver, otlp_receiver

from tracebaton.metrics import MessagingMetrics
from tracebaton.telemetry.connections import Connections
from tracebaton.telemetry.otlp import QUEUE_SIZE

pytestmark = pytest.mark.backends


def span(telemetry: Any) -> None:
    telemetry.tracer.start_span("x").end()


def line(telemetry: Any) -> None:
    telemetry.log_handler.handle(logging.makeLogRecord({"msg": "x", "levelno": 20}))


def point(telemetry: Any) -> None:
    MessagingMetrics(telemetry.meter_provider).sent("jobs", None)


#: What makes one of each signal, and the one variable that names its endpoint.
SIGNALS: dict[str, tuple[Callable[[Any], None], str]] = {
    "spans": (span, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
    "logs": (line, "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"),
    "metrics": (point, "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"),
}


@pytest.fixture(params=SIGNALS)
def signal(request: pytest.FixtureRequest) -> str:
    """Return one of the three signals."""
    name: str = request.param
    return name


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the SDK give a batch up after 2 s in place of 10."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")


def lost(caplog: pytest.LogCaptureFixture, signal: str) -> list[dict[str, Any]]:
    """Return the lines about losses; there is no other line."""
    assert {record.getMessage() for record in caplog.records} <= {f"telemetry.{signal}_lost"}
    return [vars(record)["fields"] for record in caplog.records]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 415, 501])
def test_a_refusal_for_good_is_not_repeated(
    pipelines: Any, otlp: OtlpReceiver, signal: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """One request, one loss, one line with the status."""
    otlp.status = status
    make, variable = SIGNALS[signal]
    telemetry = pipelines({variable: otlp.url})
    make(telemetry)
    telemetry.force_flush(5)
    (said,) = lost(caplog, signal)

    assert (len(otlp.requests), said["destination"], said[signal]) == (1, "otlp", 1)
    assert said["reason"].startswith(f"HTTP {status} ")


@pytest.mark.parametrize("status", [302, 307])
def test_a_redirect_is_no_arrival(
    pipelines: Any, otlp: OtlpReceiver, signal: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A login page in front of the collector takes nothing; the SDK would call it success."""
    otlp.first = [(status, {"Location": "/login"})]
    make, variable = SIGNALS[signal]
    telemetry = pipelines({variable: otlp.url})
    make(telemetry)
    telemetry.force_flush(5)

    assert [said["reason"][:8] for said in lost(caplog, signal)] == [f"HTTP {status}"]
    assert [path for path, _, _ in otlp.requests] == ["/"]


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_passing_refusal_is_repeated(
    pipelines: Any, otlp: OtlpReceiver, signal: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is lost and nothing said; the second try brings it."""
    otlp.first = [(status, {"Retry-After": "0"})]
    make, variable = SIGNALS[signal]
    telemetry = pipelines({variable: otlp.url})
    make(telemetry)

    assert telemetry.force_flush(10)
    assert len(otlp.requests) == 2
    assert lost(caplog, signal) == []


@pytest.mark.parametrize("as_date", [False, True])
def test_a_pause_is_kept(
    pipelines: Any, otlp: OtlpReceiver, monkeypatch: pytest.MonkeyPatch, *, as_date: bool
) -> None:
    """Retry-After in seconds or as a date, from the first batch's answer to its next try."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "8")
    moment = datetime.now(UTC) + timedelta(seconds=2)
    value = format_datetime(moment, usegmt=True) if as_date else "1"
    otlp.first = [(429, {"Retry-After": value})]
    telemetry = pipelines({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": otlp.url})
    span(telemetry)
    started = time.monotonic()

    assert telemetry.force_flush(10)
    assert time.monotonic() - started >= (0.5 if as_date else 0.9)
    assert (len(otlp.requests), telemetry.shutdown(5).spans_exported) == (2, 1)


def test_a_long_pause_is_kept_by_what_comes_after(
    pipelines: Any, otlp: OtlpReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    """The SDK gives the batch up and would post the next one at once; a stop ends the wait."""
    otlp.first = [(503, {"Retry-After": "3600"})]
    telemetry = pipelines({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": otlp.url})
    span(telemetry)
    telemetry.force_flush(5)
    for _ in range(20):
        span(telemetry)
    started = time.monotonic()
    report = telemetry.shutdown(0.5)

    assert time.monotonic() - started < 5
    assert (len(otlp.requests), report.spans_dropped, report.complete) == (1, 21, False)
    assert [(said["spans"], said["reason"]) for said in lost(caplog, "spans")] == [
        (1, "HTTP 503 Service Unavailable"),
        (20, "the process stopped"),
    ]


@pytest.mark.parametrize("value", ["", "soon", "-1", "٣", "1.5", "Thu, 32 Foo 2026"])
def test_a_pause_that_nobody_can_read_is_none(otlp: OtlpReceiver, value: str) -> None:
    """The next request goes out at once."""
    otlp.first = [(503, {"Retry-After": value.encode().decode("latin-1")})]
    session = Connections()
    started = time.monotonic()
    statuses = [session.post(otlp.url, data=b"").status_code for _ in range(2)]
    session.close()

    assert statuses == [503, 200]
    assert time.monotonic() - started < 5


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def rude() -> Iterator[Callable[[bytes], str]]:
    """Return a server that answers every connection with the bytes it is given, and closes it."""
    servers: list[socket.socket] = []

    def serve(answer: bytes) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65_536)
                    connection.sendall(answer)

        threading.Thread(target=accept, daemon=True).start()
        return f"http://127.0.0.1:{server.getsockname()[1]}"

    yield serve
    for server in servers:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


@pytest.mark.parametrize(
    "answer",
    [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"],
    ids=["closes", "is no HTTP", "breaks off"],
)
def test_a_server_that_speaks_nonsense_is_a_loss(
    pipelines: Any,
    rude: Callable[[bytes], str],
    signal: str,
    answer: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Counted and said with the connection's own words, within the time a batch has."""
    make, variable = SIGNALS[signal]
    telemetry = pipelines({variable: rude(answer)})
    make(telemetry)
    telemetry.force_flush(10)
    (said,) = lost(caplog, signal)

    assert said[signal] == 1
    assert said["reason"].split(":")[0] in {"ConnectionError", "ChunkedEncodingError"}


def test_a_refused_connection_costs_the_callers_nothing(
    pipelines: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """More spans than may wait are taken, none blocks, and every one is accounted for."""
    url = f"http://127.0.0.1:{free_port()}"
    telemetry = pipelines({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": url})
    made = QUEUE_SIZE + 2_000
    for _ in range(made):
        span(telemetry)
    report = telemetry.shutdown(0.3)
    said = lost(caplog, "spans")

    assert (report.spans_exported, report.spans_dropped, report.complete) == (0, made, False)
    assert sum(one["spans"] for one in said) == made
    assert len(said) == 2
    assert said[-1]["reason"] == "the process stopped"


def test_a_slow_endpoint_gets_everything(pipelines: Any, otlp: OtlpReceiver) -> None:
    """Whole batches wait for it and not the callers."""
    otlp.delay = 0.1
    telemetry = pipelines({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": otlp.url})
    for _ in range(1_500):
        span(telemetry)
    report = telemetry.shutdown(10)

    assert (report.spans_exported, report.spans_dropped, report.complete) == (1_500, 0, True)
    assert len(otlp.requests) <= 6


def test_log_lines_that_do_not_fit_the_queue_are_counted(
    pipelines: Any, otlp: OtlpReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    """The SDK's batch drops them and says so once, without the count."""
    otlp.hangs = True
    telemetry = pipelines({"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": otlp.url})
    made = QUEUE_SIZE + 1_000
    for _ in range(made):
        line(telemetry)
    telemetry.shutdown(0.2)
    said = lost(caplog, "logs")

    assert sum(one["logs"] for one in said) == made
    assert [one["reason"] for one in said] == ["the queue is full", "the process stopped"]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1 that nobody vouches for; return it and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    options = [
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    options += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        ["openssl", "req", *options, "-out", str(certificate), "-keyout", str(key)],
        check=True,
        capture_output=True,
        timeout=30,
    )
    return certificate, key


@pytest.mark.parametrize("trusted", [False, True])
def test_a_certificate_that_nobody_vouches_for_is_refused(
    pipelines: Any,
    certificate: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    trusted: bool,
) -> None:
    """Nothing is sent to it, and the line says why; OpenTelemetry's own variable makes it known."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)
    if trusted:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(certificate[0]))
    with otlp_receiver(tls=tls) as receiver:
        telemetry = pipelines({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": receiver.url + "/v1/traces"})
        span(telemetry)
        telemetry.force_flush(10)
        report = telemetry.shutdown(5)
        arrived = len(receiver.spans())
    reasons = [said["reason"] for said in lost(caplog, "spans")]

    assert (arrived, report.spans_exported, report.spans_dropped) == (trusted, trusted, not trusted)
    assert [("SSLError" in why, "certificate" in why.lower()) for why in reasons] == (
        [] if trusted else [(True, True)]
    )

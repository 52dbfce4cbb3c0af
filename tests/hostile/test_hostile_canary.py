"""A secret, under any name and in any shape we know, leaves the process by no way."""

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from hypothesis import strategies as st
from opentelemetry import trace
from otlp_receiver import OtlpReceiver, otlp_receiver
from sentry_receiver import SentryReceiver
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tracebaton.audit import audited
from tracebaton.errors import NotFound
from tracebaton.http.middleware import instrument
from tracebaton.logs import JsonFormatter
from tracebaton.settings import Settings
from tracebaton.telemetry import Telemetry, build

from .conftest import Cases

pytestmark = pytest.mark.filterwarnings(
    "ignore::hypothesis.errors.HypothesisWarning"  # exporters' threads use random while it draws
)

#: Every secret of this suite begins like this, so that one search finds any of them.
CANARY = "c4n4ry"
_SECRETS = st.text(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=8
).map(lambda rest: CANARY + rest[:40])
_NAMES = st.sampled_from(
    (
        "password",
        "user.password",
        "db_passwd",
        "clientSecret",
        "client-secret",
        "access_token",
        "refreshToken",
        "authorization",
        "Proxy-Authorization",
        "cookie",
        "set-cookie",
        "api_key",
        "apiKey",
        "x-api-key",
        "private_key",
        "credentials",
    )
)
_SHAPES = st.sampled_from(
    (
        "Bearer {}",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.{}",
        "sk-{}",
        "https://bob:{}@example.com/x",
        "postgresql://bob:{}@db:5432/x",
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----",
    )
)
#: Series of metrics: a meter keeps every one until the process ends.
_MOST_SERIES = 100
_FORMS = st.sampled_from(("{}={}", "{}: {}", '"{}": "{}"', "{} = '{}'"))


@dataclass(frozen=True)
class Leak:
    """One case: a secret, the name it stands under, and the ways it is put into words."""

    secret: str
    name: str
    shape: str
    form: str
    fails: bool

    @property
    def named(self) -> str:
        """The secret in free text, by its name."""
        return f"could not connect: {self.form.format(self.name, self.secret)}"

    @property
    def shaped(self) -> str:
        """The secret in free text, by its shape."""
        return f"sent {self.shape.format(self.secret)} to the other side"


#: Several secrets in one request: each is a case, the request is what costs.
leaks = st.lists(
    st.builds(Leak, secret=_SECRETS, name=_NAMES, shape=_SHAPES, form=_FORMS, fails=st.booleans()),
    min_size=20,
    max_size=20,
)


@audited
class Vault:
    """A service whose arguments and results are secrets."""

    def open(self, password: str, options: dict[str, str]) -> dict[str, str]:
        """Return what was given."""
        return {"token": password, **options}


class Process:
    """An instrumented app with every sink open."""

    def __init__(self, telemetry: Telemetry, sentry: SentryReceiver, otlp: OtlpReceiver) -> None:
        self._sentry = sentry
        self._otlp = otlp
        self._telemetry = telemetry
        self._runner = asyncio.Runner()
        self._leaks: list[Leak] = []
        self.out = io.StringIO()
        handler = logging.StreamHandler(self.out)
        handler.setFormatter(JsonFormatter(service="canary"))
        self._handlers = [handler, *filter(None, [telemetry.log_handler])]
        app = Starlette(routes=[Route("/{rest:path}", self._endpoint, methods=["POST"])])
        self._app = instrument(
            app,
            reporter=telemetry.reporter,
            tracer_provider=telemetry.tracer_provider,
            meter_provider=telemetry.meter_provider,
        )
        meter = telemetry.meter_provider.get_meter("vault")
        self._opened = meter.create_counter("vault.opened")
        self._took = meter.create_histogram("vault.took")
        self._series = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take every logger's lines in."""
        root = logging.getLogger()
        level = root.level
        root.setLevel(logging.INFO)
        for handler in self._handlers:
            root.addHandler(handler)
        try:
            yield
        finally:
            for handler in self._handlers:
                root.removeHandler(handler)
            root.setLevel(level)
            self._runner.close()

    async def _endpoint(self, request: Request) -> JSONResponse:
        span, log = trace.get_current_span(), logging.getLogger("vault")
        for number, leak in enumerate(self._leaks):
            span.set_attribute(f"app.{number}.{leak.name}", leak.secret)
            span.set_attribute(f"app.{number}.note", [leak.named, leak.shaped])
            span.add_event("opened", {leak.name: leak.secret, "text": leak.shaped})
            fields = {leak.name: leak.secret, "deep": {"x": leak.named}}
            log.info("opened", extra={"fields": fields})
            log.warning("%s and %s", leak.named, leak.shaped)
            Vault().open(leak.secret, {leak.name: leak.secret})
        last = self._leaks[-1]
        self._measure(last)
        if last.fails:
            raise ConnectionError(last.named) from ValueError(last.shaped)
        raise NotFound(f"{last.named}; {last.shaped}")

    def _measure(self, leak: Leak) -> None:
        self._series += 1
        if self._series <= _MOST_SERIES:
            attributes = {leak.name: leak.secret, "note": leak.named, "other": leak.shaped}
            self._opened.add(1, attributes)
            self._took.record(0.5, attributes)

    def tell(self, leaks: list[Leak]) -> int:
        """Send the secrets everywhere a caller and an application can put them."""
        self._leaks = leaks
        answer = self._runner.run(self._ask(leaks[-1]))

        assert answer.status_code == (500 if leaks[-1].fails else 404), answer.text
        assert CANARY not in answer.text
        return len(leaks)

    async def _ask(self, leak: Leak) -> httpx.Response:
        transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            return await http.post(
                "/open",
                params={leak.name: leak.secret},
                headers={"Authorization": f"Bearer {leak.secret}", "Cookie": f"s={leak.secret}"},
                json={leak.name: leak.secret},
            )

    def search(self) -> None:
        """Flush, look for the canary in every sink, and forget what was sent."""
        self._telemetry.force_flush(20)
        lines = self.out.getvalue()
        assert CANARY not in lines
        assert all(json.loads(line) for line in lines.splitlines())
        assert [path for path, _, body in self._otlp.requests if CANARY.encode() in body] == []
        assert CANARY not in str([(e.items, e) for e in self._sentry.envelopes])
        self.out.seek(0)
        self.out.truncate()
        self._otlp.requests.clear()
        self._sentry.clear()


@pytest.fixture
def process(sentry: SentryReceiver) -> Iterator[Process]:
    """The app of the suite."""
    with otlp_receiver() as otlp:
        base = otlp.url
        settings = Settings.load(
            {
                "SENTRY_DSN": sentry.dsn,
                "OTEL_EXPORTER_OTLP_ENDPOINT": base,
                "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": f"{base}/v1/logs",
            }
        )
        telemetry = build(settings, role="api", install=False)
        process = Process(telemetry, sentry, otlp)
        with process.listening():
            yield process
        telemetry.shutdown(5)


def test_no_sink_ever_gets_a_secret(cases: Cases, process: Process) -> None:
    """Headers, query, body, attributes, events, logs, metrics, exceptions, arguments, crumbs."""
    cases.explore("canary", leaks, process.tell, between=process.search)


def test_every_sink_was_searched(process: Process, sentry: SentryReceiver) -> None:
    """The sinks get the very request that the secret was masked in."""
    process.tell([Leak(CANARY + "x" * 10, "password", "Bearer {}", "{}={}", fails=True)])
    process._telemetry.force_flush(20)

    paths = {path for path, _, _ in process._otlp.requests}
    kinds: dict[str, Any] = {"events": sentry.events(), "transactions": sentry.transactions()}
    assert {"/v1/traces", "/v1/logs", "/v1/metrics"} <= paths
    assert {"vault.opened", "vault.took"} <= process._otlp.metrics().keys()
    assert all(kinds.values())
    assert "[redacted]" in process.out.getvalue()

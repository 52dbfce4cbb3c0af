"""Each client library that TRACEBATON_INSTRUMENT can switch on, calling what really answers."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import boto3
import httpx
import psycopg
import pytest
import redis
import requests
import sqlalchemy
import urllib3
from botocore.config import Config
from botocore.exceptions import ClientError
from neighbour import Neighbour, running_neighbour
from opentelemetry import propagate
from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor
from opentelemetry.instrumentation.botocore import BotocoreInstrumentor
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.instrumentation.urllib3 import URLLib3Instrumentor
from otlp_receiver import OtlpReceiver
from redis_server import redis_server

from backends import missing
from tracebaton.context import RequestStore, entered
from tracebaton.telemetry.clients import Clients

pytestmark = pytest.mark.backends

CANARY = "c4n4ry-51e0d2"
TOLD = {"traceparent", "tracestate", "baggage", "sentry-trace", "x-amzn-trace-id"}

_INSTRUMENTORS = {
    "asyncpg": AsyncPGInstrumentor,
    "botocore": BotocoreInstrumentor,
    "httpx": HTTPXClientInstrumentor,
    "psycopg": PsycopgInstrumentor,
    "redis": RedisInstrumentor,
    "requests": RequestsInstrumentor,
    "sqlalchemy": SQLAlchemyInstrumentor,
    "urllib3": URLLib3Instrumentor,
}


@contextmanager
def instrumented(telemetry: Any, *names: str) -> Iterator[None]:
    """Switch the instrumentations on inside a request of user u-1, and off afterwards."""
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(telemetry.propagator)
    Clients(names).instrument(
        telemetry.tracer_provider, telemetry.meter_provider, telemetry.propagator
    )
    try:
        with (
            entered(RequestStore(correlation_id="c-1", user_id="u-1")),
            telemetry.tracer.start_as_current_span("work"),
        ):
            yield
    finally:
        for name in names:
            _INSTRUMENTORS[name]().uninstrument()
        propagate.set_global_textmap(before)


def rows(otlp: OtlpReceiver) -> list[tuple[str, str, str | None]]:
    """Return name, op and the parent's name of each span but the request's own."""
    spans = otlp.spans()
    names = {span.span_id: span.name for span in spans}
    return [
        (span.name, said(span)["sentry.op"], names.get(span.parent_span_id))
        for span in spans
        if span.name != "work"
    ]


def said(span: Any) -> dict[str, str]:
    return {item.key: item.value.string_value for item in span.attributes}


def test_redis(pipelines: Any, otlp: OtlpReceiver) -> None:
    """One span a command, named by it, without what was stored."""
    telemetry = pipelines({"OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url})
    with redis_server() as port, instrumented(telemetry, "redis"):
        client = redis.Redis(host="127.0.0.1", port=port, protocol=2)
        client.set("session", CANARY)
        assert client.get("session") == CANARY.encode()
        client.close()
    telemetry.shutdown(5)

    assert [row for row in rows(otlp) if row[0] in ("SET", "GET")] == [
        ("SET", "db", "work"),
        ("GET", "db", "work"),
    ]
    assert {said(span)["tracebaton.correlation_id"] for span in otlp.spans()} == {"c-1"}
    assert CANARY.encode() not in b"".join(body for _, _, body in otlp.requests)


def test_sqlalchemy(pipelines: Any, otlp: OtlpReceiver, tmp_path: Path) -> None:
    """One span a statement with its text; bound values stay out, and a secret that is no value."""
    telemetry = pipelines({"OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url})
    with instrumented(telemetry, "sqlalchemy"):
        engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/shop.db")
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("CREATE TABLE users (name TEXT, password TEXT)"))
            connection.execute(
                sqlalchemy.text("INSERT INTO users VALUES (:n, :p)"), {"n": "ann", "p": CANARY}
            )
            connection.execute(sqlalchemy.text(f"SELECT 1 FROM users WHERE password='{CANARY}'"))
        engine.dispose()
    telemetry.shutdown(5)
    found = [row for row in rows(otlp) if row[0] != "connect"]
    texts = [said(span).get("db.statement", "") for span in otlp.spans()]

    assert [(name.split()[0], op, parent) for name, op, parent in found] == [
        ("CREATE", "db", "work"),
        ("INSERT", "db", "work"),
        ("SELECT", "db", "work"),
    ]
    assert "INSERT INTO users VALUES (?, ?)" in texts
    assert CANARY.encode() not in b"".join(body for _, _, body in otlp.requests)


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """Run a PostgreSQL of this machine, on a socket of its own; yield the socket's folder."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        missing("no PostgreSQL server: apt-get install postgresql")
    binaries = found[-1].parent
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
    # Not below pytest's own folder: each session that starts takes it from other users again.
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        if user is not None:
            shutil.chown(folder, user)
        options: dict[str, Any] = {"user": user, "cwd": folder, "stdout": subprocess.DEVNULL}
        initdb = [f"{binaries}/initdb", "-D", "data", "-U", "shop", "--no-sync", "-A", "trust"]
        subprocess.run(initdb, check=True, timeout=60, **options)
        command = [f"{binaries}/postgres", "-D", "data", "-k", folder, "-h", "", "-F"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, **options) as process:
            socket, deadline = Path(folder) / ".s.PGSQL.5432", time.monotonic() + 30
            while not socket.exists():
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)  # a poll of another process, bounded by the deadline
            yield folder
            process.terminate()


async def test_asyncpg(pipelines: Any, otlp: OtlpReceiver, postgres: str) -> None:
    """One span a query, the failed one with its error; arguments stay out."""
    telemetry = pipelines({"OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url})
    with instrumented(telemetry, "asyncpg"):
        connection = await asyncpg.connect(host=postgres, user="shop", database="postgres")
        assert await connection.fetchval("SELECT $1::text", CANARY) == CANARY
        with pytest.raises(asyncpg.UndefinedTableError):
            await connection.execute("SELECT * FROM nothing")
        await connection.close()
    telemetry.shutdown(5)

    found = [row for row in rows(otlp) if row[0].startswith("SELECT")]
    failed = [span.status.code for span in otlp.spans() if span.name == "SELECT"]

    assert found == [("SELECT", "db", "work")] * 2
    assert sorted(failed) == [0, 2]
    assert CANARY.encode() not in b"".join(body for _, _, body in otlp.requests)


def test_psycopg(pipelines: Any, otlp: OtlpReceiver, postgres: str) -> None:
    """The same for psycopg, whose cursors run the queries."""
    telemetry = pipelines({"OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url})
    with instrumented(telemetry, "psycopg"):
        connection = psycopg.connect(host=postgres, user="shop", dbname="postgres")
        assert connection.execute("SELECT %s::text", (CANARY,)).fetchone() == (CANARY,)
        with pytest.raises(psycopg.errors.UndefinedTable):
            connection.execute("SELECT * FROM nothing")
        connection.close()
    telemetry.shutdown(5)

    found = [row for row in rows(otlp) if row[0].startswith("SELECT")]
    failed = [span.status.code for span in otlp.spans() if span.name == "SELECT"]

    assert found == [("SELECT", "db", "work")] * 2
    assert sorted(failed) == [0, 2]
    assert CANARY.encode() not in b"".join(body for _, _, body in otlp.requests)


@pytest.fixture
def host() -> Iterator[Neighbour]:
    """Run a server that refuses, and notes what it is told."""
    with running_neighbour(status=400) as neighbour:
        yield neighbour


def _dynamodb(url: str) -> None:
    client = boto3.client(
        "dynamodb",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="x",
        aws_secret_access_key="x",
        config=Config(retries={"total_max_attempts": 1}),
    )
    with suppress(ClientError):
        client.list_tables()
    client.close()


CALLS: dict[str, Callable[[str], Any]] = {
    "httpx": lambda url: httpx.post(url),
    "requests": lambda url: requests.post(url, timeout=5),
    "urllib3": lambda url: urllib3.request("POST", url),
    "botocore": _dynamodb,
}


@pytest.mark.parametrize("name", CALLS)
def test_only_listed_hosts_learn_of_the_trace(pipelines: Any, host: Neighbour, name: str) -> None:
    """Neither traceparent nor X-Ray's header nor baggage leaves for another one."""
    telemetry = pipelines(
        {
            "TRACEBATON_PROPAGATE_TRACE_TO": "localhost",
            "TRACEBATON_PROPAGATE_BAGGAGE_TO": "localhost",
        }
    )
    with instrumented(telemetry, name):
        for to in ("localhost", "127.0.0.1"):
            CALLS[name](host.url(to))

    listed = {"x-amzn-trace-id"} if name == "botocore" else {"traceparent", "baggage"}
    told = [(to, set(headers)) for to, headers in host.told(TOLD)]
    assert told == [("localhost", listed), ("127.0.0.1", set())]


@pytest.mark.parametrize("name", CALLS)
def test_by_default_the_trace_goes_everywhere_and_baggage_nowhere(
    pipelines: Any, host: Neighbour, name: str
) -> None:
    """SPEC: traceparent to every host, the request store to none."""
    with instrumented(pipelines({}), name):
        CALLS[name](host.url("localhost"))

    trace = {"x-amzn-trace-id"} if name == "botocore" else {"traceparent"}
    assert [(to, set(headers)) for to, headers in host.told(TOLD)] == [("localhost", trace)]

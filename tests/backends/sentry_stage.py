"""
The tests' shop as two real processes, API and worker, with a stand-in for Sentry at their end.

The application is ``tests/telemetry/sentry_shop.py``.
"""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from command import Command, running
from sentry_receiver import SentryReceiver, sentry_receiver
from stage import Broker, create_queues

from tracebaton.local import LocalSqs

#: Where the application is.
HERE = Path(__file__).parents[1] / "telemetry"


@dataclass
class Shop:
    """Both processes, the client of one, and what Sentry has of them."""

    sentry: SentryReceiver
    http: httpx.Client
    api: Command
    worker: Command
    broker: Broker

    def ask(self, method: str, path: str, **options: Any) -> "Asked":
        """Send a request in a trace of its own."""
        trace_id = secrets.token_hex(16)
        headers = {"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01"}
        headers |= options.pop("headers", {})
        return Asked(
            self.sentry, trace_id, self.http.request(method, path, headers=headers, **options)
        )

    def settle(self) -> None:
        """Send one more request and wait for it: what was sent before it has arrived."""
        self.ask("POST", "/v1/shop/jobs/last").transactions(1)


@dataclass
class Asked:
    """A request that was answered, and what Sentry has of its trace."""

    sentry: SentryReceiver
    trace_id: str
    answer: httpx.Response

    def transactions(self, count: int) -> list[dict[str, Any]]:
        """Wait for as many transactions and return all there are, by their start."""
        return sorted(self._found("transaction", count), key=lambda e: str(e["start_timestamp"]))

    def events(self, count: int = 1) -> list[dict[str, Any]]:
        """Wait for as many events and return all there are."""
        return self._found("event", count)

    def _found(self, kind: str, count: int) -> list[dict[str, Any]]:
        def found(sentry: SentryReceiver) -> list[dict[str, Any]]:
            return [e for e in sentry.items(kind) if ids_of(e)[0] == self.trace_id]

        self.sentry.wait_for(lambda sentry: len(found(sentry)) >= count)
        return found(self.sentry)


def ids_of(event: dict[str, Any]) -> tuple[str, str]:
    """Return the trace and span id of an event or a transaction."""
    trace = event["contexts"]["trace"]
    return trace["trace_id"], trace["span_id"]


@contextmanager
def shop_of(
    folder: Path,
    env: Mapping[str, str] | None = None,
    *,
    api: Mapping[str, str] | None = None,
    worker: Mapping[str, str] | None = None,
) -> Iterator[Shop]:
    """Run both for the length of a block with *env*, and each with its own on top."""
    with sentry_receiver() as sentry, LocalSqs.in_thread() as sqs:
        create_queues(sqs)
        broker = Broker(sqs, folder)
        shared = broker.env | {"NO_PROXY": "*", "SENTRY_DSN": sentry.dsn} | dict(env or {})
        both = [shared | dict(own or {}) for own in (api, worker)]
        with (
            running("api", "sentry_shop:app", "--port", "0", env=both[0], cwd=HERE) as served,
            running("worker", "sentry_shop:app", env=both[1], cwd=HERE) as works,
            httpx.Client(base_url=served.ready()["api"], timeout=30) as http,
        ):
            works.ready()
            yield Shop(sentry, http, served, works, broker)
            assert (served.stop(), works.stop()) == (0, 0)

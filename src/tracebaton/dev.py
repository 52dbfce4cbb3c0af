"""
``tracebaton dev``: API and worker as two real processes, with an SQS and a viewer beside them.

What runs here is what runs in production: the same two commands over the same wire. This process
holds the loopback SQS and the viewer, and stops API, worker, viewer and SQS in that order.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tracebaton.children import Child, Out, start
from tracebaton.errors import ConfigurationError, TracebatonError
from tracebaton.garbage import spare
from tracebaton.local import LocalSqs
from tracebaton.processes import Announce, on_signals, serving
from tracebaton.settings import Settings, child_environment
from tracebaton.viewer.app import create_viewer
from tracebaton.viewer.spans import SpanStore

__all__ = ["DevOptions", "run_dev", "run_viewer"]

QUEUE, DLQ, QUARANTINE = "tasks", "tasks-dlq", "tasks-quarantine"
#: Seconds a child process may take until it is up.
_START_SECONDS = 30.0
#: Seconds beyond the drain time until a child that does not end is killed.
_STOP_SECONDS = 12.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DevOptions:
    """
    What the command line says.

    Attributes:
        port: The API's port, None for the usual one or else any free one; likewise the others.
        viewer: Whether to serve the viewer.
    """

    app: str
    host: str = "127.0.0.1"
    port: int | None = None
    sqs_port: int | None = None
    viewer_port: int | None = None
    data: Path = Path(".tracebaton")
    viewer: bool = True


#: The ports people find first, taken where they are free and none was asked for.
_USUAL = {"api": 8000, "viewer": 8001, "sqs": 9324}


async def run_dev(
    options: DevOptions,
    *,
    announce: Announce,
    pretty: bool,
    out: BinaryIO,
    fail: Callable[[str, int], None],
) -> None:
    """
    Run everything until a signal comes or a child ends by itself.

    Args:
        announce: Gets the ``dev.ready`` event once all is up.
        pretty: Children log for people.
        out: Where the children's lines go.
        fail: Told the name and exit code of a child that ended by itself.
    """
    settings = Settings.load()
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        on_signals(stop.set)
        sqs = await stack.enter_async_context(_sqs(options))
        _create_queues(sqs, settings)
        viewer = None
        if options.viewer:
            viewer_port = _port("127.0.0.1", options.viewer_port, "viewer")
            viewer = await stack.enter_async_context(_served(options.data, viewer_port))
        places = _places(sqs, options.data, viewer)
        style = {
            "TRACEBATON_STOP_WITH_STDIN": "1",
            "TRACEBATON_LOG_FORMAT": settings.log_format or ("pretty" if pretty else "json"),
        }
        environment = child_environment(places | style)
        port = _port(options.host, options.port, "api")
        # The exit stack runs backwards: worker first here, so that the API stops first.
        lines = Out(out)
        worker = await _start(stack, "worker", options, 0, environment, lines, settings)
        api = await _start(stack, "api", options, port, environment, lines, settings)
        ready = await _up(api, worker, stop, fail)
        if ready is None:
            return
        stack.enter_context(_told(options.data, {**places, "TRACEBATON_API_URL": ready["api"]}))
        announce(_said(ready, sqs, viewer))
        await _until_over(api, worker, stop, fail)


def _places(sqs: LocalSqs, data: Path, viewer: str | None) -> dict[str, str | None]:
    """Return the variables that say where everything is."""
    return {
        "AWS_ENDPOINT_URL_SQS": sqs.url,
        "TRACEBATON_QUEUE_URL": sqs.queue_url(QUEUE),
        "TRACEBATON_DLQ_URL": sqs.queue_url(DLQ),
        "TRACEBATON_QUARANTINE_URL": sqs.queue_url(QUARANTINE),
        "TRACEBATON_DATA": str(data),
        "TRACEBATON_VIEWER_URL": viewer,
    }


def _said(ready: Mapping[str, Any], sqs: LocalSqs, viewer: str | None) -> dict[str, Any]:
    """Return the ready event of all, out of the API's."""
    return {
        "event": "dev.ready",
        "api": ready["api"],
        "sqs": sqs.url,
        "queue_url": sqs.queue_url(QUEUE),
        "dlq_url": sqs.queue_url(DLQ),
        "store": ready["store"],
        "viewer": viewer,
    }


async def run_viewer(*, port: int, data: Path, announce: Announce) -> None:
    """
    Serve the trace viewer alone until a signal comes.

    Args:
        port: 0 for any free one.
        data: Folder of the traces, shared with ``dev``, which has to be down meanwhile.

    Raises:
        ConfigurationError: The port cannot be used.
    """
    stop = asyncio.Event()
    on_signals(stop.set)
    async with _served(data, port) as url:
        announce({"event": "viewer.ready", "viewer": url, "otlp": url})
        await stop.wait()


@contextmanager
def _told(data: Path, places: Mapping[str, str | None]) -> Iterator[None]:
    """Leave word for commands that ask nothing but what runs here: `doctor`, `dlq`, `send`."""
    path = data / "dev.json"
    data.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(places), encoding="utf-8")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


@asynccontextmanager
async def _sqs(options: DevOptions) -> AsyncIterator[LocalSqs]:
    port = _port("127.0.0.1", options.sqs_port, "sqs")
    try:
        async with LocalSqs(port=port) as sqs:
            yield sqs
    except OSError as exc:
        raise ConfigurationError(f"--sqs-port: {port} cannot be used: {exc}") from exc


def _create_queues(sqs: LocalSqs, settings: Settings) -> None:
    sqs.create_queue(DLQ, {"MessageRetentionPeriod": "1209600"})
    sqs.create_queue(QUARANTINE, {"MessageRetentionPeriod": "1209600"})
    policy = {
        "deadLetterTargetArn": f"arn:aws:sqs:us-east-1:000000000000:{DLQ}",
        "maxReceiveCount": str(settings.max_attempts),
    }
    sqs.create_queue(
        QUEUE,
        {
            "VisibilityTimeout": str(settings.visibility_seconds),
            "RedrivePolicy": json.dumps(policy),
        },
    )


def _span_store(data: Path) -> SpanStore:
    data.mkdir(parents=True, exist_ok=True)
    return SpanStore(data / "viewer.db")


@asynccontextmanager
async def _served(data: Path, port: int) -> AsyncIterator[str]:
    with _span_store(data) as store:
        async with serving(create_viewer(store), host="127.0.0.1", port=port) as (url, _):
            spare()  # a quarter of the intake's time went into collections
            yield url


def _port(host: str, asked: int | None, name: str) -> int:
    """Return the port asked for; where none was, the usual one if it is free, else any."""
    if asked is not None:
        return asked
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, _USUAL[name]))
        except OSError:
            return 0
    return _USUAL[name]


async def _start(
    stack: AsyncExitStack,
    name: str,
    options: DevOptions,
    port: int,
    environment: Mapping[str, str],
    out: Out,
    settings: Settings,
) -> Child:
    host = options.host if name == "api" else "127.0.0.1"
    arguments = (options.app, "--host", host, "--port", str(port))
    child = await start(name, arguments, environment=environment, out=out)
    stack.push_async_callback(child.stop, settings.drain_seconds + _STOP_SECONDS)
    return child


async def _up(
    api: Child, worker: Child, stop: asyncio.Event, fail: Callable[[str, int], None]
) -> Mapping[str, Any] | None:
    """Return the API's ready event once both are up, None if that will not happen."""
    stopped = asyncio.ensure_future(stop.wait())
    try:
        async with asyncio.timeout(_START_SECONDS):
            well = await _both_up(api, worker, stopped, fail)
    except TimeoutError as exc:
        raise TracebatonError(f"API or worker was not up after {_START_SECONDS:.0f} s.") from exc
    finally:
        stopped.cancel()
    return api.ready.result() if well else None


async def _both_up(
    api: Child,
    worker: Child,
    stopped: "asyncio.Future[Any]",
    fail: Callable[[str, int], None],
) -> bool:
    while waiting := [child.ready for child in (api, worker) if not child.ready.done()]:
        await asyncio.wait({*waiting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if stopped.done() or _failed(api, worker, fail):
            return False
    return True


def _failed(api: Child, worker: Child, fail: Callable[[str, int], None]) -> bool:
    for child in (api, worker):
        if child.ready.done() and child.ready.result() is None:
            fail(child.name, child.process.returncode or 0)
            return True
    return False


async def _until_over(
    api: Child, worker: Child, stop: asyncio.Event, fail: Callable[[str, int], None]
) -> None:
    ends = {asyncio.ensure_future(child.wait()): child for child in (api, worker)}
    stopped = asyncio.ensure_future(stop.wait())
    waiting: set[asyncio.Future[Any]] = {*ends, stopped}
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for end, child in ends.items():
        if end.done() and not stop.is_set():
            fail(child.name, end.result())
        end.cancel()
    stopped.cancel()

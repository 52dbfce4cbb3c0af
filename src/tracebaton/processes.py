"""
The processes the command runs: an API, a worker, and ``dev``, which is both with all they need.

Each says that it is up by calling *announce* with its ready event, runs until SIGTERM or SIGINT,
and returns when everything is drained and flushed.
"""

import asyncio
import importlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import uvicorn

from tracebaton.application import Tracebaton
from tracebaton.errors import ConfigurationError, TracebatonError
from tracebaton.garbage import spare
from tracebaton.http.app import create_health_app, end_streams
from tracebaton.http.connections import HEADER_BYTES, PatientProtocol
from tracebaton.runtime import WorkerService
from tracebaton.semconv import EVENT_WORKER_DRAINED

__all__ = [
    "Announce",
    "load_app",
    "on_signals",
    "run_api",
    "run_worker",
    "serving",
    "stop_with_stdin",
]

_log = logging.getLogger("tracebaton")

Announce = Callable[[Mapping[str, Any]], None]


def load_app(target: str) -> Tracebaton:
    """
    Return the application at *target*, ``module:attribute``, looked up in the current folder first.

    Raises:
        ConfigurationError: There is no such module or attribute, or it is something else.
    """
    name, separator, attribute = target.partition(":")
    if not separator or not name or not attribute:
        raise ConfigurationError(f"APP: {target!r} is not of the form module:attribute")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not (name == exc.name or name.startswith(f"{exc.name}.")):
            raise  # the application's own import fails: its traceback says where
        raise ConfigurationError(f"APP: there is no module {name!r} here or on sys.path") from exc
    found: Any = module
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, Tracebaton):
        raise ConfigurationError(f"APP: {target!r} is not a Tracebaton application")
    return found


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: the process decides when and how it ends."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except SystemExit as exc:  # raised in a task it would end the loop, not the process
            raise TracebatonError("The application failed to start; the log says why.") from exc


@asynccontextmanager
async def serving(
    app: Any, *, host: str, port: int, drain_seconds: float = 5.0
) -> AsyncIterator[tuple[str, uvicorn.Server]]:
    """
    Serve *app* and yield its URL; leaving the block finishes what is under way.

    Raises:
        ConfigurationError: The address cannot be bound.
    """
    listener = _listen(host, port)
    config = uvicorn.Config(
        app,
        http=PatientProtocol,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # the application believes those it is told to, and no others
        # Without it a pipelined request runs in the context of the one before (uvicorn#3158).
        reset_contextvars=True,
        h11_max_incomplete_event_size=HEADER_BYTES,
        timeout_graceful_shutdown=max(1, round(drain_seconds)),
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            if task.done():
                await task
                raise TracebatonError("The application failed to start; the log says why.")
            await asyncio.sleep(0.01)
        yield _url(listener), server
    finally:
        server.should_exit = True
        with suppress(TracebatonError):  # it failed to start, which was raised above
            await task
        listener.close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio lets a connection send at once only where its socket names TCP. Otherwise the body of
    # an answer waits until the caller confirms its head, which many do after 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, UnicodeError) as exc:  # a name with a part of over 63 characters is no text
        listener.close()
        raise ConfigurationError(f"--host/--port: {host}:{port} cannot be used: {exc}") from exc
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def on_signals(stop: Callable[[], None]) -> None:
    """Call *stop* at every SIGTERM and SIGINT of this process."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)


#: Seconds beyond the drain time until a process whose parent is gone is killed by itself.
_ORPHAN_SECONDS = 15.0


def stop_with_stdin(seconds: float) -> None:
    """
    End this process, gently, when its standard input closes: its parent is gone.

    After *seconds* less gently: an event loop that is blocked sees no signal, and nobody is left
    who would kill it.
    """

    def watch() -> None:
        with suppress(OSError, ValueError):
            while os.read(sys.stdin.fileno(), 4096):
                pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="tracebaton-parent", daemon=True).start()


async def run_api(app: Tracebaton, *, host: str, port: int, announce: Announce) -> None:
    """Serve the API until a signal comes."""
    runtime = app.runtime("api")
    runtime.configure_logging()
    _refuse_open_door(app, host)
    _ = runtime.authenticator  # a bad key file is a configuration error and no failed start
    if runtime.settings.stop_with_stdin:
        stop_with_stdin(runtime.settings.drain_seconds + _ORPHAN_SECONDS)
    stop = asyncio.Event()
    on_signals(stop.set)
    drain = runtime.settings.drain_seconds
    async with serving(app.asgi, host=host, port=port, drain_seconds=drain) as (url, server):
        announce({"event": "api.ready", "api": url, "store": runtime.settings.store_url})
        while not stop.is_set() and not server.should_exit:
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 1)
        end_streams(app.asgi)  # or the server would wait for them until its deadline


def _refuse_open_door(app: Tracebaton, host: str) -> None:
    if app.settings.auth == "none" and host not in {"127.0.0.1", "localhost", "::1"}:
        raise ConfigurationError(
            f"TRACEBATON_AUTH: is none, which serves loopback only, but --host is {host}"
        )


#: Seconds that a worker that is up waits with saying so for SQS's answer to its first receive.
_ANSWER_SECONDS = 2.0


async def _tell_when_ready(worker: WorkerService, tell: Callable[[], None]) -> None:
    """Call *tell* when ``/readyz`` says so too: whoever waits for the line asks that next."""
    until = time.monotonic() + _ANSWER_SECONDS
    while time.monotonic() < until:
        if all((await worker.ready()).values()):
            break
        await asyncio.sleep(0.01)
    if not worker.stopped:
        tell()


async def run_worker(app: Tracebaton, *, host: str, port: int, announce: Announce) -> None:
    """Run the worker, and its health port, until a signal comes and everything is drained."""
    runtime = app.runtime("worker")
    runtime.configure_logging()
    if runtime.settings.stop_with_stdin:
        stop_with_stdin(runtime.settings.drain_seconds + _ORPHAN_SECONDS)
    worker = app.worker()
    on_signals(worker.stop)
    exposition = runtime.telemetry.exposition
    if exposition is not None:
        _ = runtime.authenticator  # a bad key file is a configuration error and no failed scrape
    health = create_health_app(
        worker.ready,
        alive=worker.alive,
        started=worker.started,
        exposition=exposition,
        authenticator=lambda: runtime.authenticator,
    )
    async with serving(health, host=host, port=port) as (url, _):
        try:
            await worker.prepare()
            queue_url = None if worker.stopped else await runtime.queue.url()
            spare()
            said = {"event": "worker.ready", "health": url, "queue_url": queue_url}
            telling = asyncio.create_task(_tell_when_ready(worker, lambda: announce(said)))
            try:
                report = await worker.run()
            finally:
                telling.cancel()
        finally:
            flushed = await runtime.close()
    _log.info(
        EVENT_WORKER_DRAINED,
        extra={
            "fields": {
                "acked": report.acked,
                "released": report.released,
                "abandoned": report.abandoned,
                "spans_flushed": flushed.spans_exported,
                "spans_dropped": flushed.spans_dropped,
            }
        },
    )

"""
``tracebaton worker --processes N``: one parent, N workers, each with a core of its own.

The parent holds no message. It starts the workers, starts again what ends by itself, passes signals
on, and answers for all of them on one health port. When a worker is killed, its messages come back
by their visibility timeout and another worker takes its place. When the parent is killed, the stdin
of each worker closes, and it drains as after a SIGTERM.
"""

import asyncio
import logging
import random
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

import httpx

from tracebaton.children import Child, Out, start
from tracebaton.http.app import create_health_app
from tracebaton.http.auth import authenticator
from tracebaton.logs import configure_logging
from tracebaton.processes import Announce, on_signals, serving, stop_with_stdin
from tracebaton.semconv import EVENT_CHILD_ENDED, EVENT_CHILD_STARTED
from tracebaton.settings import Settings, child_environment

__all__ = ["CrewOptions", "run_crew"]

#: Seconds beyond the drain time until a worker that does not end is killed.
_STOP_SECONDS = 12.0
#: Bounds of the pause before a worker that ended by itself is started again, in seconds.
_BACKOFF_BASE, _BACKOFF_CAP = 0.5, 30.0
#: Seconds of work after which an end is no longer the last one's repetition.
_STEADY_SECONDS = 60.0
#: Seconds between two questions whether a worker is alive, and for its answer.
_PROBE_SECONDS = 10.0
#: Questions in a row without an answer until a worker that is stuck is killed.
_PROBES = 6

_log = logging.getLogger("tracebaton.crew")


@dataclass(frozen=True, slots=True, kw_only=True)
class CrewOptions:
    """
    What the command line says.

    Attributes:
        host: Where the health port is, and its number; 0 is any free one.
    """

    app: str
    processes: int
    host: str = "127.0.0.1"
    port: int = 0


async def run_crew(options: CrewOptions, *, announce: Announce, out: BinaryIO, pretty: bool) -> int:
    """
    Run the workers until a signal comes and return the exit code.

    The first worker starts alone: what is wrong with the settings or the application is said once.

    Args:
        announce: Gets the ``worker.ready`` event once every worker is up.
        out: Where the workers' lines go.
        pretty: Workers log for people.
    """
    settings = Settings.load()
    format_ = settings.log_format or ("pretty" if pretty else "json")
    service = settings.otel_service_name or "tracebaton-worker"
    configure_logging(service=service, level=settings.log_level, pretty=format_ == "pretty")
    if settings.stop_with_stdin:
        stop_with_stdin(settings.drain_seconds + _STOP_SECONDS)
    crew = _Crew(options, settings, out=Out(out), format_=format_)
    on_signals(crew.stop)
    known = authenticator(settings)
    health = create_health_app(crew.ready, scrape=crew.metrics, authenticator=lambda: known)
    async with serving(health, host=options.host, port=options.port) as (url, _):
        return await crew.run(announce, url)


class _Crew:
    def __init__(self, options: CrewOptions, settings: Settings, *, out: Out, format_: str) -> None:
        self._settings = settings
        self._format = format_
        self._stopping = asyncio.Event()
        self._places = [
            _Place(number, options.app, self._environment(number), out)
            for number in range(options.processes)
        ]

    def stop(self) -> None:
        """Pass a signal on: the first lets the workers drain, a second one give back at once."""
        self._stopping.set()
        for place in self._places:
            if place.child is not None:
                place.child.terminate()

    async def ready(self) -> Mapping[str, bool]:
        """Ask every worker whether it is ready, for ``/readyz``."""
        async with httpx.AsyncClient(timeout=2.0) as http:
            answers = await asyncio.gather(
                *(place.answers(http, "/readyz") for place in self._places)
            )
        return {f"worker-{number}": good for number, good in enumerate(answers)}

    async def metrics(self, credentials: Mapping[str, str]) -> Mapping[str, str]:
        """Return what each worker measured, for ``/metrics``; who does not say is left out."""
        headers = {**credentials, "accept": "text/plain"}
        async with httpx.AsyncClient(timeout=2.0, headers=headers) as http:
            texts = await asyncio.gather(*(place.measured(http) for place in self._places))
        named = zip(self._places, texts, strict=True)
        return {place.name: text for place, text in named if text is not None}

    async def run(self, announce: Announce, url: str) -> int:
        keepers = [self._keeper(self._places[0])]
        try:
            if await self._up(keepers):
                keepers += [self._keeper(place) for place in self._places[1:]]
                if await self._up(keepers):
                    announce(self._announcement(url))
                    await self._stopping.wait()
        finally:
            if not self._stopping.is_set():
                self.stop()
            await self._end(keepers)
        return keepers[0].result()

    def _keeper(self, place: "_Place") -> asyncio.Task[int]:
        return asyncio.create_task(place.keep(self._stopping), name=place.name)

    async def _up(self, keepers: list[asyncio.Task[int]]) -> bool:
        """Wait until every started worker is up; False if a stop or a failed start comes first."""
        ready = asyncio.gather(*(place.up.wait() for place in self._places[: len(keepers)]))
        stopped = asyncio.create_task(self._stopping.wait())
        waiting: set[asyncio.Future[Any]] = {ready, stopped, *keepers}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        up = ready.done() and not stopped.done()
        for future in (ready, stopped):
            future.cancel()
        return up

    async def _end(self, keepers: list[asyncio.Task[int]]) -> None:
        """Wait for the workers to drain, and kill what does not end."""
        seconds = self._settings.drain_seconds + _STOP_SECONDS
        _, late = await asyncio.wait(keepers, timeout=seconds)
        for place in self._places:
            if late and place.child is not None:
                _log.error("child.killed", extra={"fields": {"child": place.name}})
                place.child.kill()
        await asyncio.wait(keepers)

    def _announcement(self, url: str) -> Mapping[str, object]:
        said = self._places[0].said
        return {
            "event": "worker.ready",
            "health": url,
            "queue_url": said["queue_url"],
            "processes": len(self._places),
        }

    def _environment(self, number: int) -> Mapping[str, str]:
        return child_environment(
            {
                "TRACEBATON_STOP_WITH_STDIN": "1",
                "TRACEBATON_LOG_FORMAT": self._format,
                # One of them watches the DLQ; an empty variable is an unset one.
                "TRACEBATON_DLQ_URL": None if number == 0 else "",
            }
        )


class _Place:
    """The place of one worker, which is never empty for long."""

    def __init__(self, number: int, app: str, environment: Mapping[str, str], out: Out) -> None:
        self.number = number
        self.name = f"worker-{number}"
        self.child: Child | None = None
        #: Set once a worker of this place has been up.
        self.up = asyncio.Event()
        #: The ready event of the worker, empty while there is none.
        self.said: Mapping[str, str] = {}
        self._app = app
        self._environment = environment
        self._out = out
        self._failures = 0

    async def answers(self, http: httpx.AsyncClient, path: str) -> bool:
        """Tell whether the worker answers *path* with 200."""
        return await self._asked(http, path) is not None

    async def measured(self, http: httpx.AsyncClient) -> str | None:
        """Return what the worker measured, None where it does not say."""
        return await self._asked(http, "/metrics")

    async def _asked(self, http: httpx.AsyncClient, path: str) -> str | None:
        """Return what the worker answers with 200, None for every other answer."""
        if not self.said:
            return None
        try:
            answer = await http.get(self.said["health"] + path)
        except httpx.HTTPError:
            return None
        return answer.text if answer.status_code == httpx.codes.OK else None

    async def keep(self, stopping: asyncio.Event) -> int:
        """Run workers one after the other until *stopping*; return the code of one never up."""
        while not stopping.is_set():
            began = time.monotonic()
            code = await self._work(stopping)
            if stopping.is_set():
                break
            if not self.up.is_set() and self.number == 0:
                return 2 if code == 2 else 1
            steady = time.monotonic() - began >= _STEADY_SECONDS
            self._failures = 1 if steady else self._failures + 1
            ceiling = min(_BACKOFF_CAP, _BACKOFF_BASE * 2 ** min(self._failures - 1, 10))
            pause = random.uniform(ceiling / 2, ceiling)
            fields = {"child": self.name, "exit_code": code, "restart_in_seconds": round(pause, 2)}
            _log.error(EVENT_CHILD_ENDED, extra={"fields": fields})
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), pause)
        return 0

    async def _work(self, stopping: asyncio.Event) -> int:
        arguments = (self._app, "--host", "127.0.0.1", "--port", "0")
        child = await start("worker", arguments, environment=self._environment, out=self._out)
        self.child = child
        if stopping.is_set():  # the signal came while it was made
            child.terminate()
        fields = {"child": self.name, "pid": child.process.pid}
        _log.info(EVENT_CHILD_STARTED, extra={"fields": fields})
        watching = asyncio.create_task(self._watch(child))
        try:
            return await child.wait()
        finally:
            self.said, self.child = {}, None
            watching.cancel()

    async def _watch(self, child: Child) -> None:
        """Take note when the worker is up, and kill it when its event loop is stuck."""
        self.said = dict(await child.ready or {})
        if not self.said:
            return
        self.up.set()
        silent = 0
        async with httpx.AsyncClient(timeout=_PROBE_SECONDS) as http:
            while silent < _PROBES:
                await asyncio.sleep(_PROBE_SECONDS)
                silent = 0 if await self.answers(http, "/livez") else silent + 1
        _log.error("child.stuck", extra={"fields": {"child": self.name}})
        child.kill()

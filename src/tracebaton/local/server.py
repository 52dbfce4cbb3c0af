"""The local SQS as a server on loopback."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self, TypeVar

import uuid_utils

from tracebaton.local.broker import ACCOUNT, Broker
from tracebaton.local.call import Reply
from tracebaton.local.clock import Clock, ManualClock, SystemClock
from tracebaton.local.faults import Faults
from tracebaton.local.http1 import Connection, Exchange, Request, Response
from tracebaton.local.loopback import loopback, stranger
from tracebaton.local.pages import is_page, page
from tracebaton.local.wire import ACTIONS, Wire

__all__ = ["LocalSqs", "LocalSqsThread", "SqsExchange"]

#: Seconds that connections get at the end to send what was written.
_CLOSE_SECONDS: Final = 0.5

Result = TypeVar("Result")


class LocalSqs:
    """
    An SQS in memory, for this machine only.

        async with LocalSqs() as sqs:
            url = sqs.create_queue("tasks", {"VisibilityTimeout": "60"})
            client = boto3.client("sqs", endpoint_url=sqs.url)

    ``GET /stats`` says for each queue what happened to its messages, ``/faults`` is what *faults*
    is for other processes.

    Attributes:
        faults: What goes wrong, by wish: ``sqs.faults.add(Fault(effect="reset", first=3))``.

    Args:
        host: A loopback address; any other is refused with ``ValueError``.
        port: 0 takes any free one.
        clock: A ``ManualClock`` moves by ``advance()`` only, for waits too.
    """

    def __init__(
        self, host: str = "127.0.0.1", port: int = 0, *, clock: Clock | None = None
    ) -> None:
        self._host = loopback(host)
        self._port = port
        self._clock = clock or SystemClock()
        self.broker: Broker = Broker(self._clock)
        self.faults: Faults = Faults(ACTIONS)
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due: float | None = None
        self._drained = asyncio.Event()

    @property
    def url(self) -> str:
        """Return the endpoint URL."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    def queue_url(self, name: str) -> str:
        """Return the URL of the queue called *name*, whether it exists or not."""
        return f"{self.url}/{ACCOUNT}/{name}"

    def create_queue(self, name: str, attributes: Mapping[str, str] | None = None) -> str:
        """Make a queue as CreateQueue does and return its URL."""
        self.broker.create(name, attributes or {})
        return self.queue_url(name)

    def stats(self) -> dict[str, dict[str, int]]:
        """Return for each queue what happened to its messages and where they are."""
        return {
            name: {**counted, "faults": self.faults.injected(name)}
            for name, counted in self.broker.stats().items()
        }

    def advance(self, seconds: float) -> None:
        """Move the ``ManualClock`` and do what is due by then."""
        if not isinstance(self._clock, ManualClock):
            raise TypeError("Only a ManualClock can be moved: pass one as clock.")
        self._clock.advance(seconds)
        self._ring()

    async def start(self) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), self._host, self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        self._wire = Wire(self.broker, self.url, self.faults)

    async def close(self) -> None:
        """Answer every parked poll with nothing, close the connections and stop listening."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        self.broker.close()
        self._set_timer()
        for connection in list(self._connections):
            connection.shut()
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                while self._connections:
                    self._drained.clear()
                    await self._drained.wait()
        except TimeoutError:
            for connection in list(self._connections):
                connection.abort()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @classmethod
    @contextmanager
    def in_thread(
        cls, host: str = "127.0.0.1", port: int = 0, *, clock: Clock | None = None
    ) -> Iterator["LocalSqsThread"]:
        """Run one in a thread of its own, for code that has no event loop."""
        sqs = cls(host, port, clock=clock)
        started: Future[asyncio.AbstractEventLoop] = Future()
        stop = asyncio.Event()
        thread = threading.Thread(
            target=lambda: asyncio.run(_serve(sqs, started, stop)), name="tracebaton-local-sqs"
        )
        thread.start()
        try:
            loop = started.result()
            try:
                yield LocalSqsThread(sqs, loop)
            finally:
                loop.call_soon_threadsafe(stop.set)
        finally:
            thread.join()

    def opened(self, connection: Connection) -> None:
        """Take note of a new connection."""
        self._connections.add(connection)

    def closed(self, connection: Connection) -> None:
        """Take note that a connection is gone."""
        self._connections.discard(connection)
        self._drained.set()

    def check(self, headers: Mapping[str, str]) -> Response | None:
        """Refuse what a web page of elsewhere could send: DNS rebinding, a foreign origin."""
        reason = stranger(headers)
        return Response.of_json(403, {"message": reason}) if reason is not None else None

    def handle(self, request: Request, exchange: Exchange) -> Callable[[], None] | None:
        """Answer an SQS request, or one for a page."""
        if is_page(request):
            exchange.respond(page(request, self.faults, self.stats))
            return None
        target = request.headers.get("x-amz-target")
        cancel = self._wire.call(target, request.body, SqsExchange(exchange))
        self._set_timer()
        return cancel

    def _ring(self) -> None:
        self.broker.tick()
        self._set_timer()

    def _set_timer(self) -> None:
        due = self.broker.due() if self._server is not None else None
        if due == self._timer_due and due is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_due = None, due
        if due is not None:
            wait = max(0.0, due - self._clock.monotonic())
            self._timer = asyncio.get_running_loop().call_later(wait, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = self._timer_due = None
        self._ring()


class LocalSqsThread:
    """A ``LocalSqs`` that runs in another thread; the same methods, callable from this one."""

    def __init__(self, sqs: LocalSqs, loop: asyncio.AbstractEventLoop) -> None:
        self._sqs = sqs
        self._loop = loop

    @property
    def url(self) -> str:
        """Return the endpoint URL."""
        return self._sqs.url

    @property
    def faults(self) -> Faults:
        """Return what goes wrong, by wish."""
        return self._sqs.faults

    def queue_url(self, name: str) -> str:
        """Return the URL of the queue called *name*, whether it exists or not."""
        return self._sqs.queue_url(name)

    def create_queue(self, name: str, attributes: Mapping[str, str] | None = None) -> str:
        """Make a queue as CreateQueue does and return its URL."""
        return self._call(lambda: self._sqs.create_queue(name, attributes))

    def stats(self) -> dict[str, dict[str, int]]:
        """Return for each queue what happened to its messages and where they are."""
        return self._call(self._sqs.stats)

    def advance(self, seconds: float) -> None:
        """Move the ``ManualClock`` and do what is due by then."""
        self._call(lambda: self._sqs.advance(seconds))

    def _call(self, work: Callable[[], Result]) -> Result:
        done: Future[Result] = Future()

        def run() -> None:
            try:
                done.set_result(work())
            except Exception as exc:  # handed to the caller's thread
                done.set_exception(exc)

        self._loop.call_soon_threadsafe(run)
        return done.result()


class SqsExchange:
    """The answer of the wire, dressed as HTTP."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def alive(self) -> bool:
        return self._exchange.alive()

    def reply(self, reply: Reply) -> None:
        headers = {
            "Content-Type": "application/x-amz-json-1.0",
            "x-amzn-RequestId": str(uuid_utils.uuid4()),
        }
        if reply.error is not None:
            headers["x-amzn-query-error"] = reply.error
        self._exchange.respond(Response(reply.status, reply.body, headers))

    def reset(self) -> None:
        self._exchange.reset()


async def _serve(
    sqs: LocalSqs, started: "Future[asyncio.AbstractEventLoop]", stop: asyncio.Event
) -> None:
    try:
        await sqs.start()
    except OSError as exc:
        started.set_exception(exc)
        return
    started.set_result(asyncio.get_running_loop())
    await stop.wait()
    await sqs.close()

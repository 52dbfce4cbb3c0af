"""
A fault proxy: it stands in front of any SQS and lets calls go wrong on their way.

    async with LocalSqs() as sqs, FaultProxy(sqs.url) as proxy:
        proxy.faults.add(Fault(effect="reset", action="DeleteMessageBatch", after=True, every=7))

A client whose endpoint is ``proxy.url`` meets what networks and SQS do: latency, errors, throttles,
resets, answers that never come or come after their effect, batches that fail in part, messages that
arrive twice or out of order, receipt handles that are worth nothing. The faults are those of the
local SQS; here they also befall an emulator that cannot be told to misbehave.
"""

import asyncio
import json
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from random import Random
from types import TracebackType
from typing import Any, Self

import httpx

from tracebaton.local.call import Reply
from tracebaton.local.faults import Faults
from tracebaton.local.http1 import Exchange, Request
from tracebaton.local.server import SqsExchange
from tracebaton.local.strike import Strike
from tracebaton.local.struck import Cancel, StruckExchange
from tracebaton.testing.listening import Listening

__all__ = ["FaultProxy"]

#: Every action that a worker or a producer calls.
_ACTIONS = frozenset(
    {
        "ChangeMessageVisibility",
        "ChangeMessageVisibilityBatch",
        "DeleteMessage",
        "DeleteMessageBatch",
        "GetQueueAttributes",
        "GetQueueUrl",
        "PurgeQueue",
        "ReceiveMessage",
        "SendMessage",
        "SendMessageBatch",
    }
)
#: What belongs to the client's connection and not to the request.
_HOP = frozenset({"host", "connection", "content-length", "expect", "accept-encoding"})
#: Repeated or late messages that wait for a receive; the oldest go first.
_KEPT = 1000


class FaultProxy(Listening):
    """
    An SQS endpoint on loopback that passes calls on to another one.

    Attributes:
        faults: What goes wrong, by wish; `Faults.clear()` ends the storm.
        calls: How many calls of each action came.
    """

    def __init__(self, upstream: str, *, port: int = 0, seed: int = 0) -> None:
        """
        Set where calls go.

        Args:
            upstream: URL of the SQS behind.
            port: Where to listen, 0 for any free port.
            seed: Decides the order of what is reordered.
        """
        super().__init__(port=port)
        self.faults: Faults = Faults(_ACTIONS)
        self.calls: Counter[str] = Counter()
        self._upstream = upstream.rstrip("/")
        self._order = Random(seed)
        self._again: dict[str, deque[dict[str, Any]]] = defaultdict(lambda: deque(maxlen=_KEPT))
        self._calls: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Return the endpoint for clients."""
        return f"http://127.0.0.1:{self._port}"

    def queue_url(self, name: str, *, account: str = "000000000000") -> str:
        """Return the URL of the queue called *name*, as a client of the proxy uses it."""
        return f"{self.url}/{account}/{name}"

    async def __aenter__(self) -> Self:
        """Listen."""
        self._http = httpx.AsyncClient(
            base_url=self._upstream,
            timeout=None,
            trust_env=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        )
        return await super().__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close every connection and give up every call."""
        await super().__aexit__(kind, exc, traceback)
        for call in list(self._calls):
            call.cancel()
        if self._calls:
            await asyncio.wait(set(self._calls))
        await self._http.aclose()

    def handle(self, request: Request, exchange: Exchange) -> Callable[[], None] | None:
        """Pass *request* on, or let a fault have it."""
        action = request.headers.get("x-amz-target", "").rpartition(".")[2]
        self.calls[action] += 1
        document = _document(request.body)
        strike = self.faults.strike(action, document)
        answering = SqsExchange(exchange)
        if strike is None:
            return self._perform(request, action, document, None, answering.reply)
        struck = StruckExchange(answering, strike, _later)
        return struck.start(lambda: self._perform(request, action, document, strike, struck.reply))

    def _perform(
        self,
        request: Request,
        action: str,
        document: dict[str, Any],
        strike: Strike | None,
        reply: Callable[[Reply], None],
    ) -> Cancel | None:
        call = asyncio.create_task(self._call(request, action, document, strike, reply))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        # A receive whose client is gone must not fetch messages for nobody. What else is on its way
        # has its effect all the same, as on a network.
        return _forget(call) if action == "ReceiveMessage" else None

    async def _call(
        self,
        request: Request,
        action: str,
        document: dict[str, Any],
        strike: Strike | None,
        reply: Callable[[Reply], None],
    ) -> None:
        if action == "ReceiveMessage":
            reply(await self._receive(request, document, strike))
        elif action.endswith("Batch") and strike is not None:
            reply(await self._batch(request, document, strike))
        else:
            reply(await self._forward(request, request.body))

    async def _forward(self, request: Request, body: bytes) -> Reply:
        headers = {name: value for name, value in request.headers.items() if name not in _HOP}
        try:
            answer = await self._http.request(
                request.method, request.path, content=body, headers=headers
            )
        except httpx.HTTPError as exc:
            text = {"__type": "com.amazonaws.sqs#ServiceUnavailable", "message": str(exc)}
            return Reply(503, json.dumps(text).encode(), "ServiceUnavailable;Receiver")
        return Reply(answer.status_code, answer.content, answer.headers.get("x-amzn-query-error"))

    async def _receive(
        self, request: Request, document: dict[str, Any], strike: Strike | None
    ) -> Reply:
        queue = str(document.get("QueueUrl", "")).rpartition("/")[2]
        room = int(document.get("MaxNumberOfMessages", 1))
        waiting = self._again[queue]
        early = [waiting.popleft() for _ in range(min(room, len(waiting)))]
        if early:
            return _received(early)
        reply = await self._forward(request, request.body)
        messages = _document(reply.body).get("Messages")
        if strike is None or reply.status != 200 or not messages or queue.endswith(".fifo"):
            return reply
        return _received(self._befallen(messages, strike, waiting))

    def _befallen(
        self, messages: list[dict[str, Any]], strike: Strike, waiting: deque[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Return what of *messages* arrives now; the rest waits for another receive."""
        waiting += [_once_more(message) for message in messages if strike.struck("duplicate")]
        if strike.struck("reorder"):
            self._order.shuffle(messages)
            late = len(messages) // 2
            waiting += messages[:late]
            messages = messages[late:]
        for message in messages:
            if strike.struck("lose_handle"):
                message["ReceiptHandle"] = f"lost-{uuid.uuid4()}"
        return messages

    async def _batch(self, request: Request, document: dict[str, Any], strike: Strike) -> Reply:
        """Pass on the entries that no fault befalls; those that fail *after* have their effect."""
        entries = document.get("Entries", [])
        faults = {str(entry.get("Id")): strike.failure() for entry in entries}
        failed = {key: fault for key, fault in faults.items() if fault is not None}
        gone = {key for key, fault in failed.items() if not fault.after}
        passed = [entry for entry in entries if str(entry.get("Id")) not in gone]
        answer: dict[str, Any] = {"Successful": [], "Failed": []}
        if passed:
            body = json.dumps({**document, "Entries": passed}).encode()
            reply = await self._forward(request, body)
            if reply.status != 200 or not failed:
                return reply
            answer |= _document(reply.body)
        answer["Successful"] = [one for one in answer["Successful"] if one["Id"] not in failed]
        known = {one["Id"] for one in answer["Failed"]}
        answer["Failed"] += [fault.failed(key) for key, fault in failed.items() if key not in known]
        return Reply(200, json.dumps(answer).encode())


def _later(seconds: float, work: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(seconds, work)


def _document(body: bytes) -> dict[str, Any]:
    with suppress(ValueError):
        document = json.loads(body)
        if isinstance(document, dict):
            return document
    return {}


def _received(messages: list[dict[str, Any]]) -> Reply:
    return Reply(200, json.dumps({"Messages": messages}).encode())


def _once_more(message: dict[str, Any]) -> dict[str, Any]:
    """Return *message* as SQS hands it out a second time: counted, under the same handle."""
    attributes = dict(message.get("Attributes", {}))
    if "ApproximateReceiveCount" in attributes:
        attributes["ApproximateReceiveCount"] = str(int(attributes["ApproximateReceiveCount"]) + 1)
    return {**message, "Attributes": attributes}


def _forget(call: asyncio.Task[None]) -> Cancel:
    def forget() -> None:
        call.cancel()

    return forget

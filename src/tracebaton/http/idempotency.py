"""
``Idempotency-Key``: what a client sends twice, because it does not know better, happens once.

The key belongs to a user and a route. Its first request takes it in the task store before anything
is done, and the first task it saves is bound to the key in the same transaction. So a second
request is told to wait, gets the first one's answer, or, if the first one died in between, the
answer that it would have got. (draft-ietf-httpapi-idempotency-key-header)
"""

import asyncio
import hashlib
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final
from uuid import uuid4

from opentelemetry import trace
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive

from tracebaton.context import current
from tracebaton.errors import (
    IdempotencyKeyReused,
    RequestError,
    RequestInProgress,
    TracebatonError,
)
from tracebaton.http.body import read_bytes
from tracebaton.semconv import EVENT_TASK_STORE_FAILED, IDEMPOTENCY_REPLAYED
from tracebaton.tasks import Claim, Claimed, Task, TaskStore
from tracebaton.tasks.claiming import claiming

__all__ = ["HEADER", "KEPT_SECONDS", "SAFE", "once"]

HEADER: Final = "idempotency-key"
#: Seconds an answer is kept (SPEC 8).
KEPT_SECONDS: Final = 86_400.0
#: Seconds after which a request that says nothing any more has died; it says so every third of it.
LEASE_SECONDS: Final = 30.0
#: Bytes of an answer that is kept. A 202 has a few hundred.
_LIMIT: Final = 64 * 1024
#: Methods whose repetition does the same by themselves.
SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})
#: The draft's quoted string, or what most clients send: the same without quotes.
_KEY: Final = re.compile(r'"(?P<quoted>[ -!#-~]{1,255})"|(?P<bare>[!#-~][ -~]{0,254})')

_log = logging.getLogger("tracebaton.http")

Handle = Callable[[Request], Awaitable[Response]]


async def once(
    request: Request,
    handle: Handle,
    *,
    store: TaskStore | None,
    lost: Callable[[Task], Response],
) -> Response:
    """
    Return what *handle* answers, or what it answered the first time.

    Answers that are errors are not kept: they did nothing.

    Args:
        lost: Returns what the first request would have answered with its task.

    Raises:
        RequestInProgress: The first request is being handled.
        IdempotencyKeyReused: It had another body.
        RequestError: The key is none, or nothing is kept here.
    """
    key = _key_of(request)
    if key is None:
        return await handle(request)
    if store is None:
        raise RequestError("This service keeps no tasks, so it cannot honour an Idempotency-Key.")
    raw = await read_bytes(request)
    claim = Claim(_scope_of(request), key, uuid4().hex)
    now = time.time()
    claimed = await store.claim(
        claim,
        fingerprint=_fingerprint(raw),
        lease_until=now + LEASE_SECONDS,
        expires_at=now + KEPT_SECONDS,
    )
    if claimed.outcome == "won":
        again = Request(request.scope, _replaying(raw, request.receive))
        return await _first(again, handle, store=store, claim=claim)
    return await _later(claimed, store=store, lost=lost)


async def _first(request: Request, handle: Handle, *, store: TaskStore, claim: Claim) -> Response:
    renewing = asyncio.create_task(_renew(store, claim))
    kept = None
    try:
        with claiming(claim):
            response = await handle(request)
        kept = _kept(response)
        return response
    finally:
        renewing.cancel()
        end = store.settle_claim(claim, response=kept) if kept else store.release_claim(claim)
        # Whatever becomes of this request, the next one has to know.
        await asyncio.shield(_written(end))


async def _later(
    claimed: Claimed, *, store: TaskStore, lost: Callable[[Task], Response]
) -> Response:
    if claimed.outcome == "differs":
        raise IdempotencyKeyReused
    if claimed.outcome == "busy":
        raise RequestInProgress(retry_after=1)
    if claimed.response is not None:
        response = _restored(claimed.response)
    else:
        task = await store.get(claimed.task_id or "")
        if task is None:
            raise RequestInProgress(retry_after=1)
        response = lost(task)
    response.headers["idempotency-replayed"] = "true"
    trace.get_current_span().set_attribute(IDEMPOTENCY_REPLAYED, True)
    return response


def _key_of(request: Request) -> str | None:
    if request.method in SAFE:
        return None
    values = set(request.headers.getlist(HEADER))
    if not values:
        return None
    found = _KEY.fullmatch(values.pop().strip()) if len(values) == 1 else None
    if found is None:
        raise RequestError("The Idempotency-Key has to be one of 1 to 255 visible characters.")
    return found["quoted"] or found["bare"]


def _scope_of(request: Request) -> str:
    """Return user and route as one text of a length that every store takes as a key."""
    who = json.dumps([current().user_id, request.method, request.url.path])
    return hashlib.sha256(who.encode()).hexdigest()


def _fingerprint(raw: bytes) -> str:
    """Return what tells two bodies apart: white space and the order of keys do not."""
    with suppress(ValueError, RecursionError):
        raw = json.dumps(json.loads(raw), sort_keys=True).encode()
    return hashlib.sha256(raw).hexdigest()


def _replaying(raw: bytes, receive: Receive) -> Receive:
    """Return a *receive* that brings the body which was read already."""
    waiting: list[Message] = [{"type": "http.request", "body": raw, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


async def _renew(store: TaskStore, claim: Claim) -> None:
    while True:
        await asyncio.sleep(LEASE_SECONDS / 3)
        await _written(store.renew_claim(claim, lease_until=time.time() + LEASE_SECONDS))


async def _written(write: Coroutine[Any, Any, None]) -> None:
    """Await a write; the request it belongs to has its answer whatever becomes of it."""
    try:
        await write
    except TracebatonError as exc:
        fields = {"code": exc.code, "reason": str(exc.__cause__ or exc)}
        _log.warning(EVENT_TASK_STORE_FAILED, extra={"fields": fields})


def _kept(response: Response) -> str | None:
    """Return *response* as text, None where it is an error, a stream or no text."""
    raw = getattr(response, "body", None)
    if response.status_code >= 400 or not isinstance(raw, bytes) or len(raw) > _LIMIT:
        return None
    with suppress(UnicodeDecodeError):
        headers = {
            name: value
            for name, value in response.headers.items()
            if name not in ("content-length", "set-cookie")
        }
        return json.dumps(
            {"status": response.status_code, "headers": headers, "body": raw.decode()}
        )
    return None


def _restored(text: str) -> Response:
    kept: dict[str, Any] = json.loads(text)
    return Response(kept["body"], status_code=kept["status"], headers=kept["headers"])

"""
The ``before-call`` handler of one client.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

from botocore import xform_name

from tracebaton.queue.fastpath.answers import Http
from tracebaton.queue.fastpath.attempts import Answer, Call, Outcome, Route
from tracebaton.queue.fastpath.clock import Clock
from tracebaton.queue.fastpath.http1 import Reply
from tracebaton.queue.fastpath.plain import PREPARING, foreign_handlers, obstacles
from tracebaton.queue.fastpath.signing import Signer
from tracebaton.queue.fastpath.targets import Targets

__all__ = ["OPERATIONS", "FastPath", "Prepared"]

#: The calls that are made for every few messages.
OPERATIONS = (
    "SendMessage",
    "SendMessageBatch",
    "ReceiveMessage",
    "DeleteMessage",
    "DeleteMessageBatch",
    "ChangeMessageVisibility",
    "ChangeMessageVisibilityBatch",
)
#: What an endpoint may say of the signature; where it says more, botocore signs.
_KNOWN = frozenset({"region", "signing_name", "disableDoubleEncoding"})

_log = logging.getLogger("tracebaton.sqs")

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Prepared:
    """What botocore makes of a call and is the same for all calls of its operation."""

    route: Route
    model: Any
    context: Any
    headers: Mapping[str, str]
    event: str


class FastPath:
    """Answers the hot calls of one client."""

    def __init__(self, client: Any, *, now: Callable[[], float] = time.time) -> None:
        """Prepare for *client*, which is plain."""
        self._events = client.meta.events
        self._clock = Clock(now)
        self._targets = Targets(client)
        self._signers: dict[tuple[str, str], Signer] = {}
        #: For the thread that makes a call: the first attempt that was made elsewhere, with its
        #: invocation id; or what to do with the call in place of making it.
        self._here = threading.local()

    @classmethod
    def install(cls, client: Any, *, now: Callable[[], float] = time.time) -> Self | None:
        """Answer the hot calls of *client* from now on; None, with a log line, if not plain."""
        reason = next(obstacles(client, OPERATIONS), None)
        if reason is not None:
            _log.info("sqs.fast_path_off", extra={"fields": {"reason": reason}})
            return None
        path = cls(client, now=now)
        service = client.meta.service_model.service_id.hyphenize()
        for operation in OPERATIONS:
            # The last to be asked: whoever else answers calls goes first.
            client.meta.events.register_last(f"before-call.{service}.{operation}", path.answer)
        return path

    def close(self) -> None:
        """Close the idle connections."""
        self._targets.close()

    def route(self, params: Any, context: Any, *, authority: Any) -> Route | None:
        """Return the way of a call that botocore has prepared, None where it is botocore's own."""
        target = self._targets.of(params["url"])
        chosen = context.get("signing") or {}
        if (
            target is None
            or authority.signature_version != "v4"
            or context.get("auth_type") not in {None, "v4"}
            or not chosen.keys() <= _KNOWN
        ):
            return None
        region = chosen.get("region") or authority.region_name
        service = chosen.get("signing_name") or authority.signing_name
        signer = self._signers.get((region, service))
        if signer is None:
            signer = self._signers[(region, service)] = Signer(region=region, service=service)
        return Route(target, signer, self._clock, authority)

    def answer(
        self, *, model: Any, params: Any, request_signer: Any, context: Any, **_: Any
    ) -> Answer | None:
        """
        Return what boto3 would of the call, None to let botocore make it.

        Raises:
            BotoCoreError: Whatever botocore would raise.
        """
        route = self.route(params, context, authority=request_signer)
        prepare = getattr(self._here, "prepare", None)
        if prepare is not None:
            if route is not None:
                prepare(Prepared(route, model, context, params["headers"], ""))
            return Http(params["url"], Reply(200, {})), {}
        if route is None:
            return None
        begun = getattr(self._here, "begun", None)
        if begun is not None:
            context["retries"] = {"invocation-id": begun[0]}
        call = Call(route, self._events, model=model, params=params, context=context)
        return call.run(None if begun is None else begun[1])

    def resumed(self, call: Callable[[], Result], begun: tuple[str, Outcome]) -> Result:
        """Make a *call* of the client that was *begun* elsewhere: invocation id and outcome."""
        self._here.begun = begun
        try:
            return call()
        finally:
            self._here.begun = None

    def prepared(self, client: Any, operation: str, request: Mapping[str, Any]) -> Prepared | None:
        """Return what botocore makes of a call, None where it has to make each one itself."""
        if next(foreign_handlers(client, PREPARING, operation), None) is not None:
            return None
        found: list[Prepared] = []
        self._here.prepare = found.append
        try:
            getattr(client, xform_name(operation))(**request)
        finally:
            self._here.prepare = None
        service = client.meta.service_model.service_id.hyphenize()
        event = f"after-call.{service}.{operation}"
        return replace(found[0], event=event) if found else None

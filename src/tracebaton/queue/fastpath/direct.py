"""
The hot calls on the event loop: no thread, and nothing prepared twice.

botocore prepares the first call of an operation; its endpoint, headers and signer serve the later
ones, whose bodies are JSON of the very arguments. What answers 200 at the first attempt is done
here. Everything else, refusals, throttling, lost connections, is handed on with what it brought to
boto3 in a thread, which goes on from there by its own rules.
"""

import base64
import json
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from botocore import xform_name
from botocore.exceptions import BotoCoreError

from tracebaton.queue.fastpath.answers import Http, parsed
from tracebaton.queue.fastpath.attempts import Answer, Outcome, Route
from tracebaton.queue.fastpath.calls import OPERATIONS, FastPath, Prepared
from tracebaton.queue.fastpath.exchanges import Cut
from tracebaton.queue.fastpath.signing import Keys
from tracebaton.queue.threads import DaemonThreads

__all__ = ["Direct"]

#: Seconds that credentials are used before botocore is asked again; it renews them ten minutes and
#: more before they end.
_KEYS_SECONDS = 30.0


class Direct:
    """Makes the hot calls of one client, whose fast path is *path*, on the loop."""

    def __init__(
        self,
        client: Any,
        path: FastPath,
        threads: DaemonThreads,
        *,
        quietly: Callable[[Callable[[], Any]], Any] = lambda call: call(),
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Set whose calls.

        Args:
            threads: Where boto3 works on what is not done at the first attempt.
            quietly: Calls boto3 there.
        """
        self._client = client
        self._path = path
        self._threads = threads
        self._quietly = quietly
        self._now = now
        self._prepared: dict[str, Prepared | None] = {}
        self._keys: tuple[float, Keys] | None = None
        self._closed = False

    async def call(
        self, operation: str, request: Mapping[str, Any], *, cut: Cut | None = None
    ) -> dict[str, Any]:
        """
        Return what boto3 would of the call.

        Args:
            cut: Ends it while it is on the loop; boto3's own tries go on.

        Raises:
            ClientError: SQS refused it.
            BotoCoreError: It could not be made.
        """
        if operation not in self._prepared and operation in OPERATIONS:
            self._prepared[operation] = self._quietly(
                lambda: self._path.prepared(self._client, operation, request)
            )
        prepared = self._prepared.get(operation)
        if prepared is None:
            return await self._by_boto3(operation, request)
        keys = await self._credentials(prepared.route)
        invocation = str(uuid.uuid4())
        outcome = await self._attempt(prepared, request, keys=keys, invocation=invocation, cut=cut)
        answer, failure = outcome
        if answer is not None and answer[0].status_code == 200:
            self._tell(prepared, answer)
            return answer[1]
        if failure is not None and (self._closed or (cut is not None and cut.made)):
            raise failure
        return await self._by_boto3(operation, request, (invocation, outcome))

    def close(self) -> None:
        """End the calls under way."""
        self._closed = True
        self._path.close()

    async def _attempt(
        self,
        prepared: Prepared,
        request: Mapping[str, Any],
        *,
        keys: Keys,
        invocation: str,
        cut: Cut | None,
    ) -> Outcome:
        counted = {"amz-sdk-invocation-id": invocation, "amz-sdk-request": "attempt=1"}
        body = json.dumps(request, default=_binary).encode()
        target = prepared.route.target
        try:
            written = prepared.route.written({**prepared.headers, **counted}, body, keys)
            reply = await target.exchanges.exchange(written, cut=cut)
        except BotoCoreError as exc:
            return None, exc
        return (Http(target.url, reply), parsed(reply, prepared.model)), None

    def _tell(self, prepared: Prepared, answer: Answer) -> None:
        """Let botocore's handlers hear of the success; one refills its quota of retries."""
        answer[1]["ResponseMetadata"]["RetryAttempts"] = 0
        self._client.meta.events.emit(
            prepared.event,
            http_response=answer[0],
            parsed=answer[1],
            model=prepared.model,
            context=dict(prepared.context),
        )

    async def _credentials(self, route: Route) -> Keys:
        """Return botocore's credentials; renewing them may ask a server, so a thread does it."""
        now = self._now()
        if self._keys is None or now - self._keys[0] > _KEYS_SECONDS:
            self._keys = (now, await self._threads.run(route.keys))
        return self._keys[1]

    async def _by_boto3(
        self,
        operation: str,
        request: Mapping[str, Any],
        begun: tuple[str, Outcome] | None = None,
    ) -> dict[str, Any]:
        method = getattr(self._client, xform_name(operation))

        def call() -> dict[str, Any]:
            if begun is None:
                return method(**request)  # type: ignore[no-any-return]
            return self._path.resumed(lambda: method(**request), begun)

        answer: dict[str, Any] = await self._threads.run(lambda: self._quietly(call))
        return answer


def _binary(value: object) -> str:
    """Return a binary attribute's value as the JSON protocol has it."""
    if not isinstance(value, bytes | bytearray):
        raise TypeError(f"A {type(value).__name__} is nothing that SQS takes.")
    return base64.b64encode(value).decode()

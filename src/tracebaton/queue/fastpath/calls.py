"""
The ``before-call`` handler: one hot call from botocore's request to botocore's answer.
"""

import logging
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from botocore.exceptions import BotoCoreError, HTTPClientError, NoCredentialsError
from botocore.hooks import first_non_none_response

from tracebaton.queue.fastpath.answers import Http, parsed
from tracebaton.queue.fastpath.clock import Clock
from tracebaton.queue.fastpath.plain import obstacles
from tracebaton.queue.fastpath.signing import Keys, Signer
from tracebaton.queue.fastpath.targets import Target, Targets

__all__ = ["OPERATIONS", "FastPath"]

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

#: An answer as botocore's handlers take it, and as boto3 returns it.
_Answer = tuple[Http, dict[str, Any]]


class FastPath:
    """Answers the hot calls of one client."""

    def __init__(self, client: Any, *, now: Callable[[], float] = time.time) -> None:
        """Prepare for *client*, which is plain."""
        self.events = client.meta.events
        self.clock = Clock(now)
        self._targets = Targets(client)
        self._signers: dict[tuple[str, str], Signer] = {}

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

    def answer(
        self, *, model: Any, params: Any, request_signer: Any, context: Any, **_: Any
    ) -> _Answer | None:
        """
        Return what boto3 would of the call, None to let botocore make it.

        Raises:
            BotoCoreError: Whatever botocore would raise.
        """
        target = self._targets.of(params["url"])
        chosen = context.get("signing") or {}
        if (
            target is None
            or request_signer.signature_version != "v4"
            or context.get("auth_type") not in {None, "v4"}
            or not chosen.keys() <= _KNOWN
        ):
            return None
        region = chosen.get("region") or request_signer.region_name
        service = chosen.get("signing_name") or request_signer.signing_name
        signer = self._signers.get((region, service))
        if signer is None:
            signer = self._signers[(region, service)] = Signer(region=region, service=service)
        call = _Call(self, target, signer, model=model, params=params, context=context)
        return call.run(lambda: _keys(request_signer.get_auth_instance(service, region, "v4")))


def _keys(auth: Any) -> Keys:
    credentials = auth.credentials
    if credentials is None:
        raise NoCredentialsError
    return Keys(credentials.access_key, credentials.secret_key, credentials.token)


@dataclass(slots=True)
class _Call:
    """One call: attempts until botocore's retry rules are content."""

    path: FastPath
    target: Target
    signer: Signer
    model: Any = field(kw_only=True)
    params: Any = field(kw_only=True)
    context: Any = field(kw_only=True)

    def run(self, keys: Callable[[], Keys]) -> _Answer:
        """Return the last attempt's answer, or raise its error; each has credentials anew."""
        attempt, skewed = 1, False
        while True:
            answer, failure = self._attempt(keys(), attempt)
            if answer is not None and answer[0].status_code == 200:
                break
            if answer is not None and not skewed and self._was_skewed(answer):
                skewed = True
                continue
            delay = self._pause(attempt, answer, failure)
            if delay is None:
                break
            time.sleep(delay)
            attempt += 1
        if answer is None:
            raise failure or AssertionError
        answer[1].setdefault("ResponseMetadata", {})["RetryAttempts"] = attempt - 1
        return answer

    def _attempt(self, keys: Keys, attempt: int) -> tuple[_Answer | None, BotoCoreError | None]:
        try:
            reply = self.target.connections.exchange(
                self._request(keys, attempt), read_timeout=self.context.get("read_timeout")
            )
        except BotoCoreError as exc:
            return None, exc
        return (Http(self.target.url, reply), parsed(reply, self.model)), None

    def _request(self, keys: Keys, attempt: int) -> bytes:
        body: bytes = self.params["body"]
        headers = {name.lower(): value for name, value in self.params["headers"].items()}
        headers |= self._counted(attempt)
        headers["host"] = self.target.host
        signed = self.signer.signed(
            headers, body, path=self.target.path, keys=keys, now=self.path.clock.now()
        )
        lines = "".join(f"{name}: {value}\r\n" for name, value in signed.items())
        if lines.count("\n") != len(signed):  # a token that was read with its line end
            raise HTTPClientError(error=ValueError("The value of a header has a line break."))
        head = f"POST {self.target.path} HTTP/1.1\r\n{lines}content-length: {len(body)}\r\n\r\n"
        return head.encode() + body

    def _counted(self, attempt: int) -> Mapping[str, str]:
        """Return the headers that tell AWS which attempt of which call this is."""
        retries = self.context.setdefault("retries", {})
        retries["attempt"] = attempt
        if "invocation-id" not in retries:
            retries["invocation-id"] = str(uuid.uuid4())
        told = "; ".join(
            f"{name}={retries[name]}" for name in ("attempt", "max") if name in retries
        )
        return {"amz-sdk-invocation-id": retries["invocation-id"], "amz-sdk-request": told}

    def _was_skewed(self, answer: _Answer) -> bool:
        reply: Mapping[str, str] = answer[1].get("ResponseMetadata", {}).get("HTTPHeaders", {})
        return self.path.clock.learn(reply, answer[1].get("Error", {}).get("Code"))

    def _pause(
        self, attempt: int, answer: _Answer | None, failure: BotoCoreError | None
    ) -> float | None:
        """Ask botocore's retry rules, quota and all; None: no more attempts."""
        service = self.model.service_model.service_id.hyphenize()
        responses = self.path.events.emit(
            f"needs-retry.{service}.{self.model.name}",
            response=answer,
            endpoint=None,
            operation=self.model,
            attempts=attempt,
            caught_exception=failure,
            request_dict=self.params,
        )
        delay = first_non_none_response(responses)
        return None if delay is None or delay is False else float(delay)

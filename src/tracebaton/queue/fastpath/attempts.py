"""
One hot call, attempt by attempt, until botocore's retry rules are content.
"""

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import BotoCoreError, HTTPClientError, NoCredentialsError
from botocore.hooks import first_non_none_response

from tracebaton.queue.fastpath.answers import Http, parsed
from tracebaton.queue.fastpath.clock import Clock
from tracebaton.queue.fastpath.signing import Keys, Signer
from tracebaton.queue.fastpath.targets import Target

__all__ = ["Answer", "Call", "Outcome", "Route"]

#: An answer as botocore's handlers take it, and as boto3 returns it.
Answer = tuple[Http, dict[str, Any]]
#: What one attempt brought: an answer, or the error that it ended with.
Outcome = tuple[Answer | None, BotoCoreError | None]


@dataclass(frozen=True, slots=True)
class Route:
    """Where a call goes and who signs it: *authority* is botocore's ``RequestSigner``."""

    target: Target
    signer: Signer
    clock: Clock
    authority: Any

    def keys(self) -> Keys:
        """
        Return botocore's credentials as they are now, refreshed where that is due.

        Raises:
            NoCredentialsError: There are none.
        """
        auth = self.authority.get_auth_instance(self.signer.service, self.signer.region, "v4")
        credentials = auth.credentials
        if credentials is None:
            raise NoCredentialsError
        return Keys(credentials.access_key, credentials.secret_key, credentials.token)

    def written(self, headers: Mapping[str, str], body: bytes, keys: Keys) -> bytes:
        """
        Return the request, signed.

        Raises:
            HTTPClientError: The value of a header would end it.
        """
        given = {name.lower(): value for name, value in headers.items()}
        given["host"] = self.target.host
        signed = self.signer.signed(
            given, body, path=self.target.path, keys=keys, now=self.clock.now()
        )
        lines = "".join([f"{name}: {value}\r\n" for name, value in signed.items()])
        if lines.count("\n") != len(signed):  # a token that was read with its line end
            raise HTTPClientError(error=ValueError("The value of a header has a line break."))
        head = f"POST {self.target.path} HTTP/1.1\r\n{lines}content-length: {len(body)}\r\n\r\n"
        return head.encode() + body


@dataclass(slots=True)
class Call:
    """One call of *model*'s operation, with *params* and *context* as botocore made them."""

    route: Route
    events: Any
    model: Any = field(kw_only=True)
    params: Any = field(kw_only=True)
    context: Any = field(kw_only=True)

    def run(self, first: Outcome | None = None) -> Answer:
        """
        Return the last attempt's answer, or raise its error.

        Args:
            first: What the first attempt brought, if it was made elsewhere.
        """
        attempt, skewed = 1, False
        while True:
            answer, failure = first or self._attempt(attempt)
            first = None
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

    def _attempt(self, attempt: int) -> Outcome:
        headers = {**self.params["headers"], **self._counted(attempt)}
        request = self.route.written(headers, self.params["body"], self.route.keys())
        try:
            reply = self.route.target.connections.exchange(
                request, read_timeout=self.context.get("read_timeout")
            )
        except BotoCoreError as exc:
            return None, exc
        return (Http(self.route.target.url, reply), parsed(reply, self.model)), None

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

    def _was_skewed(self, answer: Answer) -> bool:
        headers: Mapping[str, str] = answer[1].get("ResponseMetadata", {}).get("HTTPHeaders", {})
        return self.route.clock.learn(headers, answer[1].get("Error", {}).get("Code"))

    def _pause(
        self, attempt: int, answer: Answer | None, failure: BotoCoreError | None
    ) -> float | None:
        """Ask botocore's retry rules, quota and all; None: no more attempts."""
        service = self.model.service_model.service_id.hyphenize()
        responses = self.events.emit(
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

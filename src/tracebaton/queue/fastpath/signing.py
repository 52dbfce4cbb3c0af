"""
Signature Version 4 of one kind of request: a POST without a query.

What is signed, and how, is what ``botocore.auth.SigV4Auth`` does; a test compares the two. It is
faster because nothing is looked up twice: a day's signing key is derived once, the date of a second
written once.
"""

import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

__all__ = ["Keys", "Signer"]

#: Headers that a hop on the way may touch, so that they are left out of the signature; botocore's
#: list, of which its serialiser and our handlers set the first two at most.
UNSIGNED = frozenset(
    {"user-agent", "x-amzn-trace-id", "baggage", "connection", "expect", "keep-alive"}
    | {"proxy-authenticate", "proxy-authorization", "te", "traceparent", "tracestate", "trailer"}
    | {"transfer-encoding", "upgrade"}
)


@dataclass(frozen=True, slots=True)
class Keys:
    """Frozen credentials."""

    access_key: str
    secret_key: str
    token: str | None


class Signer:
    """Signs requests to one service in one region."""

    def __init__(self, *, region: str, service: str) -> None:
        self.region = region
        self.service = service
        self._derived: tuple[tuple[str, str], bytes] = (("", ""), b"")
        self._written: tuple[int, str] = (-1, "")

    def signed(
        self, headers: Mapping[str, str], body: bytes, *, path: str, keys: Keys, now: float
    ) -> dict[str, str]:
        """
        Return *headers* with those that authenticate the request.

        Args:
            headers: By lower-case name, ``host`` among them.
            path: As it stands in the request line, quoted and normal.
            now: What the service takes for the present, in seconds since the epoch.
        """
        date = self._date(int(now))
        signed = dict(headers)
        signed["x-amz-date"] = date
        if keys.token is not None:
            signed["x-amz-security-token"] = keys.token
        names = sorted(signed.keys() - UNSIGNED)
        lines = "\n".join(f"{name}:{_trimmed(signed[name])}" for name in names)
        listed = ";".join(names)
        request = f"POST\n{path}\n\n{lines}\n\n{listed}\n{sha256(body).hexdigest()}"
        scope = f"{date[:8]}/{self.region}/{self.service}/aws4_request"
        digest = sha256(request.encode()).hexdigest()
        signature = hmac.digest(
            self._key(keys.secret_key, date[:8]),
            f"AWS4-HMAC-SHA256\n{date}\n{scope}\n{digest}".encode(),
            "sha256",
        ).hex()
        signed["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={keys.access_key}/{scope}, SignedHeaders={listed},"
            f" Signature={signature}"
        )
        return signed

    def _date(self, second: int) -> str:
        if self._written[0] != second:
            self._written = (second, time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second)))
        return self._written[1]

    def _key(self, secret: str, day: str) -> bytes:
        known, key = self._derived
        if known != (secret, day):
            key = f"AWS4{secret}".encode()
            for part in (day, self.region, self.service, "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._derived = ((secret, day), key)
        return key


def _trimmed(value: str) -> str:
    """Return *value* as the canonical request has it: single spaces, none around."""
    return value if " " not in value else " ".join(value.split())

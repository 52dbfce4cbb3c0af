"""
Signatures of messages: HMAC-SHA256 with a key that producers and workers share.

A signature covers the body's bytes and the trace attributes beside it, because those are believed
before the envelope. Where the ten attributes are taken it stands in the envelope and covers the
canonical document; the attributes are not believed then. A replayed message carries a good
signature: that its task has ended is what keeps it from running again.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tracebaton.errors import UntrustedMessage
from tracebaton.queue.event import SIGNATURE
from tracebaton.semconv import BAGGAGE, MESSAGE_SIGNATURE, TRACEPARENT, TRACESTATE

__all__ = ["SIGNATURE_LENGTH", "MessageKeys"]

#: Names the way of signing, so that another one can follow.
_VERSION = "v1="
#: Characters of every signature.
SIGNATURE_LENGTH = len(_VERSION) + 64
#: The attributes that a signature covers, in this order.
_COVERED = (TRACEPARENT, TRACESTATE, BAGGAGE)


class MessageKeys:
    """The keys of one queue: the first one signs, every one verifies, so that keys can rotate."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = tuple(key.encode() for key in keys)

    def sign(self, body: str, attributes: Mapping[str, str]) -> str:
        """Return the signature of *body* and of what *attributes* say of the trace."""
        return _signature(self._keys[0], _covered(body, attributes))

    def sign_document(self, document: Mapping[str, Any]) -> str:
        """Return the signature that goes into *document*."""
        return _signature(self._keys[0], _canonical(document))

    def check(self, body: str, attributes: Mapping[str, str], document: Any) -> bool:
        """
        Tell whether *attributes* may be believed; the document may be in any case.

        Raises:
            UntrustedMessage: The message has no signature, or a wrong one.
        """
        given = attributes.get(MESSAGE_SIGNATURE)
        if given is not None:
            self._verify(given, _covered(body, attributes))
            return True
        inside = document.get(SIGNATURE) if isinstance(document, dict) else None
        if not isinstance(inside, str):
            raise UntrustedMessage("The message is not signed.")
        self._verify(inside, _canonical(document))
        return False

    def _verify(self, given: str, content: bytes) -> None:
        said = given.encode("utf-8", "surrogatepass")
        matches = [
            hmac.compare_digest(said, _signature(key, content).encode()) for key in self._keys
        ]
        if not any(matches):
            raise UntrustedMessage("The message's signature does not match.")


def _signature(key: bytes, content: bytes) -> str:
    return _VERSION + hmac.new(key, content, hashlib.sha256).hexdigest()


def _covered(body: str, attributes: Mapping[str, str]) -> bytes:
    # JSON text has no line break of its own, so the two parts cannot run into each other.
    beside = json.dumps([[name, attributes[name]] for name in _COVERED if name in attributes])
    return f"attribute\n{beside}\n{body}".encode("utf-8", "surrogatepass")


def _canonical(document: Mapping[str, Any]) -> bytes:
    signed = {name: value for name, value in document.items() if name != SIGNATURE}
    try:
        text = json.dumps(signed, sort_keys=True, separators=(",", ":"))
    except RecursionError as exc:
        raise UntrustedMessage("The message is nested too deep to be verified.") from exc
    return f"envelope\n{text}".encode()

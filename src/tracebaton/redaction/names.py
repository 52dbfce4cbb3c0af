"""Which names say that the value is a secret. They are read by whole segments."""

import re
from functools import lru_cache
from itertools import pairwise, starmap
from typing import Final
from urllib.parse import unquote

__all__ = ["MASK", "PLAIN", "SECRET", "SECRET_NUMBER", "is_query_secret", "is_sensitive"]

#: What stands where a secret stood.
MASK: Final = "[redacted]"

#: What `sensitivity()` says of a name: nothing, a secret text, a secret that may be a number.
PLAIN, SECRET, SECRET_NUMBER = range(3)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SECRETS: Final = _words(
    "password passwords passwd passphrase pwd secret secrets token tokens authorization"
    " authorisation cookie cookies credential credentials creds jwt bearer"
)
#: Endings of names that are written as one word: ``dbpassword``, ``csrfmiddlewaretoken``.
_ENDINGS: Final = ("password", "passwd", "secret", "token", "apikey", "apikeys", "privatekey")
#: What makes a ``key`` one that opens something; an idempotency key does not.
_KEY_OF: Final = _words(
    "api private access secret signing encryption message auth ssh master session account"
    " shared service hmac"
)
#: Secrets that are numbers; everything else that is a number is a count.
_NUMBERS: Final = _words("pin otp totp cvv cvc ssn passcode")
#: Last segments of what is about a secret and is none: ids, timestamps, measures, places.
_ABOUT: Final = _words(
    "id ids at on time timestamp date expires expiry expiration in ttl age count counts length"
    " size limit type arn version status file path"
)
#: In a signed URL these open what the URL points to.
_IN_QUERY: Final = _words("signature sig")
#: Parts of a name, camelCase included.
_SEGMENT: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
#: Characters of a name that are read, from its end.
_LONGEST: Final = 256


def sensitivity(name: str) -> int:
    """Return what *name* says of its value: `PLAIN`, `SECRET` or `SECRET_NUMBER`."""
    return _sensitivity(name if len(name) <= _LONGEST else name[-_LONGEST:])


@lru_cache(maxsize=4096)
def _sensitivity(name: str) -> int:
    if name.startswith("gen_ai.usage."):
        return PLAIN
    words = _segments(name)
    if not words or words[-1] in _ABOUT:
        return PLAIN
    if words[-1] in _NUMBERS:
        return SECRET_NUMBER
    if words[-1] == "pass" or any(one in _SECRETS or one.endswith(_ENDINGS) for one in words):
        return SECRET
    return SECRET if any(starmap(_is_secret_pair, pairwise(words))) else PLAIN


def _is_secret_pair(first: str, second: str) -> bool:
    if second in {"key", "keys"}:
        return first in _KEY_OF
    return first == "input" and second == "value"  # what pydantic refused, a password as well


def _segments(name: str) -> list[str]:
    return [word.lower() for word in _SEGMENT.findall(name)]


def is_sensitive(name: str) -> bool:
    """Tell whether a value called *name* is a secret."""
    return sensitivity(name) != PLAIN


def is_query_secret(name: str) -> bool:
    """Tell whether the URL query name *name*, percent-encoded or not, has a secret value."""
    plain = unquote(name[-_LONGEST:].replace("+", " "))
    words = _segments(plain)
    return is_sensitive(plain) or bool(words and words[-1] in _IN_QUERY)

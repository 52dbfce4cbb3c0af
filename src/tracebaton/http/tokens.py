"""
JSON Web Tokens of somebody else's issuer: whose word counts, for whom, and by which keys.

The algorithms are the settings' and never the token's own choice (RFC 8725, 3.1). Keys come from a
JWKS file, read again when it changes, or from a URL, asked again when it is old or when a token
names a key that is not there yet; while the URL is away the keys that were there go on counting.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from tracebaton.errors import ConfigurationError, DependencyError, Unauthenticated
from tracebaton.semconv import EVENT_JWKS_UNREADABLE
from tracebaton.settings import Settings

__all__ = ["Tokens", "tokens"]

#: Seconds after which a URL is asked again.
_FRESH: Final = 300.0
#: Seconds between two questions because of a key that is not there: anybody can make up its name.
_PAUSE: Final = 10.0
_TIMEOUT: Final = 5.0
#: Bytes of a key set; real ones have a few thousand.
_LIMIT: Final = 256 * 1024
#: Characters of a user id.
_USER: Final = 256

_log = logging.getLogger("tracebaton.http")

Jwk = Mapping[str, Any]


class _Source(Protocol):
    """Where the keys are."""

    async def keys(self, kid: str | None) -> list[Jwk]:
        """Return the keys called *kid*, all of them without one."""
        ...


class Tokens:
    """Says whom a token is about, if it is a good one."""

    def __init__(
        self,
        source: _Source,
        *,
        issuer: str,
        audience: str,
        algorithms: Iterable[str],
        leeway: float,
        user_claim: str,
    ) -> None:
        self._source = source
        self._algorithms = sorted(algorithms)
        self._checks: dict[str, Any] = {"issuer": issuer, "audience": audience, "leeway": leeway}
        self._options: Any = {"require": ["exp", "iss", "aud", user_claim]}
        self._user_claim = user_claim

    async def user_of(self, token: str) -> str:
        """
        Return the user that *token* names.

        Raises:
            Unauthenticated: It is malformed, expired, not ours, or signed by nobody we know.
            DependencyError: The issuer's keys cannot be had.
        """
        import jwt

        try:
            header = jwt.get_unverified_header(token)
            key = await self._key(header.get("kid"), header.get("alg"))
            claims = jwt.decode(
                token, key, algorithms=self._algorithms, options=self._options, **self._checks
            )
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as exc:
            raise _refused() from exc
        user_id = claims[self._user_claim]
        if not isinstance(user_id, str) or not 0 < len(user_id) <= _USER:
            raise _refused()
        if not user_id.isprintable():
            raise _refused()
        return user_id

    async def _key(self, kid: Any, algorithm: Any) -> Any:
        import jwt

        if algorithm not in self._algorithms or not isinstance(kid, str | None):
            raise _refused()
        found = [
            key
            for key in await self._source.keys(kid)
            if key.get("alg", algorithm) == algorithm and key.get("use", "sig") == "sig"
        ]
        if len(found) != 1:  # without a name it has to be the only one
            raise _refused()
        return jwt.PyJWK(dict(found[0]), algorithm=algorithm)


def tokens(settings: Settings) -> Tokens:
    """
    Return what checks the tokens that *settings* describe.

    Raises:
        ConfigurationError: PyJWT is not installed, or the key file is none.
    """
    try:
        import jwt  # noqa: F401
    except ImportError as exc:
        raise ConfigurationError(
            "TRACEBATON_AUTH: jwt needs PyJWT; install tracebaton[jwt]"
        ) from exc
    where = settings.jwt_jwks or ""
    return Tokens(
        _Url(where) if where.startswith(("http://", "https://")) else _File(Path(where)),
        issuer=settings.jwt_issuer or "",
        audience=settings.jwt_audience or "",
        algorithms=settings.jwt_algorithms,
        leeway=settings.jwt_leeway_seconds,
        user_claim=settings.jwt_user_claim,
    )


class _File:
    """A key set in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._keys: list[Jwk] = []
        try:
            self._read()
        except (OSError, ValueError) as exc:
            raise ConfigurationError(
                f"TRACEBATON_JWT_JWKS: {path} is not a JSON Web Key Set ({type(exc).__name__})"
            ) from None

    async def keys(self, kid: str | None) -> list[Jwk]:
        try:
            self._read()
        except (OSError, ValueError) as exc:  # what was there goes on counting
            _unreadable(exc)
        return _named(self._keys, kid)

    def _read(self) -> None:
        status = self._path.stat()
        stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
        if stamp != self._stamp:
            self._stamp = stamp  # first: a file that cannot be read is said once
            self._keys = _parsed(self._path.read_bytes())


class _Url:
    """A key set that its issuer serves."""

    def __init__(self, url: str, *, now: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._now = now
        self._keys: list[Jwk] | None = None
        self._asked = -_FRESH
        self._asking: asyncio.Task[None] | None = None

    async def keys(self, kid: str | None) -> list[Jwk]:
        age = self._now() - self._asked
        if self._keys is None or age >= _FRESH or (not self._known(kid) and age >= _PAUSE):
            await self._refreshed()
        if self._keys is None:
            raise DependencyError("The keys of the token's issuer cannot be had. Try again.")
        return _named(self._keys, kid)

    def _known(self, kid: str | None) -> bool:
        return kid is None or bool(_named(self._keys or [], kid))

    async def _refreshed(self) -> None:
        """Ask the URL, once for all who wait; a request that is cancelled stops no other."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._refresh())
        await asyncio.shield(self._asking)

    async def _refresh(self) -> None:
        import httpx  # 4 MB that few processes need

        try:
            self._keys = _parsed(await self._fetched())
        except (httpx.HTTPError, ValueError) as exc:
            _unreadable(exc)
        self._asked = self._now()

    async def _fetched(self) -> bytes:
        import httpx

        client = httpx.AsyncClient(timeout=_TIMEOUT)
        async with client, client.stream("GET", self._url) as answer:
            answer.raise_for_status()
            parts, size = [], 0
            async for part in answer.aiter_bytes():
                size += len(part)
                if size > _LIMIT:
                    raise ValueError("the key set is too large")
                parts.append(part)
        return b"".join(parts)


def _parsed(text: bytes) -> list[Jwk]:
    document = json.loads(text)
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list):
        raise ValueError("no keys")
    # A shared secret is no public key: whoever can read the set could sign with it.
    return [key for key in keys if isinstance(key, dict) and key.get("kty") != "oct"]


def _named(keys: list[Jwk], kid: str | None) -> list[Jwk]:
    return keys if kid is None else [key for key in keys if key.get("kid") == kid]


def _unreadable(exc: Exception) -> None:
    _log.error(EVENT_JWKS_UNREADABLE, extra={"fields": {"reason": f"{type(exc).__name__}: {exc}"}})


def _refused() -> Unauthenticated:
    return Unauthenticated(
        "The token is not valid here. Send one of this service's issuer that has not expired.",
        headers={"www-authenticate": 'Bearer error="invalid_token"'},
    )

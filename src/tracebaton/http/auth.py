"""
Who is asking: the owner of an API key or of a token, or nobody on an address that no foreign page
can reach; and how much he may ask.
"""

from collections.abc import Iterable, Mapping
from typing import Final, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tracebaton.context import authenticate
from tracebaton.errors import Forbidden, Unauthenticated
from tracebaton.http.exchange import exchange_in
from tracebaton.http.keys import KeyFile
from tracebaton.http.limits import RateLimit
from tracebaton.http.tokens import Tokens, tokens
from tracebaton.semconv import PROBE_PATHS, USER_ID, X_API_KEY
from tracebaton.settings import Settings
from tracebaton.viewer.guard import is_loopback_host, is_loopback_origin

__all__ = ["AuthLayer", "Authenticated", "Authenticator", "authenticator"]

Headers = Iterable[tuple[bytes, bytes]]

#: What may be read without credentials: how to use the service, and nothing that is in it.
OPEN_PATHS: Final = frozenset({"/openapi.json", "/docs", "/docs/docs.css"})
_AUTHORIZATION, _API_KEY = b"authorization", X_API_KEY.encode()
#: Methods that change nothing, which no limit is for.
_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class Authenticator(Protocol):
    """Tells whom a request is from."""

    async def user_of(self, headers: Headers) -> str | None:
        """
        Return the user id, None where nobody has to say who he is.

        Raises:
            Unauthenticated: No valid credentials.
            Forbidden: The request came from where it may not.
        """
        ...


class Authenticated(Protocol):
    """An application that has an authenticator, by the time of its first request."""

    @property
    def authenticator(self) -> Authenticator:
        """Return who tells whom a request is from."""
        ...

    @property
    def limits(self) -> RateLimit:
        """Return how much one user, or one address, may ask."""
        ...


def authenticator(settings: Settings) -> Authenticator:
    """
    Return the one that ``TRACEBATON_AUTH`` names.

    Raises:
        ConfigurationError: The key file is missing or is none, or PyJWT is missing.
    """
    if settings.auth == "jwt":
        return _Jwt(tokens(settings))
    if settings.auth == "api-key" and settings.api_keys_file is not None:
        return _ApiKeys(KeyFile(settings.api_keys_file))
    return _Loopback()


class AuthLayer:
    """Refuses who may not ask, and tells the store and the span who may."""

    def __init__(self, app: ASGIApp, *, service: Authenticated) -> None:
        """Stand around *app* and ask the authenticator of *service*, request by request."""
        self.app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or raise what the caller did wrong."""
        if scope["type"] == "lifespan" or (exchange := exchange_in(scope)).below in PROBE_PATHS:
            await self.app(scope, receive, send)
            return
        user_id = await self._user_of(scope)
        if user_id is not None:
            authenticate(user_id)
            exchange.span.set_attribute(USER_ID, user_id)
        if scope.get("method", "GET") in _READS:
            await self.app(scope, receive, send)
            return
        who = _address_of(scope) if user_id is None else f"user {user_id}"
        allowance = self._service.limits.take(who)
        if allowance is not None:
            allowance.check()
            send = _with_headers(send, allowance.headers)
        await self.app(scope, receive, send)

    async def _user_of(self, scope: Scope) -> str | None:
        try:
            return await self._service.authenticator.user_of(scope["headers"])
        except Unauthenticated:
            if exchange_in(scope).below in OPEN_PATHS:
                return None
            # Good credentials pass whatever else comes from their address.
            allowance = self._service.limits.take(_address_of(scope))
            if allowance is not None:
                allowance.check()
            raise


class _Loopback:
    """
    Everyone on this machine, and no web page of somebody else's.

    A page may resolve its own name to 127.0.0.1 and post here (DNS rebinding), hence the check of
    ``Host``; a plain cross-site form post shows itself by its ``Origin``.
    """

    async def user_of(self, headers: Headers) -> str | None:
        pairs = list(headers)
        hosts, origins = _values(pairs, "host"), _values(pairs, "origin")
        if len(hosts) != 1 or not is_loopback_host(hosts[0]):
            raise Forbidden("Without authentication only requests to localhost are answered.")
        if not all(is_loopback_origin(origin) for origin in origins):
            raise Forbidden("Without authentication no other site may send requests here.")
        return None


class _Jwt:
    """A token of the issuer that the settings name."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def user_of(self, headers: Headers) -> str | None:
        presented = {
            token for value in _values(headers, "authorization") if (token := _bearer(value))
        }
        if len(presented) != 1:
            raise Unauthenticated(
                "No valid credentials were sent. Send one bearer token with the request.",
                headers={"www-authenticate": "Bearer"},
            )
        return await self._tokens.user_of(presented.pop())


class _ApiKeys:
    """A bearer token, or an ``X-API-Key`` header."""

    def __init__(self, keys: KeyFile) -> None:
        self._keys = keys

    async def user_of(self, headers: Headers) -> str | None:
        # Whoever sends several different credentials has to choose one.
        presented = {key for key in map(_shown, headers) if key}
        user_id = self._keys.user_of(presented.pop()) if len(presented) == 1 else None
        if user_id is None:
            raise Unauthenticated(headers={"www-authenticate": "Bearer"})
        return user_id


def _address_of(scope: Scope) -> str:
    client = scope.get("client")
    return f"address {client[0] if client else None}"


def _with_headers(send: Send, headers: Mapping[str, str]) -> Send:
    added = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def adding(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await send(message)

    return adding


def _shown(header: tuple[bytes, bytes]) -> str | None:
    """Return the key that *header* shows, None where it is another header."""
    name = header[0].lower()
    if name == _AUTHORIZATION:
        return _bearer(header[1].decode("latin-1"))
    return header[1].decode("latin-1") if name == _API_KEY else None


def _bearer(value: str) -> str | None:
    scheme, _, token = value.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _values(headers: Headers, name: str) -> list[str]:
    wanted = name.encode()
    return [value.decode("latin-1") for key, value in headers if key.lower() == wanted]

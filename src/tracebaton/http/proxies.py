"""
Whose address a request came from, where proxies of ours stand in front.

``X-Forwarded-For`` is a list that anybody can begin: only what our own proxies added to its end is
believed, so it is read from the right, up to the first address that is no proxy.
"""

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["Proxies", "ProxyLayer"]

_SCHEMES = {"http": "ws", "https": "wss"}


class Proxies:
    """The proxies that are believed, by address or network."""

    def __init__(self, trusted: Iterable[str] = ()) -> None:
        self._networks = [ip_network(one, strict=False) for one in trusted]

    def __bool__(self) -> bool:
        """Tell whether there is any."""
        return bool(self._networks)

    def trusts(self, host: str) -> bool:
        """Tell whether *host* is one of them."""
        address = _address(host)
        return address is not None and any(address in network for network in self._networks)

    def client_of(self, peer: str, forwarded: Iterable[str]) -> str:
        """Return whom *peer* speaks for, by the ``X-Forwarded-For`` lines it sent."""
        client = peer
        hops = [hop.strip() for line in forwarded for hop in line.split(",")]
        for hop in reversed(hops):
            if not self.trusts(client):
                break
            address = _address(hop)
            if address is None:  # nobody's word about an address that is none
                break
            client = str(address)
        return client


class ProxyLayer:
    """Writes into the scope who sent the request to our first proxy, and how."""

    def __init__(self, app: ASGIApp, *, proxies: Callable[[], Proxies]) -> None:
        """Stand around *app*; *proxies* is asked at each request."""
        self.app = app
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] in ("http", "websocket") and scope.get("client"):
            proxies, peer = self._proxies(), scope["client"][0]
            if proxies and proxies.trusts(peer):
                scope = {**scope, **_forwarded(proxies, scope)}
        await self.app(scope, receive, send)


def _forwarded(proxies: Proxies, scope: Scope) -> dict[str, Any]:
    peer, port = scope["client"]
    client = proxies.client_of(peer, _values(scope, b"x-forwarded-for"))
    found: dict[str, Any] = {"client": (client, port if client == peer else 0)}
    said = [
        part.strip().lower()
        for line in _values(scope, b"x-forwarded-proto")
        for part in line.split(",")
    ]
    if said and said[-1] in _SCHEMES:
        websocket = scope["type"] == "websocket"
        found["scheme"] = _SCHEMES[said[-1]] if websocket else said[-1]
    return found


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """Return the address in *text*, which may name a port and stand in brackets."""
    host = text.strip()
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        address = ip_address(host)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address

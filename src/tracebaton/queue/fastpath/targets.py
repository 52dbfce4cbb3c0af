"""
Where the URLs of requests lead, each with its kept connections.
"""

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tracebaton.queue.fastpath.connections import Connections, Limits
from tracebaton.queue.fastpath.exchanges import Exchanges
from tracebaton.queue.fastpath.plain import tls_context, verify_of

__all__ = ["Target", "Targets"]

#: A path that is quoted and normal as it stands; SQS's is ``/``.
_PATH = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*/?")


@dataclass(frozen=True, slots=True)
class Target:
    """
    Where a URL leads.

    Attributes:
        host: As the ``Host`` header names it.
        connections: For a thread that waits.
        exchanges: For the event loop.
    """

    url: str
    host: str
    path: str
    connections: Connections
    exchanges: Exchanges


class Targets:
    """Where one client's requests lead; in practice, its one endpoint."""

    def __init__(self, client: Any) -> None:
        """Read from *client*, which is plain, how it connects."""
        config = client.meta.config
        self._verify = verify_of(client)
        self._limits = Limits(
            connect_timeout=config.connect_timeout,
            read_timeout=config.read_timeout,
            kept=config.max_pool_connections,
            keepalive=bool(config.tcp_keepalive),
        )
        self._known: dict[str, Target | None] = {}

    def of(self, url: str) -> Target | None:
        """Return where *url* leads, None where that is for botocore to find out."""
        if url not in self._known:
            self._known[url] = self._found(url)
        return self._known[url]

    def close(self) -> None:
        """Close the idle connections."""
        for target in self._known.values():
            if target is not None:
                target.connections.close()
                target.exchanges.close()

    def _found(self, url: str) -> Target | None:
        parts = urlsplit(url)
        path, secure = parts.path or "/", parts.scheme == "https"
        if parts.query or parts.username or not parts.hostname or not _PATH.fullmatch(path):
            return None
        try:
            tls = tls_context(self._verify) if secure else None
        except OSError:  # the CA bundle cannot be read: botocore says it in its own words
            return None
        default = 443 if secure else 80
        port = parts.port or default
        name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        address = (parts.hostname, port)
        return Target(
            url=url,
            host=name if port == default else f"{name}:{port}",
            path=path,
            connections=Connections(url, address, limits=self._limits, tls=tls),
            exchanges=Exchanges(url, address, limits=self._limits, tls=tls),
        )

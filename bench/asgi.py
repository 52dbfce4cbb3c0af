"""
One request to an ASGI app without a server, for what is measured in one process.
"""

from collections.abc import Iterable
from typing import Any

__all__ = ["answered", "scope"]

Header = tuple[bytes, bytes]


def scope(method: str, path: str, headers: Iterable[Header]) -> dict[str, Any]:
    """Return what uvicorn makes of a load generator's request, fresh: an app writes into it."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50000),
        "scheme": "http",
        "method": method,
        "root_path": "",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), (b"user-agent", b"load"), *headers],
        "state": {},
    }


async def answered(app: Any, asked: dict[str, Any], body: bytes, *, status: int) -> None:
    """Let *app* answer the request *asked* with *body*; another *status* ends the program."""
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if "status" in message:
            statuses.append(message["status"])

    await app(asked, receive, send)
    if statuses != [status]:
        raise SystemExit(f"answered {statuses}")

"""
Listen to many tasks at once: ``python listening.py STORE``, with what `served.py` said on stdin.

A task has one listener. When all of them listen, each task is cancelled by another process, as a
worker would end it, and the time counts until its listener has heard of it.
"""

import asyncio
import json
import sys
import time
from pathlib import Path

from tracebaton.tasks.sqlite import SqliteTaskStore


class Listener(asyncio.Protocol):
    """One event stream, which tells when its first event and its end are here."""

    def __init__(self, path: str, key: str) -> None:
        loop = asyncio.get_running_loop()
        self._request = (
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n\r\n"
        ).encode()
        self._data = b""
        self.begun: asyncio.Future[float] = loop.create_future()
        self.ended: asyncio.Future[float] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self.begun.done() and b"id: 1\n" in self._data:
            self.begun.set_result(time.perf_counter())
        if not self.ended.done() and b'"status":"cancelled"' in self._data:
            self.ended.set_result(time.perf_counter())

    def connection_lost(self, exc: Exception | None) -> None:
        for future in (self.begun, self.ended):
            if not future.done():
                future.set_exception(ConnectionError(self._data[:300]))


async def listened(port: int, key: str, ids: list[str], store: Path) -> None:
    """Listen, cancel, and tell in between and at the end."""
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    listeners: list[Listener] = []
    for one in ids:
        path = f"/v1/tasks/{one}/events"
        _, listener = await loop.create_connection(
            lambda path=path: Listener(path, key), "127.0.0.1", port
        )
        listeners.append(listener)
    for listener in listeners:
        await listener.begun
    opened = time.perf_counter() - began
    print(json.dumps({"opened_s": opened}), flush=True)
    sys.stdin.readline()
    tasks = SqliteTaskStore(store)
    done: list[float] = []
    for one in ids:
        await tasks.cancel(one)
        done.append(time.perf_counter())
    heard = [await listener.ended for listener in listeners]
    late = sorted(one - then for one, then in zip(heard, done, strict=True))
    await tasks.close()
    told = {"heard_p50_ms": late[len(late) // 2] * 1e3, "heard_max_ms": late[-1] * 1e3}
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    given = json.loads(sys.stdin.readline())
    asyncio.run(listened(given["port"], given["key"], given["ids"], Path(sys.argv[1])))
